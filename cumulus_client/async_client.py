"""The client for code that runs on an asyncio loop of its own, notebooks included.

The connection lives on the client's I/O thread, never on the caller's loop: a caller that computes
for a minute doesn't lose it.
"""

import asyncio
import os
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, Literal, TypeVar, Unpack, overload

from cumulus_client._async_mapping import mapped, zipped
from cumulus_client._async_session import AsyncSession
from cumulus_client._blocking import begin, client_timeout
from cumulus_client._core import MAYBE_ACCEPTED
from cumulus_client._job_stream import Accepted, Ended, Event, JobStream, Journal
from cumulus_client._journal_reader import ResultCollector
from cumulus_client._map_window import MAX_IN_FLIGHT, make_map_call
from cumulus_client._options import (
    NOT_GIVEN,
    Options,
    Seconds,
    bind,
    checked_timeout,
    deadline_after,
    make_call,
    options_given,
    parted,
)
from cumulus_client._package_files import Files
from cumulus_client._raising import raised_here_async
from cumulus_client.async_job import AsyncCumulusJob
from cumulus_client.display import Display
from cumulus_client.exceptions import ClientTimeout, CumulusError, ServerError
from cumulus_client.packaging import Package, package_function, package_path

_T = TypeVar("_T")

#: How long a cancelled `run` waits for the daemon to take the job's cancellation.
CANCEL_TIMEOUT_S = 5.0


class AsyncCumulusClient(AsyncSession):
    """`CumulusClient` with coroutines. Use it as an async context manager, or `close()` it."""

    # --- running and submitting --------------------------------------------------------------

    @overload
    def run(
        self, func: Callable[..., Coroutine[Any, Any, _T]], *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, _T]: ...
    @overload
    def run(
        self,
        func: Callable[..., _T],
        gpu_memory: float = 0.5,
        duration: Seconds = 3600,
        requirements: Sequence[str] | None = None,
        timeout: Seconds | None = None,
        args: Sequence[Any] | None = None,
        *,
        name: str | None = NOT_GIVEN,
        queue_timeout: Seconds | None = NOT_GIVEN,
        setup_timeout: Seconds = NOT_GIVEN,
        env: Mapping[str, str] | None = NOT_GIVEN,
        secrets: Mapping[str, str] | None = NOT_GIVEN,
        files: Files = NOT_GIVEN,
        cpu: float | None = NOT_GIVEN,
        memory: int | str | None = NOT_GIVEN,
        priority: int = NOT_GIVEN,
        retries: int = NOT_GIVEN,
        options: Mapping[str, Any] | None = NOT_GIVEN,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, _T]: ...
    @raised_here_async
    async def run(
        self,
        func: Callable[..., Any],
        gpu_memory: float = 0.5,
        duration: Seconds = 3600,
        requirements: Sequence[str] | None = None,
        timeout: Seconds | None = None,
        args: Sequence[Any] | None = None,
        *,
        name: str | None = NOT_GIVEN,
        queue_timeout: Seconds | None = NOT_GIVEN,
        setup_timeout: Seconds = NOT_GIVEN,
        env: Mapping[str, str] | None = NOT_GIVEN,
        secrets: Mapping[str, str] | None = NOT_GIVEN,
        files: Files = NOT_GIVEN,
        cpu: float | None = NOT_GIVEN,
        memory: int | str | None = NOT_GIVEN,
        priority: int = NOT_GIVEN,
        retries: int = NOT_GIVEN,
        options: Mapping[str, Any] | None = NOT_GIVEN,
        **kwargs: Any,
    ) -> Any:
        """As `CumulusClient.run`. Cancelling it cancels the job."""
        given = options_given(locals())
        call = make_call("run()", func, given, options, kwargs)
        return await self._run_call(
            func, call.args, call.kwargs, call.spec, call.timeout, call.files
        )

    @raised_here_async
    async def submit(
        self,
        func: Callable[..., Any],
        gpu_memory: float = 0.5,
        duration: Seconds = 3600,
        requirements: Sequence[str] | None = None,
        timeout: Seconds | None = None,
        args: Sequence[Any] | None = None,
        *,
        name: str | None = NOT_GIVEN,
        queue_timeout: Seconds | None = NOT_GIVEN,
        setup_timeout: Seconds = NOT_GIVEN,
        env: Mapping[str, str] | None = NOT_GIVEN,
        secrets: Mapping[str, str] | None = NOT_GIVEN,
        files: Files = NOT_GIVEN,
        cpu: float | None = NOT_GIVEN,
        memory: int | str | None = NOT_GIVEN,
        priority: int = NOT_GIVEN,
        retries: int = NOT_GIVEN,
        options: Mapping[str, Any] | None = NOT_GIVEN,
        **kwargs: Any,
    ) -> AsyncCumulusJob:
        """As `CumulusClient.submit`."""
        given = options_given(locals())
        call = make_call("submit()", func, given, options, kwargs)
        return await self._submit_call(
            func, call.args, call.kwargs, call.spec, call.timeout, call.files
        )

    run_async = submit

    @overload
    def map(
        self,
        func: Callable[..., Coroutine[Any, Any, _T]],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: Literal[True] = True,
        return_exceptions: Literal[False] = False,
        **options: Unpack[Options],
    ) -> AsyncGenerator[_T, None]: ...
    @overload
    def map(
        self,
        func: Callable[..., _T],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: Literal[True] = True,
        return_exceptions: Literal[False] = False,
        **options: Unpack[Options],
    ) -> AsyncGenerator[_T, None]: ...
    @overload
    def map(
        self,
        func: Callable[..., Any],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: bool = True,
        return_exceptions: bool = False,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Any, None]: ...
    def map(
        self,
        func: Callable[..., Any],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: bool = True,
        return_exceptions: bool = False,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Any, None]:
        """As `CumulusClient.map`, an async iterator; the iterables may be async ones too."""
        call = make_map_call(
            func,
            iterables,
            kwargs=kwargs,
            timeout=timeout,
            max_in_flight=max_in_flight,
            ordered=ordered,
            return_exceptions=return_exceptions,
            options=options,
        )

        async def run(args: list[Any]) -> Any:
            bind("map()", func, args, call.kwargs)
            return await self._run_call(func, args, call.kwargs, call.spec, None, call.files)

        deadline = deadline_after(call.timeout)
        items = zipped(iterables)
        return mapped(call, items, run, self.server_url, deadline, self._map_tasks)

    async def _run_call(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        spec: Mapping[str, Any],
        timeout: float | None,
        files: Files = None,
    ) -> Any:
        package = package_function(func, args, kwargs, files=files)
        display = Display(told=self._told)
        view, collector = await self._follow(package, spec, timeout, display)
        return await self._call(self._core.value(view, collector))

    async def _submit_call(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        spec: Mapping[str, Any],
        timeout: float | None,
        files: Files = None,
    ) -> AsyncCumulusJob:
        package = package_function(func, args, kwargs, files=files)
        return AsyncCumulusJob(self, await self._submit(package, spec), timeout=timeout)

    async def _submit(self, package: Package, spec: Mapping[str, Any]) -> str:
        note = Display().note
        try:
            return await self._call(
                self._core.submit(package, spec, note),
                lambda submitting: self._core.give_up(submitting, note),
            )
        except asyncio.CancelledError:
            note(f"cancelled while submitting: {MAYBE_ACCEPTED}")
            raise

    @raised_here_async
    async def run_script(
        self,
        path: str | os.PathLike[str],
        argv: Sequence[str] = (),
        *,
        timeout: Seconds | None = None,
        display: Display | None = None,
        **options: Unpack[Options],
    ) -> dict[str, Any]:
        """As `CumulusClient.run_script`."""
        timeout = checked_timeout("timeout", timeout)
        spec, files = parted(options)
        package = package_path(path, argv, files=files)
        display = display or Display(told=self._told)
        view, _ = await self._follow(package, spec, timeout, display)
        return view

    @raised_here_async
    async def submit_script(
        self, path: str | os.PathLike[str], argv: Sequence[str] = (), **options: Unpack[Options]
    ) -> AsyncCumulusJob:
        """As `CumulusClient.submit_script`."""
        spec, files = parted(options)
        package = package_path(path, argv, files=files)
        return AsyncCumulusJob(self, await self._submit(package, spec))

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
            except ClientTimeout as error:
                if error.job_id is None:  # as the caller is told; it may have come since
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

    @raised_here_async
    async def attach(self, job_id: str) -> AsyncCumulusJob:
        """A handle on a job submitted earlier or elsewhere. Raises NotFound."""
        view = await self._call(self._core.job(job_id))
        return AsyncCumulusJob(self, str(view["job_id"]))
