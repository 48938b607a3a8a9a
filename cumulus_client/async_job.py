"""A submitted job, as a handle for code on an asyncio loop."""

import os
from collections.abc import AsyncIterator, Generator
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

    def __repr__(self) -> str:
        return f"<AsyncCumulusJob {self.job_id}>"

    async def view(self) -> dict[str, Any]:
        """All that the daemon says of the job. Raises NotFound."""
        return await self._client.get_job_status(self.job_id)

    async def status(self) -> str:
        """As `CumulusJob.status`."""
        return str((await self.view())["status"])

    async def done(self) -> bool:
        """Has it ended, however?"""
        return JobState(await self.status()).ended

    async def running(self) -> bool:
        """Does its code run now?"""
        return await self.status() == JobState.RUNNING

    async def cancelled(self) -> bool:
        """Has it ended because somebody cancelled it?"""
        return await self.status() == JobState.CANCELLED

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
        async for event in self._client._events(self.job_id, deadline):
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
                    return
            elif isinstance(event, Ended):
                for _, text in decoder.finish():
                    yield text
                return
