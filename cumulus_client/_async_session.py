"""An asyncio client's own connection, and what is asked over it."""

import asyncio
import os
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from cumulus_client._core import ClientCore, connection_to
from cumulus_client._io_thread import IoThread
from cumulus_client._raising import raised_here_async
from cumulus_client._session import CLOSE_TIMEOUT_S
from cumulus_client._withdrawing import WITHDRAW_S
from cumulus_wire import uris

_T = TypeVar("_T")


class AsyncSession:
    """The part of `AsyncCumulusClient` that knows neither packages nor output."""

    def __init__(
        self,
        server_url: str | None = None,
        api_key: str | None = None,
        *,
        profile: str | None = None,
        allow_pickle: bool = True,
        api_key_name: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """As of `CumulusClient`."""
        connection = connection_to(
            server_url, api_key, profile, api_key_name=api_key_name, ca_file=ca_file
        )
        self.server_url = connection.server_url
        self._io = IoThread()
        self._core = ClientCore(connection, allow_pickle=allow_pickle)
        self._told: set[str] = set()
        self._map_tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __reduce__(self) -> Any:
        raise TypeError("an AsyncCumulusClient holds a connection and can't be pickled")

    async def close(self) -> None:
        """As `CumulusClient.close`."""
        here = asyncio.get_running_loop()
        tasks = [task for task in self._map_tasks if task.get_loop() is here]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        if self._io.started:
            closing = asyncio.wrap_future(self._io.run(self._core.close()))
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S + WITHDRAW_S)
        self._io.stop()

    async def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.wrap_future(self._io.run(coroutine))

    # --- asking ------------------------------------------------------------------------------

    @raised_here_async
    async def get_job_status(self, job_id: str) -> dict[str, Any]:
        """The job view. Raises NotFound."""
        return await self._call(self._core.job(job_id))

    @raised_here_async
    async def list_jobs(self, active: bool = False, limit: int = 1000) -> list[dict[str, Any]]:
        """Job views, newest first."""
        return await self._call(self._core.jobs(active=active, limit=limit))

    @raised_here_async
    async def cancel_job(self, job_id: str) -> bool:
        """True when the job is being cancelled, False when it had ended already."""
        return await self._call(self._core.cancel(job_id))

    @raised_here_async
    async def pause_job(self, job_id: str) -> dict[str, Any]:
        """As `CumulusClient.pause_job`."""
        return await self._call(self._core.ask(uris.JOB_PAUSE, job_id))

    @raised_here_async
    async def resume_job(self, job_id: str) -> dict[str, Any]:
        """As `CumulusClient.resume_job`."""
        return await self._call(self._core.ask(uris.JOB_RESUME, job_id))

    @raised_here_async
    async def get_checkpoints(self, job_id: str) -> list[dict[str, Any]]:
        """As `CumulusClient.get_checkpoints`."""
        return await self._call(self._core.checkpoints(job_id))

    @raised_here_async
    async def delete_job(self, job_id: str) -> dict[str, Any]:
        """As `CumulusClient.delete_job`."""
        return await self._call(self._core.ask(uris.JOB_DELETE, job_id))

    @raised_here_async
    async def get_server_info(self) -> dict[str, Any]:
        """As `CumulusClient.get_server_info`."""
        return await self._call(self._core.info())

    @raised_here_async
    async def list_workers(self) -> list[dict[str, Any]]:
        """The pool's workers and their devices."""
        return await self._call(self._core.workers())
