"""An asyncio client's own connection, and what is asked over it."""

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from cumulus_client._blocking import begin
from cumulus_client._core import ClientCore, connection_to
from cumulus_client._errands import Errands
from cumulus_client._io_future import IoFuture
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
        self._home: tuple[asyncio.AbstractEventLoop, Errands] | None = None

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

    async def _call(
        self,
        coroutine: Coroutine[Any, Any, _T],
        give_up: Callable[[IoFuture[_T]], Coroutine[Any, Any, None]] | None = None,
    ) -> _T:
        """`give_up`: what is to be done when this is cancelled; without it the call is."""
        # As `asyncio.wrap_future`, which wakes the caller's loop for each answer.
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        errands = self._errands_here()

        def done(_: IoFuture[_T]) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits
                errands.add(functools.partial(_wake, waiter))

        future = self._io.run(coroutine, done)
        try:
            await waiter
        except asyncio.CancelledError:
            if give_up is not None:
                begin(self._io, give_up(future))
            else:
                future.cancel()
            raise
        if future.cancelled():
            raise asyncio.CancelledError
        return future.result()

    def _errands_here(self) -> Errands:
        loop = asyncio.get_running_loop()
        if self._home is None or self._home[0] is not loop:
            self._home = loop, Errands(loop)
        return self._home[1]

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


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
