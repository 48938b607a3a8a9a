"""The blocking client."""

import os
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

from cumulus_client._blocking import Interruption, client_timeout
from cumulus_client._blocking_stream import BlockingStream
from cumulus_client._core import MAYBE_ACCEPTED
from cumulus_client._following import follow_to_end
from cumulus_client._journal_reader import ResultCollector
from cumulus_client._map_window import MAX_IN_FLIGHT, make_map_call, zipped
from cumulus_client._mapping import Flights, mapped
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
from cumulus_client._raising import raised_here
from cumulus_client._session import BlockingSession
from cumulus_client.display import Display
from cumulus_client.exceptions import ClientTimeout, CumulusError
from cumulus_client.job import CumulusJob
from cumulus_client.packaging import Package, package_function, package_path

_T = TypeVar("_T")


class CumulusClient(BlockingSession):
    """Runs Python functions on the workers of a Cumulus daemon.

    One WebSocket carries everything; it is opened at first use and reopens by itself. Threads may
    share a client. Use it as a context manager, or `close()` it.
    """

    # --- running and submitting --------------------------------------------------------------

    @overload
    def run(
        self, func: Callable[..., Coroutine[Any, Any, _T]], *args: Any, **kwargs: Any
    ) -> _T: ...
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
    ) -> _T: ...
    @raised_here
    def run(
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
        """Calls `func(*args, **kwargs)` on a worker, shows its output while it runs, returns its
        value.

        `gpu_memory`: share of one device's memory, 0 < x <= 1. `duration`: seconds the function
        may run, or text such as "90m", as with all times here. `requirements`: as for pip.
        `timeout`: seconds this call waits in all; the job goes on after it. Ctrl-C cancels the
        job, a second one detaches from it.

        `name`: what the job is called (the function). `queue_timeout`: seconds it may wait for a
        free share; 0: fail rather than wait (it waits for ever). `setup_timeout`: seconds that
        installing the requirements may take (600). `env`: environment variables of the job;
        `secrets`: such ones that are never stored or shown. `files`: more files for the job's
        folder, `["data.csv"]` or `{"name there": path or bytes}`. `cpu`: cores and `memory`: RAM,
        bytes or "8GiB", that it may use (what the pool's operator set). `priority`: higher ones
        are placed first (0). `retries`: how often it is run again when its worker or Cumulus
        failed, never for a fault of its own (0).

        A keyword from `name` on that `func` has a parameter of goes to `func`; the option is given
        in `options={...}` then, which is merged over all options. So are the older ones when
        `options` has them: `options={"timeout": None}, timeout=5` calls `func(timeout=5)`.

        Raises TypeError and ValueError for a call that can't be right, PackagingError,
        ConnectionFailed, the daemon's refusals, JobFailed with the remote traceback, JobTimeout,
        JobCancelled, ClientTimeout.
        """
        given = options_given(locals())
        call = make_call("run()", func, given, options, kwargs)
        return self._run_call(func, call.args, call.kwargs, call.spec, call.timeout, call.files)

    @raised_here
    def submit(
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
    ) -> CumulusJob:
        """Submits `func(*args, **kwargs)` and returns once the daemon holds the job durably.

        `timeout`: what the job's `result()` waits when it is not told otherwise. Otherwise as
        `run`.
        """
        given = options_given(locals())
        call = make_call("submit()", func, given, options, kwargs)
        return self._submit_call(func, call.args, call.kwargs, call.spec, call.timeout, call.files)

    @raised_here
    def run_script(
        self,
        path: str | os.PathLike[str],
        argv: Sequence[str] = (),
        *,
        timeout: Seconds | None = None,
        display: Display | None = None,
        **options: Unpack[Options],
    ) -> dict[str, Any]:
        """Runs a script with the local modules it imports, or a folder with a `__main__.py`; the
        ended job's view, however it ended. `options`: as of `run`, from `gpu_memory` on."""
        timeout = checked_timeout("timeout", timeout)
        spec, files = parted(options)
        package = package_path(path, argv, files=files)
        view, _ = self._follow(package, spec, timeout, display or self._display())
        return view

    @raised_here
    def submit_script(
        self, path: str | os.PathLike[str], argv: Sequence[str] = (), **options: Unpack[Options]
    ) -> CumulusJob:
        """Submits a script or folder; otherwise as `run_script` and `submit`."""
        spec, files = parted(options)
        package = package_path(path, argv, files=files)
        return self._submit_package(package, spec, None)

    run_async = submit

    @overload
    def map(
        self,
        func: Callable[..., Coroutine[Any, Any, _T]],
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: Literal[True] = True,
        return_exceptions: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Generator[_T, None, None]: ...
    @overload
    def map(
        self,
        func: Callable[..., _T],
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: Literal[True] = True,
        return_exceptions: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Generator[_T, None, None]: ...
    @overload
    def map(
        self,
        func: Callable[..., Any],
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: bool = True,
        return_exceptions: bool = False,
        **options: Unpack[Options],
    ) -> Generator[Any, None, None]: ...
    @raised_here
    def map(
        self,
        func: Callable[..., Any],
        *iterables: Iterable[Any],
        kwargs: Mapping[str, Any] | None = None,
        timeout: Seconds | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ordered: bool = True,
        return_exceptions: bool = False,
        **options: Unpack[Options],
    ) -> Generator[Any, None, None]:
        """Calls `func(*items, **kwargs)` on workers for the items of the iterables, which are
        taken together as by the built-in `map`, and gives the results as they come.

        In the items' order; with `ordered=False` as `(index, value)` as soon as each is there. At
        most `max_in_flight` jobs are under way. The iterables, which may be endless, are read only
        while the next result is waited for. A call that fails raises at its place, which ends the
        map; with `return_exceptions` its exception is its value. `timeout`: seconds from this call
        until the last result is there. The end of the iteration, by an error, Ctrl-C, `close()` or
        `break`, cancels what is under way. `options`: as of `run`.

        Raises as `run`; TypeError and ValueError at once.
        """
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

        def pack(args: list[Any]) -> Package:
            bind("map()", func, args, call.kwargs)
            return package_function(func, args, call.kwargs, files=call.files)

        flights = Flights(self._io, self._core, self.server_url, self._display)
        self._maps.add(flights)
        return mapped(call, zipped(iterables), pack, flights, deadline_after(call.timeout))

    def _run_call(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        spec: Mapping[str, Any],
        timeout: float | None,
        files: Files = None,
    ) -> Any:
        package = package_function(func, args, kwargs, files=files)
        view, collector = self._follow(package, spec, timeout, self._display())
        # Here rather than on the connection's thread, which has its pings to answer.
        value = self._core.value_at_hand(view, collector)
        return value.value if value else self._call(self._core.value(view, collector))

    def _submit_call(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        spec: Mapping[str, Any],
        timeout: float | None,
        files: Files = None,
    ) -> CumulusJob:
        package = package_function(func, args, kwargs, files=files)
        return self._submit_package(package, spec, timeout)

    def _submit_package(
        self, package: Package, spec: Mapping[str, Any], timeout: float | None
    ) -> CumulusJob:
        display = self._display()
        try:
            job_id = self._call(
                self._core.submit(package, spec, display.note),
                lambda submitting: self._core.give_up(submitting, display.note),
            )
        except KeyboardInterrupt:
            display.note(f"interrupted while submitting: {MAYBE_ACCEPTED}")
            raise
        return CumulusJob(self, job_id, timeout=timeout)

    def _display(self) -> Display:
        return Display(told=self._told)

    def _follow(
        self,
        package: Package,
        spec: Mapping[str, Any],
        timeout: float | None,
        display: Display,
    ) -> tuple[dict[str, Any], ResultCollector]:
        """Submits, shows, and follows to the end: the last view and the result's bytes."""
        deadline = deadline_after(timeout)
        with display.running():
            upload = self._io.run(self._core.submit_followed(package, spec))
            try:
                if not upload.wait(deadline):
                    raise client_timeout(self.server_url, None, submitting=False)
            except BaseException:
                upload.cancel()
                raise
            stream = BlockingStream(self._io, upload.result(), self.server_url)
            interruption = Interruption(
                self._io, self._core, display.note, come_back=display.come_back
            )
            try:
                return follow_to_end(
                    stream,
                    interruption,
                    display,
                    deadline=deadline,
                    accepted=lambda job_id: self._core.remember(job_id, package),
                )
            except BaseException as error:
                job_id = stream.stream.job_id
                if _takes_back(error, interruption, job_id):
                    if not isinstance(error, ClientTimeout):
                        told = MAYBE_ACCEPTED if job_id is None else f"cancelling job {job_id}"
                        display.note(f"interrupted: {told}")
                    stream.withdraw(self._core, display.note)
                else:
                    stream.close()
                raise

    @raised_here
    def attach(self, job_id: str) -> CumulusJob:
        """A handle on a job submitted earlier or elsewhere. Raises NotFound."""
        return CumulusJob(self, str(self._call(self._core.job(job_id))["job_id"]))

    # --- for CumulusJob ----------------------------------------------------------------------

    def _open_stream(self, job_id: str, from_offset: int = 0) -> BlockingStream:
        stream = self._call(self._core.stream(job_id, from_offset))
        return BlockingStream(self._io, stream, self.server_url)

    def _result(self, job_id: str, timeout: Seconds | None) -> Any:
        deadline = deadline_after(checked_timeout("timeout", timeout))
        future = self._io.run(self._core.result(job_id))
        try:
            if not future.wait(deadline):
                raise client_timeout(self.server_url, job_id)
        except BaseException:
            future.cancel()
            raise
        return future.result()


def _takes_back(error: BaseException, interruption: Interruption, job_id: str | None) -> bool:
    """Did the caller give up a job that nobody has been told of, and is it to be cancelled?
    `job_id`: as it is now; it may have come since `error` was raised."""
    if isinstance(error, ClientTimeout):
        return error.job_id is None
    if isinstance(error, KeyboardInterrupt):
        return not interruption.begun
    return job_id is None and not isinstance(error, CumulusError)
