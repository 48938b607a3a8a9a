"""A submitted job, as a handle for code on an asyncio loop."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cumulus_client._job_stream import Ended, Journal
from cumulus_client._options import Seconds, checked_timeout, deadline_after
from cumulus_client._raising import raised_here_async
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
    from cumulus_client.async_client import AsyncCumulusClient


class AsyncCumulusJob:
    """`CumulusJob` with coroutines."""

    def __init__(
        self, client: "AsyncCumulusClient", job_id: str, *, timeout: float | None = None
    ) -> None:
        self.job_id = job_id
        self._client = client
        self._timeout_s = timeout
        self._ended: JobState | None = None
        self._future: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"<AsyncCumulusJob {self.job_id}>"

    async def view(self) -> dict[str, Any]:
        """All that the daemon says of the job. Raises NotFound."""
        return await self._client.get_job_status(self.job_id)

    async def status(self) -> str:
        """As `CumulusJob.status`."""
        return str((await self.view())["status"])

    async def done(self) -> bool:
        """As `CumulusJob.done`."""
        return await self._end() is not None

    async def running(self) -> bool:
        """As `CumulusJob.running`."""
        return self._ended is None and await self.status() == JobState.RUNNING

    async def cancelled(self) -> bool:
        """As `CumulusJob.cancelled`."""
        return await self._end() is JobState.CANCELLED

    async def _end(self) -> JobState | None:
        if self._ended is None:
            state = JobState(await self.status())
            self._ended = state if state.ended else None
        return self._ended

    @raised_here_async
    async def result(self, timeout: Seconds | None = None) -> Any:
        """As `CumulusJob.result`."""
        wait_s = self._timeout_s if timeout is None else timeout
        deadline = deadline_after(checked_timeout("timeout", wait_s))
        core = self._client._core
        return await self._client._in_time(core.result(self.job_id), deadline, job_id=self.job_id)

    def __await__(self) -> Generator[Any, None, Any]:
        """`await job` is `await job.result()`."""
        return self.result().__await__()

    def future(self) -> "asyncio.Task[Any]":
        """A task on the running loop that waits for the result; always the same one. Cancelling it
        stops waiting; the job goes on."""
        if self._future is None:
            self._future = asyncio.ensure_future(self.result())
        return self._future

    def add_done_callback(self, fn: Callable[["AsyncCumulusJob"], object]) -> None:
        """Calls `fn(job)` once when `future()` is done, on the running loop. What it raises goes
        to the loop's exception handler."""

        def ended(task: "asyncio.Task[Any]") -> None:
            if not task.cancelled():
                task.exception()  # so that it counts as looked at
                fn(self)

        self.future().add_done_callback(ended)

    async def exception(self, timeout: Seconds | None = None) -> CumulusError | None:
        """As `CumulusJob.exception`."""
        try:
            await self.result(timeout)
        except (JobFailed, JobTimeout, JobCancelled, ResultError) as error:
            return error
        return None

    async def cancel(self) -> bool:
        """True when it is being cancelled, False when it had ended already."""
        return await self._client.cancel_job(self.job_id)

    async def pause(self) -> dict[str, Any]:
        """As `CumulusClient.pause_job`."""
        return await self._client.pause_job(self.job_id)

    async def resume(self) -> dict[str, Any]:
        """As `CumulusClient.resume_job`."""
        return await self._client.resume_job(self.job_id)

    async def get_checkpoints(self) -> list[dict[str, Any]]:
        """As `CumulusClient.get_checkpoints`."""
        return await self._client.get_checkpoints(self.job_id)

    async def progress(self) -> dict[str, Any] | None:
        """As `CumulusJob.progress`."""
        progress = (await self.view()).get("progress")
        return dict(progress) if progress else None

    @raised_here_async
    async def outputs(self) -> list[dict[str, Any]]:
        """As `CumulusJob.outputs`."""
        return await self._client._call(self._client._core.outputs(self.job_id))

    @raised_here_async
    async def download(self, name: str, path: str | os.PathLike[str] | None = None) -> Path:
        """As `CumulusJob.download`."""
        core = self._client._core
        return await self._client._call(core.download(self.job_id, name, path))

    @raised_here_async
    async def wait(self, timeout: Seconds | None = None) -> str:
        """The status it ended with. Raises ClientTimeout."""
        deadline = deadline_after(checked_timeout("timeout", timeout))
        view = await self.view()
        if JobState(view["status"]).ended:
            return str(view["status"])
        offset = int(view["journal"]["end_offset"])
        async for event in self._client._events(self.job_id, deadline, offset):
            if isinstance(event, Ended):
                return str(event.job["status"])
        return await self.status()

    async def logs(self, follow: bool = True, from_offset: int = 0) -> AsyncIterator[str]:
        """As `CumulusJob.logs`."""
        stop_at = None if follow else int((await self.view())["journal"]["end_offset"])
        if stop_at is not None and stop_at <= from_offset:
            return
        decoder = OutputDecoder()
        async for event in self._client._events(self.job_id, None, from_offset):
            if isinstance(event, Journal):
                for record in event.records:
                    if text := decoder.feed(record):
                        yield text
                if stop_at is not None and event.records[-1].next_offset >= stop_at:
                    break
            elif isinstance(event, Ended):
                break
        for _, text in decoder.finish():
            yield text
