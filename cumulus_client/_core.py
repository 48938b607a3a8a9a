"""What a client does, as coroutines on its I/O loop; the faces only carry calls over to it."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cumulus_client._arguments import decode_result
from cumulus_client._download import download
from cumulus_client._io_future import IoFuture
from cumulus_client._job_stream import (
    MAX_FRUITLESS,
    MAX_WAITING_BYTES,
    Ended,
    JobStream,
    Journal,
)
from cumulus_client._journal_reader import (
    MAX_RESULT_BYTES,
    ResultCollector,
    result_matches,
)
from cumulus_client._submission import Submission
from cumulus_client._upload import Uploads
from cumulus_client._withdrawing import Withdrawals
from cumulus_client.connection import Connection, backoff_s
from cumulus_client.exceptions import (
    Conflict,
    ConnectionFailed,
    ConnectionLost,
    CumulusError,
    ResultError,
    ServerError,
    error_from_end,
)
from cumulus_client.packaging import Package
from cumulus_wire import uris
from cumulus_wire.states import JobState

#: How many submitted jobs are remembered as this client's own.
MAX_REMEMBERED = 100_000
#: What a caller is told who gave up before the daemon had answered.
MAYBE_ACCEPTED = (
    "the job may have been accepted; it is cancelled as soon as the daemon answers, for which "
    "close() and the end of this program wait some seconds"
)

Say = Callable[[str], None]


def connection_to(
    server_url: str | None,
    api_key: str | None,
    profile: str | None,
    *,
    api_key_name: str | None = None,
    ca_file: str | os.PathLike[str] | None = None,
) -> Connection:
    """Not opened yet; what isn't given is found as `_profiles.settings` says. Raises ValueError."""
    if server_url is not None and not isinstance(server_url, str):
        raise TypeError(f"server_url must be a str, not {type(server_url).__name__}")
    from cumulus_client._profiles import settings  # not before it is needed: imports are light

    found = settings(server_url, api_key, profile, api_key_name=api_key_name, ca_file=ca_file)
    return Connection(
        found.server_url,
        found.api_key,
        api_key_name=found.api_key_name,
        ca_file=found.ca_file,
    )


class Value:
    """A job's value, which may be None."""

    def __init__(self, value: Any) -> None:
        self.value = value


class ClientCore:
    """One connection and what is done over it. All coroutines run on one event loop."""

    def __init__(self, connection: Connection, *, allow_pickle: bool) -> None:
        self.connection = connection
        self._allow_pickle = allow_pickle
        self._submitted: dict[str, Mapping[str, str]] = {}  # job id -> aliases of its package
        self._uploads = Uploads(connection)
        self._withdrawals = Withdrawals(self.cancel)
        self._submitting: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Ends the session. Jobs go on; one whose submission was given up is taken back first."""
        await self.settle()
        await self._withdrawals.finish()
        await self.connection.close()

    # --- submitting --------------------------------------------------------------------------

    @staticmethod
    def _full(package: Package, spec: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": package.name,
            **spec,
            "package": {"sha256": package.sha256, "size_bytes": package.size_bytes},
            "python_version": "{}.{}.{}".format(*sys.version_info[:3]),
            **({} if package.needs_python is None else {"needs_python": package.needs_python}),
            # A submit whose acknowledgement was lost is repeated, and is one job.
            "idempotency_key": os.urandom(16).hex(),
        }

    async def submit(self, package: Package, spec: Mapping[str, Any], say: Say) -> str:
        """The job's id, when the daemon holds the job durably.

        Cancelling this, or no answer in time, takes the job back if it was accepted; `say` gets a
        line on that.
        """
        submission = await self._prepared(package, spec)
        submitting = asyncio.ensure_future(self._submit(submission))
        task = asyncio.current_task()
        assert task is not None
        self._submitting.add(task)
        try:
            job_id = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            self._withdrawals.of_call(submitting, say)
            raise
        except ConnectionFailed as error:
            self._withdrawals.of_stream(self._stream_of(submission), say)
            error.hint = f"{error.hint}; {MAYBE_ACCEPTED}" if error.hint else MAYBE_ACCEPTED
            raise
        finally:
            self._submitting.discard(task)
        self.remember(job_id, package)
        return job_id

    async def give_up(self, submit: IoFuture[str], say: Say) -> None:
        """Nobody waits for that `submit` any more: takes its job back, also when the daemon has
        answered just now."""
        task = submit.task
        if task is None:
            return
        if not task.done():
            task.cancel()
            await self.settle()
        elif not task.cancelled() and task.exception() is None:
            self._withdrawals.of_call(task, say)

    async def settle(self) -> None:
        """Returns when every `submit` that is being cancelled is being taken back."""
        if cancelled := [task for task in self._submitting if task.cancelling()]:
            await asyncio.wait(cancelled)

    async def _submit(self, submission: Submission) -> str:
        while True:
            arguments = await submission.arguments()
            accepted = False
            try:
                answer = await self.connection.call(uris.JOB_SUBMIT, {**arguments, "follow": False})
                accepted = True
            except CumulusError as error:
                if not submission.mends(error):
                    raise
            finally:
                submission.answered(accepted=accepted)
            if accepted:
                return str(answer["job"]["job_id"])

    async def submit_followed(self, package: Package, spec: Mapping[str, Any]) -> JobStream:
        """Uploads what is large; the stream submits with its first `next`. `remember` its job."""
        return self._stream_of(await self._prepared(package, spec))

    async def _prepared(self, package: Package, spec: Mapping[str, Any]) -> Submission:
        # Connected first: who fails to, or gives up, has submitted nothing.
        await self.connection.session()
        submission = Submission(self._uploads, package, self._full(package, spec))
        await submission.prepare()
        return submission

    def _stream_of(self, submission: Submission) -> JobStream:
        return JobStream(
            self.connection,
            submission=submission,
            max_waiting_bytes=MAX_WAITING_BYTES,
            pause=self.connection.read_pause,
        )

    async def withdraw(self, stream: JobStream, say: Say) -> None:
        """Begins to take back what `stream` submits, and takes the stream over. `close` waits."""
        self._withdrawals.of_stream(stream, say)

    def remember(self, job_id: str, package: Package) -> None:
        """This client submitted that job: its pickled result may be opened."""
        while len(self._submitted) >= MAX_REMEMBERED:
            del self._submitted[next(iter(self._submitted))]
        self._submitted[job_id] = package.aliases

    # --- following ---------------------------------------------------------------------------

    async def stream(self, job_id: str, from_offset: int = 0) -> JobStream:
        """The job's events, its journal from that offset on."""
        return JobStream(
            self.connection,
            job_id=job_id,
            from_offset=from_offset,
            max_waiting_bytes=MAX_WAITING_BYTES,
            pause=self.connection.read_pause,
        )

    async def result(self, job_id: str) -> Any:
        """The job's value, when it has ended. Raises JobFailed, JobTimeout, JobCancelled,
        ResultError. Fetches none of the output that was there before."""
        collector = ResultCollector()
        view = await self.job(job_id)
        if JobState(view["status"]).ended:
            return await self.value(view, collector, show_output=True)
        # What of the result stood before that offset already is asked for in the end.
        stream = await self.stream(job_id, int(view["journal"]["end_offset"]))
        try:
            while True:
                event = await stream.next()
                if isinstance(event, Journal):
                    collector.feed(event.records)
                elif isinstance(event, Ended):
                    return await self.value(event.job, collector, show_output=True)
                elif event is None:
                    raise ServerError(f"job {job_id} has no end", job_id=job_id)
        finally:
            await stream.close()

    def value_at_hand(
        self, view: Mapping[str, Any], collector: ResultCollector, show_output: bool = False
    ) -> "Value | None":
        """The value of an ended job, its size and hash verified; None when not all of it was
        followed. Asks nothing of the daemon, on any thread. Raises as `result`, with the last of
        the job's output where that was not shown before."""
        job_id = str(view["job_id"])
        error = error_from_end(
            view,
            show_output,
            aliases=self._submitted.get(job_id, {}),
            may_import=self._pickle_objection(job_id) is None,
        )
        if error is not None:
            raise error
        info = (view.get("end") or {}).get("result")
        if info is None:
            return Value(None)  # a script has none
        data = collector.verified(info)
        return None if data is None else self._decoded(job_id, info, data)

    async def value(
        self, view: Mapping[str, Any], collector: ResultCollector, show_output: bool = False
    ) -> Any:
        """The value of an ended job, what wasn't followed asked for. Raises as `result`."""
        value = self.value_at_hand(view, collector, show_output)
        if value is None:
            # It wasn't followed from the first byte, or the journal's size cap has dropped a part
            # of it; the daemon may hold it whole.
            job_id, info = str(view["job_id"]), view["end"]["result"]
            data = await self._stored_result(job_id, info)
            if data is None:
                raise ResultError(
                    f"the result of job {job_id} is damaged: size or SHA-256 is not what the "
                    "runner recorded",
                    job_id=job_id,
                    hint="run the job again, and report it to the daemon's operator",
                )
            value = self._decoded(job_id, info, data)
        return value.value

    def _decoded(self, job_id: str, info: Mapping[str, Any], data: bytes | bytearray) -> "Value":
        return Value(
            decode_result(
                data,
                str(info.get("encoding")),
                job_id=job_id,
                may_unpickle=self._pickle_objection(job_id),
                aliases=self._submitted.get(job_id, {}),
            )
        )

    async def _stored_result(
        self, job_id: str, info: Mapping[str, Any]
    ) -> bytes | bytearray | None:
        """The result as the daemon stores it, None when that is damaged too."""
        held = bytearray()
        size_bytes = min(int(info.get("size_bytes") or 0), MAX_RESULT_BYTES)

        def progress(part: dict[str, Any]) -> None:
            if part.get("offset") == len(held) and len(held) + len(part["data"]) <= size_bytes:
                held.extend(part["data"])

        failures = 0
        while True:
            try:
                answer = await self.connection.call_once(
                    uris.JOB_RESULT, {"job_id": job_id}, progress
                )
                break
            except ConnectionLost:
                failures += 1
                if failures > MAX_FRUITLESS:
                    raise
                held.clear()  # it comes from its first byte again
                await asyncio.sleep(backoff_s(failures))
        data = answer.get("data")
        whole = data if isinstance(data, bytes) else held  # no copy: it may be large
        return whole if result_matches(whole, info) else None

    def _pickle_objection(self, job_id: str) -> str | None:
        if not self._allow_pickle:
            return "this client was made with allow_pickle=False"
        if job_id not in self._submitted:
            return "pickles are opened only for jobs that this very client object submitted"
        return None

    # --- asking ------------------------------------------------------------------------------

    async def job(self, job_id: str) -> dict[str, Any]:
        """The job view."""
        return _view(await self.connection.call(uris.JOB_GET, {"job_id": job_id}))

    async def jobs(self, *, active: bool, limit: int) -> list[dict[str, Any]]:
        """Job views, newest first."""
        answer = await self.connection.call(uris.JOB_LIST, {"active": active, "limit": limit})
        return list(answer["jobs"])

    async def cancel(self, job_id: str) -> bool:
        """True when the job is being cancelled, False when it had ended already."""
        try:
            answer = await self.connection.call(uris.JOB_CANCEL, {"job_id": job_id})
        except Conflict:
            return False
        return bool(answer.get("cancelled"))

    async def ask(self, procedure: str, job_id: str) -> dict[str, Any]:
        """The answer of a procedure that takes the job's id."""
        return await self.connection.call(procedure, {"job_id": job_id})

    async def checkpoints(self, job_id: str) -> list[dict[str, Any]]:
        """The job's checkpoints, the newest last."""
        return list((await self.ask(uris.JOB_CHECKPOINTS, job_id))["checkpoints"])

    async def outputs(self, job_id: str) -> list[dict[str, Any]]:
        """The files that the job left to be downloaded."""
        return list((await self.ask(uris.JOB_OUTPUTS, job_id))["outputs"])

    async def download(self, job_id: str, name: str, path: str | os.PathLike[str] | None) -> Path:
        """Where the output `name` lies now, whole and verified."""
        return await download(self.connection, job_id, name, path)

    async def info(self) -> dict[str, Any]:
        """What `cumulus.server.info` answers."""
        return await self.connection.call(uris.SERVER_INFO, {})

    async def workers(self) -> list[dict[str, Any]]:
        """The pool's workers."""
        return list((await self.connection.call(uris.WORKER_LIST, {}))["workers"])


def _view(answer: dict[str, Any]) -> dict[str, Any]:
    # The view itself is the answer; wrapped in {"job": view} as in the events it is taken too.
    inner = answer.get("job")
    return inner if isinstance(inner, dict) and "job_id" not in answer else answer
