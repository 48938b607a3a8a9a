"""The blocking client."""

import concurrent.futures
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from cumulus_client._blocking import (
    BlockingStream,
    Interruption,
    begin,
    client_timeout,
    done_by,
)
from cumulus_client._core import MAYBE_ACCEPTED, ClientCore, connection_to
from cumulus_client._following import follow_to_end
from cumulus_client._io_thread import IoThread
from cumulus_client._journal_reader import ResultCollector
from cumulus_client._options import (
    NOT_GIVEN,
    Files,
    Options,
    Seconds,
    checked_timeout,
    deadline_after,
    files_to_pack,
    make_call,
    options_given,
    parted,
)
from cumulus_client._raising import raised_here
from cumulus_client._withdrawing import WITHDRAW_S
from cumulus_client.display import Display
from cumulus_client.exceptions import ClientTimeout, CumulusError
from cumulus_client.job import CumulusJob
from cumulus_client.packaging import Package, package_function, package_script
from cumulus_wire import uris

_T = TypeVar("_T")

CLOSE_TIMEOUT_S = 5.0


class CumulusClient:
    """Runs Python functions on the workers of a Cumulus daemon.

    One WebSocket carries everything; it is opened at first use and reopens by itself. Threads may
    share a client. Use it as a context manager, or `close()` it.
    """

    def __init__(
        self,
        server_url: str | None = None,
        api_key: str | None = None,
        *,
        profile: str | None = None,
        allow_pickle: bool = True,
    ) -> None:
        """`server_url`: `http://host` (port 50051 unless it names one) or `https://host` (443).
        What isn't given comes from `CUMULUS_SERVER_URL` and `CUMULUS_API_KEY`, else from a profile
        of `cumulus login`: that called `profile`, `CUMULUS_PROFILE`'s or the default one.
        `allow_pickle`: open pickled results of jobs that this object submitted (opening a pickle
        runs code). Nothing is sent yet. Raises ValueError for a URL or profile that is none."""
        connection = connection_to(server_url, api_key, profile)
        self.server_url = connection.server_url
        self._io = IoThread()
        self._core = ClientCore(connection, allow_pickle=allow_pickle)
        self._told: set[str] = set()  # what displays need to say once

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a CumulusClient holds a connection and can't be pickled")

    def close(self) -> None:
        """Ends the connection and its thread. Jobs go on, but one whose submission was given up is
        cancelled first, which is waited for some seconds. Idempotent."""
        if self._io.started:
            closing = self._io.run(self._core.close())
            concurrent.futures.wait([closing], CLOSE_TIMEOUT_S + WITHDRAW_S)
        self._io.stop()

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        future = self._io.run(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: nobody waits for it any more
            raise

    # --- running and submitting --------------------------------------------------------------

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
        files: Files | None = NOT_GIVEN,
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
        files: Files | None = NOT_GIVEN,
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
        """Runs a script with the local modules it imports; the ended job's view, however it
        ended. `options`: as of `run`, from `gpu_memory` on."""
        timeout = checked_timeout("timeout", timeout)
        spec, files = parted(options)
        package = package_script(path, argv, **files_to_pack(files))
        view, _ = self._follow(package, spec, timeout, display or self._display())
        return view

    @raised_here
    def submit_script(
        self, path: str | os.PathLike[str], argv: Sequence[str] = (), **options: Unpack[Options]
    ) -> CumulusJob:
        """Submits a script; otherwise as `run_script` and `submit`."""
        spec, files = parted(options)
        package = package_script(path, argv, **files_to_pack(files))
        return self._submit_package(package, spec, None)

    def _run_call(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        spec: Mapping[str, Any],
        timeout: float | None,
        files: Files | None = None,
    ) -> Any:
        package = package_function(func, args, kwargs, **files_to_pack(files))
        view, collector = self._follow(package, spec, timeout, self._display())
        return self._call(self._core.value(view, collector))

    def _submit_call(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        spec: Mapping[str, Any],
        timeout: float | None,
        files: Files | None = None,
    ) -> CumulusJob:
        package = package_function(func, args, kwargs, **files_to_pack(files))
        return self._submit_package(package, spec, timeout)

    def _submit_package(
        self, package: Package, spec: Mapping[str, Any], timeout: float | None
    ) -> CumulusJob:
        display = self._display()
        try:
            job_id = self._call(self._core.submit(package, spec, display.note))
        except KeyboardInterrupt:
            begin(self._io, self._core.settle())
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
        upload = self._io.run(self._core.submit_followed(package, spec))
        try:
            if not done_by(upload, deadline):
                raise client_timeout(self.server_url, None, submitting=False)
        except BaseException:
            upload.cancel()
            raise
        stream = BlockingStream(self._io, upload.result(), self.server_url)
        with display.running():
            try:
                return self._follow_stream(stream, package, deadline, display)
            except BaseException as error:
                if stream.stream.job_id is None and _gives_up(error):
                    if not isinstance(error, ClientTimeout):
                        display.note(f"interrupted: {MAYBE_ACCEPTED}")
                    stream.withdraw(self._core, display.note)
                else:
                    stream.close()
                raise

    def _follow_stream(
        self, stream: BlockingStream, package: Package, deadline: float | None, display: Display
    ) -> tuple[dict[str, Any], ResultCollector]:
        return follow_to_end(
            stream,
            Interruption(self._io, self._core, display.note, come_back=display.come_back),
            display,
            deadline=deadline,
            accepted=lambda job_id: self._core.remember(job_id, package),
        )

    # --- asking ------------------------------------------------------------------------------

    @raised_here
    def attach(self, job_id: str) -> CumulusJob:
        """A handle on a job submitted earlier or elsewhere. Raises NotFound."""
        return CumulusJob(self, str(self._call(self._core.job(job_id))["job_id"]))

    @raised_here
    def get_job_status(self, job_id: str) -> dict[str, Any]:
        """The job view: `job_id, status, created_at, started_at, completed_at, error,
        partition_id` and more (docs/protocol.md). Raises NotFound."""
        return self._call(self._core.job(job_id))

    @raised_here
    def list_jobs(self, active: bool = False, limit: int = 1000) -> list[dict[str, Any]]:
        """Job views, newest first. `active`: only those that have not ended."""
        return self._call(self._core.jobs(active=active, limit=limit))

    @raised_here
    def cancel_job(self, job_id: str) -> bool:
        """True when the job is being cancelled, False when it had ended already. Raises
        NotFound."""
        return self._call(self._core.cancel(job_id))

    @raised_here
    def pause_job(self, job_id: str) -> dict[str, Any]:
        """Asks the job's code to save a checkpoint and end, so that its share is free meanwhile:
        `{"paused": True, "message"}`, asked durably. Code that never looks goes on. Raises
        NotFound, Conflict."""
        return self._call(self._core.ask(uris.JOB_PAUSE, job_id))

    @raised_here
    def resume_job(self, job_id: str) -> dict[str, Any]:
        """Queues a paused job again under its id: `{"resumed": True, "message"}`. Raises NotFound,
        Conflict."""
        return self._call(self._core.ask(uris.JOB_RESUME, job_id))

    @raised_here
    def get_checkpoints(self, job_id: str) -> list[dict[str, Any]]:
        """The job's checkpoints, the newest last: `filename, path, epoch, step, framework,
        timestamp` and more. Raises NotFound."""
        return self._call(self._core.checkpoints(job_id))

    @raised_here
    def delete_job(self, job_id: str) -> dict[str, Any]:
        """Removes an ended job with its output, result and files: `{"deleted": True, "message"}`.
        Raises NotFound, Conflict for a job that has not ended."""
        return self._call(self._core.ask(uris.JOB_DELETE, job_id))

    @raised_here
    def get_server_info(self) -> dict[str, Any]:
        """`server_version, chronos_available, gpu_devices, active_jobs, max_concurrent_jobs` and
        more."""
        return self._call(self._core.info())

    @raised_here
    def list_workers(self) -> list[dict[str, Any]]:
        """The pool's workers and their devices."""
        return self._call(self._core.workers())

    # --- for CumulusJob ----------------------------------------------------------------------

    def _open_stream(self, job_id: str, from_offset: int = 0) -> BlockingStream:
        stream = self._call(self._core.stream(job_id, from_offset))
        return BlockingStream(self._io, stream, self.server_url)

    def _result(self, job_id: str, timeout: Seconds | None) -> Any:
        deadline = deadline_after(checked_timeout("timeout", timeout))
        future = self._io.run(self._core.result(job_id))
        try:
            if not done_by(future, deadline):
                raise client_timeout(self.server_url, job_id)
        except BaseException:
            future.cancel()
            raise
        return future.result()


def _gives_up(error: BaseException) -> bool:
    """Is it the caller that ended it, rather than the daemon or the connection?"""
    return isinstance(error, ClientTimeout) or not isinstance(error, CumulusError)
