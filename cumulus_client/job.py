"""A submitted job, as a handle."""

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cumulus_client._job_future import JobFuture
from cumulus_client._job_stream import Ended, Journal
from cumulus_client._options import Seconds, checked_timeout, deadline_after
from cumulus_client._raising import raised_here
from cumulus_client.display import OutputDecoder
from cumulus_client.exceptions import (
    CumulusError,
    JobCancelled,
    JobFailed,
    JobTimeout,
    ResultError,
)
from cumulus_wire.states import JobState

if TYPE_CHECKING:
    from cumulus_client.client import CumulusClient

_UNKNOWN = object()


class CumulusJob:
    """One job. Making a handle asks nothing of the daemon."""

    def __init__(
        self, client: "CumulusClient", job_id: str, *, timeout: float | None = None
    ) -> None:
        """`timeout`: seconds that `result()` waits when it is not told otherwise."""
        self.job_id = job_id
        self._timeout_s = timeout
        self._client = client
        self._value: Any = _UNKNOWN
        self._ended: JobState | None = None
        self._future: JobFuture | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<CumulusJob {self.job_id}>"

    def view(self) -> dict[str, Any]:
        """All that the daemon says of the job. Raises NotFound."""
        return self._client.get_job_status(self.job_id)

    def status(self) -> str:
        """`pending`, `starting`, `running`, `paused`, `completed`, `failed`, `timeout` or
        `cancelled`."""
        return str(self.view()["status"])

    def done(self) -> bool:
        """Has it ended, however?"""
        return self._end() is not None

    def running(self) -> bool:
        """Does its code run now?"""
        return self._ended is None and self.status() == JobState.RUNNING

    def cancelled(self) -> bool:
        """Has it ended because somebody cancelled it?"""
        return self._end() is JobState.CANCELLED

    def _end(self) -> JobState | None:
        if self._ended is None:
            state = JobState(self.status())
            self._ended = state if state.ended else None
        return self._ended

    @raised_here
    def result(self, timeout: Seconds | None = None) -> Any:
        """The function's value, when the job has ended. Ctrl-C stops waiting; the job goes on.

        `timeout`: seconds to wait. Raises ClientTimeout after that (the job goes on), JobFailed
        with the remote traceback, JobTimeout, JobCancelled, ResultError.
        """
        if self._value is _UNKNOWN:
            with self._goes_on():
                self._value = self._client._result(
                    self.job_id, self._timeout_s if timeout is None else timeout
                )
        return self._value

    def future(self) -> "concurrent.futures.Future[Any]":
        """The same job for `concurrent.futures.wait` and `as_completed`; always the same object.

        It is followed from now on: done when the job has ended, or, with ConnectionFailed, when
        the client can't learn that any more. Its `cancel()` cancels the job.
        """
        with self._lock:
            if self._future is None:
                self._future = JobFuture(self._client._io, self._client._core, self.job_id)
            return self._future

    def add_done_callback(self, fn: Callable[["CumulusJob"], object]) -> None:
        """Calls `fn(job)` once when `future()` is done, on a thread of the client's; at once when
        it is done already. What it raises is logged."""
        self.future().add_done_callback(lambda _: fn(self))

    def exception(self, timeout: Seconds | None = None) -> CumulusError | None:
        """What `result` would raise of how the job ended, None for one that completed. Raises
        ClientTimeout, ConnectionFailed, NotFound."""
        try:
            self.result(timeout)
        except (JobFailed, JobTimeout, JobCancelled, ResultError) as error:
            return error
        return None

    def cancel(self) -> bool:
        """True when it is being cancelled, False when it had ended already."""
        return self._client.cancel_job(self.job_id)

    def pause(self) -> dict[str, Any]:
        """As `CumulusClient.pause_job`."""
        return self._client.pause_job(self.job_id)

    def resume(self) -> dict[str, Any]:
        """As `CumulusClient.resume_job`."""
        return self._client.resume_job(self.job_id)

    def get_checkpoints(self) -> list[dict[str, Any]]:
        """As `CumulusClient.get_checkpoints`."""
        return self._client.get_checkpoints(self.job_id)

    def progress(self) -> dict[str, Any] | None:
        """What the code, while it runs, said last of how far it is: `{"fraction": 0.4 or None,
        "message"}`; None when it said nothing."""
        progress = self.view().get("progress")
        return dict(progress) if progress else None

    @raised_here
    def outputs(self) -> list[dict[str, Any]]:
        """The files that the job left to be downloaded, each `name, size_bytes, sha256`."""
        return self._client._call(self._client._core.outputs(self.job_id))

    @raised_here
    def download(self, name: str, path: str | os.PathLike[str] | None = None) -> Path:
        """Writes the output `name`, and gives its path when it is whole and verified.

        `path`: the file, or a folder for it; without, it gets its own name in the working
        directory. Raises NotFound, ResultError, OSError.
        """
        core = self._client._core
        return self._client._call(core.download(self.job_id, name, path))

    def logs(self, follow: bool = True, from_offset: int = 0) -> Iterator[str]:
        """The job's stdout and stderr in order, as text, also long after its end. With `follow`
        until the job has ended, else what there is now.

        `from_offset`: where to begin, a journal offset as `view()["journal"]["end_offset"]` gives;
        0: at the first byte. Chunks are as they came, not lines. A slow reader costs no memory.
        Ctrl-C stops reading; the job goes on.
        """
        with self._goes_on():
            yield from self._logs(follow, from_offset)

    def _logs(self, follow: bool, from_offset: int) -> Iterator[str]:
        stop_at = None if follow else int(self.view()["journal"]["end_offset"])
        if stop_at is not None and stop_at <= from_offset:
            return
        decoder = OutputDecoder()
        stream = self._client._open_stream(self.job_id, from_offset)
        try:
            while True:
                event = stream.next(None)
                if isinstance(event, Journal):
                    for record in event.records:
                        if text := decoder.feed(record):
                            yield text
                    last = event.records[-1].next_offset
                    if stop_at is not None and last >= stop_at:
                        break
                elif event is None or isinstance(event, Ended):
                    break
            for _, text in decoder.finish():
                yield text
        finally:
            stream.close()

    @raised_here
    def wait(self, timeout: Seconds | None = None) -> str:
        """The status it ended with. Ctrl-C stops waiting; the job goes on. Raises
        ClientTimeout."""
        deadline = deadline_after(checked_timeout("timeout", timeout))
        with self._goes_on():
            return self._wait(deadline)

    def _wait(self, deadline: float | None) -> str:
        view = self.view()
        if JobState(view["status"]).ended:
            return str(view["status"])
        stream = self._client._open_stream(self.job_id, int(view["journal"]["end_offset"]))
        try:
            while True:
                event = stream.next(deadline)
                if isinstance(event, Ended):
                    return str(event.job["status"])
                if event is None:
                    return self.status()
        finally:
            stream.close()

    @contextlib.contextmanager
    def _goes_on(self) -> Iterator[None]:
        """Ctrl-C while only waiting doesn't cancel, which is said."""
        try:
            yield
        except KeyboardInterrupt:
            self._client._display().note(f"interrupted: job {self.job_id} goes on")
            raise
