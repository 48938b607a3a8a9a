"""A client's own connection, and what is asked over it about jobs, workers and the daemon."""

import os
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from cumulus_client._blocking import begin
from cumulus_client._core import ClientCore, connection_to
from cumulus_client._io_future import IoFuture, wait_all
from cumulus_client._io_thread import IoThread
from cumulus_client._mapping import Flights
from cumulus_client._raising import raised_here
from cumulus_client._withdrawing import WITHDRAW_S
from cumulus_wire import uris

_T = TypeVar("_T")

CLOSE_TIMEOUT_S = 5.0


class BlockingSession:
    """The part of `CumulusClient` that knows neither packages nor output."""

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
        """`server_url`: `http://host` (port 50051 unless it names one) or `https://host` (443).
        What isn't given comes from `CUMULUS_SERVER_URL` and `CUMULUS_API_KEY`, else from a profile
        of `cumulus login`: that called `profile`, `CUMULUS_PROFILE`'s or the default one.
        `allow_pickle`: open pickled results of jobs that this object submitted (opening a pickle
        runs code). `api_key_name`: what the daemon calls the key (`CUMULUS_API_KEY_NAME`, or the
        profile's); with it the key isn't sent over connections that others can read, but proven.
        `ca_file`: a PEM file with the certificates by which an https daemon is known, and no
        others; else `CUMULUS_CA_FILE`, the profile's, what this machine trusts. Nothing is sent
        yet. Raises ValueError for a URL, profile or CA file that is none."""
        connection = connection_to(
            server_url, api_key, profile, api_key_name=api_key_name, ca_file=ca_file
        )
        self.server_url = connection.server_url
        self._io = IoThread()
        self._core = ClientCore(connection, allow_pickle=allow_pickle)
        self._told: set[str] = set()  # what displays need to say once
        self._maps: weakref.WeakSet[Flights] = weakref.WeakSet()

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
        """Ends the connection and its thread. Jobs go on, but those of a `map` that has not ended,
        and one whose submission was given up, are cancelled first, which is waited for some
        seconds. Idempotent."""
        for flights in list(self._maps):
            flights.cancel()
        if self._io.started:
            closing = self._io.run(self._core.close())
            wait_all([closing], CLOSE_TIMEOUT_S + WITHDRAW_S)
        self._io.stop()

    def _call(
        self,
        coroutine: Coroutine[Any, Any, _T],
        give_up: Callable[[IoFuture[_T]], Coroutine[Any, Any, None]] | None = None,
    ) -> _T:
        """`give_up`: what is to be done when Ctrl-C comes; without it the call is cancelled."""
        future = self._io.run(coroutine)
        try:
            future.wait(None)
            return future.result()
        except BaseException as error:
            if give_up is not None and isinstance(error, KeyboardInterrupt):
                begin(self._io, give_up(future))
            else:
                future.cancel()  # nobody waits for it any more
            raise

    # --- asking ------------------------------------------------------------------------------

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
