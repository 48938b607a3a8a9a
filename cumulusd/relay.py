"""The use cases: what a client may ask of the daemon, whichever door it comes through.

Handlers of WAMP procedures and HTTP routes decode, call this, encode; they decide nothing.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs
from twisted.logger import Logger

from cumulusd import __version__, stored_outputs
from cumulusd.errors import CumulusError, NotFound, TooLarge
from cumulusd.following import Following, Sink
from cumulusd.identity import Principal, Role
from cumulusd.job_search import Search
from cumulusd.jobs.incoming import Incoming
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import JobRecord, OutputInfo, ResultInfo
from cumulusd.jobs.outputs import Outputs
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.ports import Clock, Disagreement
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.table import JobTable
from cumulusd.lifecycle import Lifecycle
from cumulusd.listings import Listings
from cumulusd.log_text import printed
from cumulusd.stored_results import result_info, stored_result
from cumulusd.submissions import Submissions, SubmitLimits
from cumulusd.views import add_partitions, job_view, worker_views

#: A result that a caller without progressive results may get in one message.
RESULT_AT_ONCE_BYTES = 1024 * 1024
PACKAGE_CHUNK_BYTES = 512 * 1024


class Parts(Protocol):
    """How the daemon's parts are: part -> "ok" or what is wrong."""

    def __call__(self) -> dict[str, str]: ...


class Relay:
    """Submit, follow, cancel, look: over the jobs, for a principal."""

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        journals: Journals,
        packages: Packages,
        outputs: Outputs,
        supervisor: Supervisor,
        parts: Parts,
        clock: Clock,
        wall_clock: Callable[[], float],
        limits: SubmitLimits,
        platform_name: str,
        forget: Callable[[str], Awaitable[None]],
        refused: Callable[[str], None] = lambda code: None,
        no_room: Callable[[], CumulusError | None] = lambda: None,
        disagreements: Callable[[], Sequence[Disagreement]] = lambda: (),
        progress: Callable[[str], Mapping[str, Any] | None] = lambda job_id: None,
        image_python: Callable[[], str | None] = lambda: None,
        tails: LogTails | None = None,
        partitions: Callable[[str], Iterable[Mapping[str, Any]]] = lambda node_id: (),
        sent: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        """`refused`, `no_room` and `image_python` as of `Submissions`; `forget` as of
        `Lifecycle`; `partitions(node id)` as of `AgentWorkers`. `sent` is told of journal bytes
        that go to followers."""
        self._table = table
        self._journals = journals
        self._packages = packages
        self._outputs = outputs
        self._supervisor = supervisor
        self._parts = parts
        self._clock = clock
        self._wall_clock = wall_clock
        self._limits = limits
        self.package_max_bytes = limits.spec.package_max_bytes
        self._platform_name = platform_name
        self._disagreements = disagreements
        self._image_python = image_python
        self._progress = progress
        self._partitions = partitions
        self._listings = Listings(
            table=table,
            journals=journals,
            tails=tails or LogTails(),
            wall_clock=wall_clock,
            progress=lambda job_id: self._progress(job_id),
            explained=supervisor.placing.explained,
            in_turn=supervisor.placing.in_turn,
        )
        self._following = Following(
            table=table,
            journals=journals,
            clock=clock,
            wall_clock=wall_clock,
            readable=self._readable,
            view=self.view,
            sent=sent,
        )
        self._submissions = Submissions(
            packages=packages,
            supervisor=supervisor,
            wall_clock=wall_clock,
            limits=limits,
            refused=refused,
            no_room=no_room,
            image_python=image_python,
        )
        self._lifecycle = Lifecycle(
            table=table,
            supervisor=supervisor,
            clock=clock,
            readable=self._readable,
            forget=forget,
            max_waiting=limits.max_queued,
            max_paused_per_owner=limits.max_queued_per_owner,
        )

    def close(self) -> None:
        """From now on no job is accepted."""
        self._submissions.close()

    # -- jobs

    async def submit(
        self,
        who: Principal,
        spec_value: Any,
        *,
        code: bytes | None = None,
        only_node: str | None = None,
    ) -> dict[str, Any]:
        """The view of the new job, which is durable. Every error carries its id. `code`: the
        package, for when it isn't here. `only_node`: it runs on that node or not at all, which no
        client can ask for."""
        if code is not None and len(code) > PACKAGE_CHUNK_BYTES:
            raise TooLarge(
                f"A package that comes with its job has at most {PACKAGE_CHUNK_BYTES} bytes",
                details={"size_bytes": len(code), "max_bytes": PACKAGE_CHUNK_BYTES},
                hint="upload it with cumulus.package.put and .commit first",
            )
        record = await self._submissions.submit(who, spec_value, code=code, only_node=only_node)
        return self.view(record)

    def check_upload(self, who: Principal) -> None:
        """Raises CumulusError when a job of this principal would be refused now, whatever it is."""
        self._submissions.check_upload(who)

    def receive(self, who: Principal) -> Incoming:
        """A package whose hash isn't known, for `submit_posted`. Raises as `check_upload` does."""
        self._submissions.check_upload(who)
        return self._packages.receive(who.owner, self._submissions.check_disk)

    async def submit_posted(
        self, who: Principal, spec_value: Any, job_id: Any, faults: Sequence[Mapping[str, str]]
    ) -> dict[str, Any]:
        """As `submit`, for what HTTP brings: the submitter's own id for the job (None: ours), an
        old client's package, and `faults` that the request had already."""
        record = await self._submissions.submit(
            who, spec_value, job_id=job_id, faults=faults, posted=True
        )
        return self.view(record)

    async def follow(
        self,
        who: Principal,
        job_id: str,
        from_offset: int,
        sink: Sink,
        tail_bytes: int | None = None,
    ) -> dict[str, Any]:
        """As `Following.follow`."""
        return await self._following.follow(who, job_id, from_offset, sink, tail_bytes)

    def get(self, who: Principal, job_id: str) -> dict[str, Any]:
        """One job's view. Raises NotFound, also for somebody else's job."""
        return self.view(self._readable(who, job_id))

    def list(self, who: Principal, active: bool, limit: int) -> list[dict[str, Any]]:
        """The views of those jobs that this principal may see, newest first."""
        return self._listings.list(who, active, limit)

    def search(self, who: Principal, search: Search) -> dict[str, Any]:
        """What `cumulus.job.search` answers, as `Listings.search`."""
        return self._listings.search(who, search)

    def logs(self, who: Principal, job_id: str) -> Iterator[bytes]:
        """What is kept of the job's stdout and stderr now, in order, as bytes; a dropped range is
        told in its place. Nothing is read before it is asked for. Raises NotFound at once; later
        CumulusError, when the journal can't be read or goes.
        """
        self._readable(who, job_id)
        journal = self._journals.get(job_id)
        return iter(()) if journal is None else printed(journal, journal.end_offset)

    async def cancel(self, who: Principal, job_id: str) -> dict[str, Any]:
        """As `Lifecycle.cancel`."""
        return await self._lifecycle.cancel(who, job_id)

    async def pause(self, who: Principal, job_id: str) -> dict[str, Any]:
        """As `Lifecycle.pause`."""
        return await self._lifecycle.pause(who, job_id)

    async def resume(self, who: Principal, job_id: str) -> dict[str, Any]:
        """As `Lifecycle.resume`."""
        return await self._lifecycle.resume(who, job_id)

    def checkpoints(self, who: Principal, job_id: str) -> dict[str, Any]:
        """As `Lifecycle.checkpoints`."""
        return self._lifecycle.checkpoints(who, job_id)

    async def delete(self, who: Principal, job_id: str) -> dict[str, Any]:
        """As `Lifecycle.delete`."""
        return await self._lifecycle.delete(who, job_id)

    async def result(self, who: Principal, job_id: str, sink: Sink | None) -> dict[str, Any]:
        """The result of a completed job: in chunks to `sink`, or at once without one.

        Raises NotEnded, TooLarge, and a CumulusError with code `job_failed` for a job without.
        """
        record = self._readable(who, job_id)
        info = result_info(record, self.view)
        about = attrs.asdict(info)
        if sink is None and info.size_bytes > RESULT_AT_ONCE_BYTES:
            raise TooLarge(
                f"The result of job {job_id} has {info.size_bytes} bytes",
                job_id=job_id,
                hint="ask with receive_progress to get it in parts",
            )
        pieces = stored_result(record, info, self._journals.open(job_id))
        if sink is None:
            return {**about, "data": b"".join(pieces)}
        sent = 0
        for data in pieces:
            await sink({"offset": sent, "data": data})
            sent += len(data)
        return about

    def result_pieces(self, who: Principal, job_id: str) -> tuple[ResultInfo, Iterator[bytes]]:
        """What a completed job's result is, and its bytes, read as they are asked for.

        Raises as `result` does; the pieces raise what comes up while reading.
        """
        record = self._readable(who, job_id)
        info = result_info(record, self.view)
        return info, stored_result(record, info, self._journals.open(job_id))

    def outputs(self, who: Principal, job_id: str) -> dict[str, Any]:
        """`{outputs: [{name, size_bytes, sha256}], note}`: the files that the job left. Raises
        NotFound, NotEnded."""
        return stored_outputs.listing(self._readable(who, job_id), self._outputs)

    async def output(
        self, who: Principal, job_id: str, name: str, offset: int, sink: Sink | None
    ) -> dict[str, Any]:
        """One of them from `offset` on, as `stored_outputs.send_output`."""
        record = self._readable(who, job_id)
        return await stored_outputs.send_output(
            record, self._outputs, name, offset, sink, lambda: self._readable(who, job_id)
        )

    def output_pieces(
        self, who: Principal, job_id: str, name: str, offset: int = 0
    ) -> tuple[OutputInfo, Iterator[bytes]]:
        """The same for who asks for the bytes piece by piece, as `stored_outputs.output_pieces`."""
        record = self._readable(who, job_id)
        return stored_outputs.output_pieces(record, self._outputs, name, offset)

    # -- packages

    def package_check(self, who: Principal, sha256: str, size_bytes: int) -> dict[str, Any]:
        """Is it here, and if not, where does the upload go on? What the disk has no room for is
        refused now, before anything of it is sent."""
        if size_bytes > self._limits.spec.package_max_bytes:
            raise TooLarge(
                f"The package has {size_bytes} bytes, {self._limits.spec.package_max_bytes} may be",
                hint="leave data out of the package and fetch it inside the job",
            )
        present, _ = self._packages.check(who.owner, sha256, size_bytes)
        if not present:
            self._submissions.check_disk()
        offset = 0 if present else self._packages.uploaded(who.owner, sha256)
        return {"present": present, "offset": offset, "chunk_bytes": PACKAGE_CHUNK_BYTES}

    async def package_put(
        self, who: Principal, sha256: str, offset: int, data: bytes
    ) -> dict[str, Any]:
        """The next bytes of an upload."""
        if len(data) > PACKAGE_CHUNK_BYTES:
            raise TooLarge(f"A chunk has at most {PACKAGE_CHUNK_BYTES} bytes")
        self._submissions.check_disk()
        return {"offset": await self._packages.put(who.owner, sha256, offset, data)}

    async def package_commit(self, who: Principal, sha256: str, size_bytes: int) -> dict[str, Any]:
        """The upload is whole: its hash is checked, it is on disk."""
        await self._packages.commit(who.owner, sha256, size_bytes)
        return {"present": True}

    # -- the daemon

    def workers(self, who: Principal) -> Sequence[dict[str, Any]]:
        """All workers with their devices and free shares. Where ledger, jobs and platform
        disagree names jobs of everybody, and is told to who may see them all."""
        placing = self._supervisor.placing
        told = self._disagreements() if who.role is not Role.CLIENT else ()
        views = worker_views(placing.nodes, placing.agents(), told, self._image_python())
        add_partitions(views, self._partitions, lambda job_id: self._seen_owner(who, job_id))
        return views

    def info(self, who: Principal) -> dict[str, Any]:
        """What the old SDK's `get_server_info` gives, and some more."""
        devices = [
            {"id": device.index, "name": device.name, "type": device.kind, "worker": agent.hostname}
            for agent in self._supervisor.placing.agents().values()
            for device in agent.devices
        ]
        active = sum(self._table.counts(lambda owner: True).values())
        return {
            "server_version": __version__,
            "chronos_available": bool(devices),
            "gpu_devices": devices,
            "active_jobs": active,
            "max_concurrent_jobs": None,
            "platform": self._platform_name,
            "owner": who.owner,
            "role": who.role.value,
            "limits": {
                "max_duration_s": self._limits.spec.max_duration_s,
                "package_max_bytes": self._limits.spec.package_max_bytes,
                "max_queued": self._limits.max_queued,
                "max_queued_per_owner": self._limits.max_queued_per_owner,
            },
        }

    def health(self) -> dict[str, str]:
        """Part -> "ok" or what is wrong with it."""
        parts = self._parts()
        parts["accepting"] = "the daemon is stopping" if self._submissions.closing else "ok"
        return parts

    def owns(self, who: Principal, job_id: str) -> bool:
        """May this principal see that job?"""
        return self._seen_owner(who, job_id) is not None

    def _seen_owner(self, who: Principal, job_id: str) -> str | None:
        """Whose job that is, where this principal may see it."""
        owner = self._table.owner(job_id)
        return owner if owner is not None and who.may_see(owner) else None

    def view(self, record: JobRecord) -> dict[str, Any]:
        """The job view of docs/protocol.md."""
        job_id = record.job_id
        record = self._supervisor.placing.explained(record)
        return job_view(record, self._journals.extent(job_id), self._progress(job_id))

    def _readable(self, who: Principal, job_id: str) -> JobRecord:
        record = self._table.get(job_id)
        if record is None or not who.may_see(record.owner):
            raise NotFound(
                f"There is no job {job_id}",
                job_id=job_id,
                hint="jobs are kept for a day after their end; list_jobs() shows yours",
            )
        return record
