"""The client for code that runs on an asyncio loop of its own, notebooks included.

The connection lives on the client's I/O thread, never on the caller's loop: a caller that computes
for a minute doesn't lose it.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from cumulus_client._blocking import begin, client_timeout
from cumulus_client._core import MAYBE_ACCEPTED, ClientCore
from cumulus_client._io_thread import IoThread
from cumulus_client._job_stream import Accepted, Ended, Event, JobStream, Journal
from cumulus_client._journal_reader import ResultCollector
from cumulus_client._options import (
    NOT_GIVEN,
    checked_timeout,
    deadline_after,
    make_call,
    make_spec,
    options_given,
)
from cumulus_client._raising import raised_here_async
from cumulus_client._withdrawing import WITHDRAW_S
from cumulus_client.client import CLOSE_TIMEOUT_S
from cumulus_client.connection import Connection
from cumulus_client.display import Display, OutputDecoder
from cumulus_client.exceptions import ClientTimeout, CumulusError, ServerError
from cumulus_client.packaging import Package, package_function, package_script
from cumulus_wire.states import JobState

_T = TypeVar("_T")

#: How long a cancelled `run` waits for the daemon to take the job's cancellation.
CANCEL_TIMEOUT_S = 5.0


class AsyncCumulusClient:
    """`CumulusClient` with coroutines. Use it as an async context manager, or `close()` it."""

    def __init__(
        self, server_url: str, api_key: str | None = None, *, allow_pickle: bool = True
    ) -> None:
        """As of `CumulusClient`."""
        connection = Connection(server_url, api_key)
        self.server_url = connection.server_url
        self._io = IoThread()
        self._core = ClientCore(connection, allow_pickle=allow_pickle)
        self._told: set[str] = set()

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
        if self._io.started:
            closing = asyncio.wrap_future(self._io.run(self._core.close()))
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S + WITHDRAW_S)
        self._io.stop()

    async def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.wrap_future(self._io.run(coroutine))

    # --- running and submitting --------------------------------------------------------------

    @raised_here_async
    async def run(
        self,
        func: Callable[..., Any],
        gpu_memory: float = 0.5,
        duration: float = 3600,
        requirements: Sequence[str] | None = None,
        timeout: float | None = None,
        args: Sequence[Any] | None = None,
        *,
        name: str | None = NOT_GIVEN,
        queue_timeout: float | None = NOT_GIVEN,
        setup_timeout: float = NOT_GIVEN,
        env: Mapping[str, str] | None = NOT_GIVEN,
        priority: int = NOT_GIVEN,
        retries: int = NOT_GIVEN,
        options: Mapping[str, Any] | None = NOT_GIVEN,
        **kwargs: Any,
    ) -> Any:
        """As `CumulusClient.run`. Cancelling it cancels the job."""
        given = options_given(locals())
        call = make_call("run()", func, given, options, kwargs)
        package = package_function(func, call.args, call.kwargs)
        display = Display(told=self._told)
        view, collector = await self._follow(package, call.spec, call.timeout, display)
        return await self._call(self._core.value(view, collector))

    @raised_here_async
    async def submit(
        self,
        func: Callable[..., Any],
        gpu_memory: float = 0.5,
        duration: float = 3600,
        requirements: Sequence[str] | None = None,
        timeout: float | None = None,
        args: Sequence[Any] | None = None,
        *,
        name: str | None = NOT_GIVEN,
        queue_timeout: float | None = NOT_GIVEN,
        setup_timeout: float = NOT_GIVEN,
        env: Mapping[str, str] | None = NOT_GIVEN,
        priority: int = NOT_GIVEN,
        retries: int = NOT_GIVEN,
        options: Mapping[str, Any] | None = NOT_GIVEN,
        **kwargs: Any,
    ) -> "AsyncCumulusJob":
        """As `CumulusClient.submit`."""
        given = options_given(locals())
        call = make_call("submit()", func, given, options, kwargs)
        package = package_function(func, call.args, call.kwargs)
        job_id = await self._submit(package, call.spec)
        return AsyncCumulusJob(self, job_id, timeout=call.timeout)

    async def _submit(self, package: Package, spec: Mapping[str, Any]) -> str:
        note = Display().note
        try:
            return await self._call(self._core.submit(package, spec, note))
        except asyncio.CancelledError:
            begin(self._io, self._core.settle())
            note(f"cancelled while submitting: {MAYBE_ACCEPTED}")
            raise

    @raised_here_async
    async def run_script(
        self,
        path: str | os.PathLike[str],
        argv: Sequence[str] = (),
        *,
        timeout: float | None = None,
        display: Display | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """As `CumulusClient.run_script`."""
        timeout = checked_timeout("timeout", timeout)
        spec = make_spec(**{"gpu_memory": 0.5, "duration": 3600, **options})
        package = package_script(path, argv)
        display = display or Display(told=self._told)
        view, _ = await self._follow(package, spec, timeout, display)
        return view

    @raised_here_async
    async def submit_script(
        self, path: str | os.PathLike[str], argv: Sequence[str] = (), **options: Any
    ) -> "AsyncCumulusJob":
        """As `CumulusClient.submit_script`."""
        spec = make_spec(**{"gpu_memory": 0.5, "duration": 3600, **options})
        return AsyncCumulusJob(self, await self._submit(package_script(path, argv), spec))

    async def _follow(
        self,
        package: Package,
        spec: Mapping[str, Any],
        timeout: float | None,
        display: Display,
    ) -> tuple[dict[str, Any], ResultCollector]:
        deadline = deadline_after(timeout)
        stream = await self._in_time(
            self._core.submit_followed(package, spec), deadline, job_id=None, submitting=False
        )
        withdrawn = False
        with display.running():
            try:
                return await self._follow_stream(stream, package, deadline, display)
            except asyncio.CancelledError:
                if stream.job_id is not None:
                    await self._cancel_behind(stream.job_id, display)
                else:
                    display.note(f"cancelled while submitting: {MAYBE_ACCEPTED}")
                    withdrawn = self._withdraw(stream, display)
                raise
            except ClientTimeout:
                if stream.job_id is None:
                    withdrawn = self._withdraw(stream, display)
                raise
            finally:
                if not withdrawn:
                    self._hang_up(stream)

    async def _follow_stream(
        self, stream: JobStream, package: Package, deadline: float | None, display: Display
    ) -> tuple[dict[str, Any], ResultCollector]:
        collector = ResultCollector()
        while True:
            event = await self._in_time(stream.next(), deadline, job_id=stream.job_id)
            if event is None:
                raise ServerError("the job's events ended without its end")
            if isinstance(event, Accepted):
                self._core.remember(str(event.job["job_id"]), package)
            elif isinstance(event, Journal):
                collector.feed(event.records)
            display.event(event)
            if isinstance(event, Ended):
                return event.job, collector

    def _withdraw(self, stream: JobStream, display: Display) -> bool:
        begin(self._io, self._core.withdraw(stream, display.note))
        return True

    async def _in_time(
        self,
        coroutine: Coroutine[Any, Any, _T],
        deadline: float | None,
        *,
        job_id: str | None,
        submitting: bool = True,
    ) -> _T:
        future = asyncio.wrap_future(self._io.run(coroutine))
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            done, _ = await asyncio.wait([future], timeout=timeout_s)
        except asyncio.CancelledError:
            future.cancel()
            raise
        if not done:
            future.cancel()
            raise client_timeout(self.server_url, job_id, submitting=submitting)
        return future.result()

    async def _cancel_behind(self, job_id: str, display: Display) -> None:
        """Cancels the job of a cancelled `run`, bounded; says so when it can't."""
        display.note(f"cancelling job {job_id}")
        cancelling = asyncio.wrap_future(self._io.run(self._core.cancel(job_id)))
        done, _ = await asyncio.wait([cancelling], timeout=CANCEL_TIMEOUT_S)
        error = cancelling.exception() if done and not cancelling.cancelled() else None
        if not done or error is not None:
            display.note(f"cancelling failed: {error or 'no answer'}; the job may go on")

    def _hang_up(self, stream: JobStream) -> None:
        try:
            self._io.run(stream.close())
        except CumulusError:
            pass  # the client is closed, and its streams with it

    async def _events(
        self, job_id: str, deadline: float | None, from_offset: int = 0
    ) -> AsyncIterator[Event]:
        stream = await self._call(self._core.stream(job_id, from_offset))
        try:
            while (
                event := await self._in_time(stream.next(), deadline, job_id=job_id)
            ) is not None:
                yield event
        finally:
            self._hang_up(stream)

    # --- asking ------------------------------------------------------------------------------

    @raised_here_async
    async def attach(self, job_id: str) -> "AsyncCumulusJob":
        """A handle on a job submitted earlier or elsewhere. Raises NotFound."""
        view = await self._call(self._core.job(job_id))
        return AsyncCumulusJob(self, str(view["job_id"]))

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
    async def get_server_info(self) -> dict[str, Any]:
        """As `CumulusClient.get_server_info`."""
        return await self._call(self._core.info())

    @raised_here_async
    async def list_workers(self) -> list[dict[str, Any]]:
        """The pool's workers and their devices."""
        return await self._call(self._core.workers())


class AsyncCumulusJob:
    """`CumulusJob` with coroutines."""

    def __init__(
        self, client: AsyncCumulusClient, job_id: str, *, timeout: float | None = None
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

    @raised_here_async
    async def result(self, timeout: float | None = None) -> Any:
        """As `CumulusJob.result`."""
        wait_s = self._timeout_s if timeout is None else timeout
        deadline = deadline_after(checked_timeout("timeout", wait_s))
        core = self._client._core
        return await self._client._in_time(core.result(self.job_id), deadline, job_id=self.job_id)

    async def cancel(self) -> bool:
        """True when it is being cancelled, False when it had ended already."""
        return await self._client.cancel_job(self.job_id)

    @raised_here_async
    async def wait(self, timeout: float | None = None) -> str:
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
