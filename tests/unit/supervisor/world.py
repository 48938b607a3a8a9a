"""Jobs' world in memory, on a test clock: a platform, an agent and a store that obey the test."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from cumulus_wire.journal import Kind, encode, encode_json
from cumulusd.errors import Conflict, CumulusError, NotFound
from cumulusd.jobs.intake import Intake
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import Grant, JobRecord, JobSpec, Phase, Placement, units_for_fraction
from cumulusd.jobs.output_pull import OutputPull
from cumulusd.jobs.outputs import Outputs
from cumulusd.jobs.ports import (
    AgentView,
    Container,
    ContainerSpec,
    Device,
    Disagreement,
    Holding,
    Inventory,
    Kept,
    Node,
    Released,
)
from cumulusd.jobs.progress import ProgressBoard
from cumulusd.jobs.secret_values import SecretValues
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.table import JobTable
from cumulusd.jobs.watcher import Watcher
from cumulusd.tasks import waiting_for

_T = TypeVar("_T")
UNITS = 10_000
#: Where the test clock begins, and the time in every frame.
BEGIN_S = 1_800_000_000.0
BEGIN_US = int(BEGIN_S * 1e6)


class MemoryStore:
    """Saves at once, when `gate` opens if there is one, or fails while `broken` says so."""

    def __init__(self, history: list[str]) -> None:
        self.history = history
        self.saved: dict[str, JobRecord] = {}
        self.broken: CumulusError | None = None
        self.gate: Deferred[None] | None = None

    async def save(self, record: JobRecord) -> None:
        if self.gate is not None:
            await self.gate
        if self.broken is not None:
            raise self.broken
        self.saved[record.job_id] = record
        self.history.append(f"save {record.job_id} {record.phase}")


_GONE = Container(job_id="", attempt=0, node_id=None, alive=False, exit_code=None, message="")


class MemoryPlatform:
    name = "memory"

    def __init__(self, history: list[str]) -> None:
        self.history = history
        self.pool = [
            Node(
                node_id="n1",
                hostname="one",
                state="ready",
                availability="active",
                is_worker=True,
            )
        ]
        self.running: dict[str, Container] = {}
        self.foreseen = 0  #: launches
        self.launch_error: CumulusError | None = None
        self.stop_ends = True
        self.remove_error: CumulusError | None = None
        self.silence: Deferred[None] | None = None
        self.differences: list[Disagreement] = []
        self.asked_about: Mapping[str, Sequence[Holding]] = {}

    async def disagreements(self, held: Mapping[str, Sequence[Holding]]) -> Sequence[Disagreement]:
        self.asked_about = held
        return self.differences

    async def nodes(self) -> Sequence[Node]:
        if self.silence is not None:
            await self.silence
        return self.pool

    def foresee_launch(self) -> None:
        self.foreseen += 1

    async def launch(self, spec: ContainerSpec) -> None:
        if self.launch_error is not None:
            raise self.launch_error
        assert not self.running.get(spec.job_id, _GONE).alive, "two attempts at once"
        self.history.append(f"launch {spec.job_id}")
        self.running[spec.job_id] = Container(
            job_id=spec.job_id,
            attempt=spec.attempt,
            node_id=spec.node_id,
            alive=True,
            exit_code=None,
            message="",
        )

    async def containers(self) -> Mapping[str, Container]:
        if self.silence is not None:
            await self.silence
        return dict(self.running)

    async def container(self, job_id: str, attempt: int) -> Container | None:
        found = (await self.containers()).get(job_id)
        return found if found is not None and found.attempt == attempt else None

    async def all_containers(self) -> Sequence[Container]:
        return list((await self.containers()).values())

    async def stop(self, job_id: str, attempt: int) -> None:
        self.history.append(f"stop {job_id}")
        if self.stop_ends:
            self.die(job_id, 143)

    async def remove(self, job_id: str, attempt: int) -> None:
        if self.remove_error is not None:
            raise self.remove_error
        self.history.append(f"remove {job_id}")
        self.running.pop(job_id, None)

    async def remove_ended(self, job_id: str, attempt: int) -> bool:
        container = await self.container(job_id, attempt)
        if container is not None and container.alive:
            return False
        await self.remove(job_id, attempt)
        return True

    async def explain(self, job_id: str, attempt: int) -> str:
        return "the container's own words"

    def die(self, job_id: str, exit_code: int) -> None:
        container = self.running.get(job_id)
        if container is not None:
            self.running[job_id] = attrs.evolve(container, alive=False, exit_code=exit_code)


class MemoryWorkers:
    """One agent with one device. `error` is raised by every call while it is set."""

    def __init__(self, history: list[str], platform: MemoryPlatform) -> None:
        self.history = history
        self.platform = platform
        self.error: CumulusError | None = None
        self.prepare_error: CumulusError | None = None
        self.stop_error: CumulusError | None = None
        self.bug: Exception | None = None
        self.partitions: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.journal_ends: dict[str, int] = {}
        self.locks_held: set[str] = set()
        self.python_version: str | None = None
        self.kept: dict[str, Kept] = {}
        self.paused: list[tuple[str, bool]] = []
        self.runner_obeys = True
        self.present = True
        self.stopped: list[tuple[str, str]] = []
        self.watchers: list[Callable[[str], None]] = []

    def agents(self) -> Mapping[str, AgentView]:
        if not self.present:
            return {}
        device = Device(
            device_id="d0",
            index=0,
            name="GPU",
            kind="gpu",
            memory_bytes=1 << 30,
            units_total=UNITS,
            units_free=UNITS - sum(self.partitions.values()),
            tier="advisory",
        )
        view = AgentView(
            node_id="n1", hostname="one", devices=(device,), python_version=self.python_version
        )
        return {"n1": view}

    def watch(self, changed: Callable[[str], None]) -> None:
        self.watchers.append(changed)

    def changed(self) -> None:
        for watcher in self.watchers:
            watcher("n1")

    async def prepare(self, record: JobRecord, placement: Placement) -> Grant:
        if self.error or self.prepare_error:
            raise self.error or self.prepare_error  # type: ignore[misc]
        older = self.attempts.get(record.job_id)
        if older is not None and older != record.attempt:
            raise Conflict("another attempt has its folder here", details={"attempt": older})
        if record.needs_kept and record.job_id not in self.kept:
            raise NotFound("nothing of it is here", details={"checkpoint_lost": True})
        self.history.append(f"prepare {record.job_id}")
        self.partitions[record.job_id] = record.spec.units
        self.attempts[record.job_id] = record.attempt
        self.journal_ends.setdefault(record.job_id, record.journal_start)
        return Grant(
            partition_id=f"p-{record.job_id}",
            device_id=placement.device_id,
            device_name="GPU",
            device_index=0,
            units=record.spec.units,
            gpu_memory_bytes=1,
            tier="advisory",
            tier_note="booked",
            folder=f"/jobs/{record.job_id}",
            lifetime_s=record.spec.setup_timeout_s + record.spec.duration_s + 100.0,
        )

    async def release(
        self, node_id: str, job_id: str, attempt: int, *, keep: bool = False
    ) -> Released:
        if self.error or self.bug:
            raise self.error or self.bug  # type: ignore[misc]
        if self.attempts.get(job_id, attempt) != attempt:
            return Released(done=True, kept=self.kept.get(job_id))
        if job_id in self.locks_held:
            return Released(done=False)
        self.history.append(f"release {job_id}")
        if not keep:
            self.kept.pop(job_id, None)
        self.partitions.pop(job_id, None)
        self.attempts.pop(job_id, None)
        self.journal_ends.pop(job_id, None)
        self.changed()
        return Released(done=True, kept=self.kept.get(job_id))

    async def stop_job(
        self, node_id: str, job_id: str, attempt: int, reason: str, grace_s: float
    ) -> bool:
        if self.error or self.stop_error:
            raise self.error or self.stop_error  # type: ignore[misc]
        self.stopped.append((job_id, reason))
        return self.runner_obeys

    async def pause_job(self, node_id: str, job_id: str, attempt: int, wanted: bool) -> bool:
        if self.error:
            raise self.error
        self.paused.append((job_id, wanted))
        return self.runner_obeys

    async def folder(self, node_id: str, job_id: str, attempt: int) -> tuple[int, bool]:
        if self.error:
            raise self.error
        if job_id not in self.partitions or self.attempts.get(job_id, attempt) != attempt:
            raise NotFound("no such folder")
        container = self.platform.running.get(job_id)
        alive = container is not None and container.alive
        return self.journal_ends.get(job_id, 0), not alive and job_id not in self.locks_held

    async def inventory(self, node_id: str) -> Inventory:
        return Inventory(
            jobs={(job, self.attempts.get(job, 1)) for job in self.partitions},
            holdings=tuple(
                Holding(
                    node_id=node_id,
                    job_id=job,
                    attempt=self.attempts.get(job, 1),
                    device_index=0,
                    units=units,
                )
                for job, units in self.partitions.items()
            ),
            kept=frozenset(self.kept),
        )


class MemoryFiles:
    """The outputs on the only agent, answered at once, or when `gate` opens."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], bytes] = {}
        self.error: CumulusError | None = None
        self.gate: Deferred[None] | None = None
        self.asked: list[tuple[str, int, int]] = []

    def fetch(
        self, node_id: str, job_id: str, attempt: int, name: str, offset: int, length: int
    ) -> Deferred[tuple[bytes, int]]:
        self.asked.append((name, offset, length))
        return Deferred.fromCoroutine(self._answer(job_id, name, offset, length))

    async def _answer(self, job_id: str, name: str, offset: int, length: int) -> tuple[bytes, int]:
        if self.gate is not None:
            await waiting_for(self.gate)
        if self.error is not None:
            raise self.error
        data = self.held.get((job_id, name))
        if data is None:
            raise NotFound(f"output {name} is gone")
        return data[offset : offset + length], len(data)


def run_at_once(function: Callable[[], _T]) -> Awaitable[_T]:
    """A RunInThread without a thread."""
    result: Deferred[_T] = succeed(function())
    return result


class World:
    """The real supervisor, scheduler, intake, journals and watcher around the pieces above."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(BEGIN_S)
        self.history: list[str] = []
        self.store = MemoryStore(self.history)
        self.platform = MemoryPlatform(self.history)
        self.workers = MemoryWorkers(self.history, self.platform)
        self.settings = settings or Settings()
        self.table = JobTable()
        self.acknowledged: list[tuple[str, int]] = []
        self.journals = Journals(
            folder / "journals",
            clock=self.clock,
            run_in_thread=run_at_once,
            cap_bytes=1 << 20,
            segment_bytes=1 << 16,
            on_durable=lambda job_id, offset: self.acknowledged.append((job_id, offset)),
        )
        self.tails = LogTails()
        self.files = MemoryFiles()
        self.outputs = Outputs(folder / "outputs", run_in_thread=run_at_once)
        self.no_room: str | None = None
        self.progress = ProgressBoard(self.clock, lambda job_id: None)
        self.secrets = SecretValues(folder / "secrets", run_at_once)
        self.supervisor = Supervisor(
            table=self.table,
            store=self.store,  # type: ignore[arg-type]
            journals=self.journals,
            tails=self.tails,
            platform=self.platform,
            workers=self.workers,
            clock=self.clock,
            wall_clock=self.clock.seconds,
            settings=self.settings,
            is_storing=lambda job_id: self.intake.is_storing(job_id),
            secrets=self.secrets,
        )
        self.intake = Intake(
            table=self.table,
            journals=self.journals,
            packages=None,  # type: ignore[arg-type]
            tails=self.tails,
            clock=self.clock,
            tell=self.supervisor.tell,
            named=self.supervisor.placing.named,
            nudge=self.supervisor.nudge,
            acknowledge=lambda job_id, offset: self.acknowledged.append((job_id, offset)),
            pull=OutputPull(
                outputs=self.outputs,
                source=self.files.fetch,
                clock=self.clock,
                run_in_thread=run_at_once,
                agent_grace_s=self.settings.agent_grace_s,
                max_bytes=1 << 30,
                no_room=lambda size_bytes: self.no_room,
            ),
            progress=self.progress.feed,
        )
        self.watcher = Watcher(
            table=self.table,
            journals=self.journals,
            platform=self.platform,
            workers=self.workers,
            clock=self.clock,
            settings=self.settings,
            tell=self.supervisor.tell,
            named=self.supervisor.placing.named,
        )

    async def start(self, records: Sequence[JobRecord] = ()) -> None:
        await self.supervisor.placing.refresh()
        self.supervisor.resume(records)
        for record in records:
            if record.phase is not Phase.ENDED:
                self.intake.resume(record)
        self.watcher.start()
        self.pass_time(0)

    async def stop(self) -> None:
        await self.watcher.stop()
        await self.supervisor.stop()
        await self.intake.stop()
        await self.journals.stop()
        self.progress.stop()
        assert not self.clock.getDelayedCalls()

    def pass_time(self, seconds: float, step: float = 0.05) -> None:
        """Lets that much time pass, in small steps."""
        self.clock.advance(0)
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
        self.clock.advance(0)

    def record(self, job_id: str) -> JobRecord:
        """As its readers see it."""
        record = self.table.get(job_id)
        assert record is not None
        return self.supervisor.placing.explained(record)

    async def submit(self, job_id: str, share: float = 0.6, **spec: Any) -> None:
        await self.supervisor.submit(new_record(job_id, self.clock.seconds(), share, **spec))
        self.pass_time(0)

    def says(self, job_id: str, *frames: bytes) -> bool:
        """The runner appends these frames, and the agent sends them at once."""
        data = b"".join(frames)
        start = self.workers.journal_ends.get(job_id, 0)
        self.workers.journal_ends[job_id] = start + len(data)
        taken = self.intake.received("n1", job_id, self.record(job_id).attempt, start, data)
        self.pass_time(0)
        return taken


def new_record(job_id: str, now: float, share: float = 0.6, **spec: Any) -> JobRecord:
    return JobRecord(
        job_id=job_id,
        owner=spec.pop("owner", "ann"),
        spec=JobSpec(
            package_sha256="0" * 64,
            package_size_bytes=1,
            gpu_memory=share,
            duration_s=spec.pop("duration_s", 60.0),
            **spec,
        ),
        phase=Phase.QUEUED,
        created_at=now,
    )


assert units_for_fraction(1.0) == UNITS
SETUP = encode_json(Kind.STATUS, {"phase": "setup"}, BEGIN_US)
RUNNING = encode_json(Kind.STATUS, {"phase": "running", "cached": False}, BEGIN_US)


def exit_frame(outcome: str = "completed", **fields: Any) -> bytes:
    exit_record = {"outcome": outcome, "reason": None, "message": "", **fields}
    return encode_json(Kind.EXIT, exit_record, BEGIN_US)


def output(text: str) -> bytes:
    return encode(Kind.STDOUT, text.encode(), BEGIN_US)
