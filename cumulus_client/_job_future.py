"""A job as a `concurrent.futures.Future`."""

import concurrent.futures
import logging
import threading
from typing import Any

from cumulus_client._core import ClientCore
from cumulus_client._io_thread import IoThread
from cumulus_client._raising import bare
from cumulus_client.exceptions import ConnectionFailed, CumulusError

_log = logging.getLogger("cumulus_client")


class JobFuture(concurrent.futures.Future[Any]):
    """Done when the job has ended, or when the client can't learn that any more.

    `cancel` cancels the job; the future is done when that has ended, with JobCancelled. Its
    callbacks run on a thread of its own, on which they may block.
    """

    def __init__(self, io: IoThread, core: ClientCore, job_id: str) -> None:
        """Begins to follow the job. Raises ConnectionFailed for a closed client."""
        super().__init__()
        self._io = io
        self._core = core
        self._job_id = job_id
        self.set_running_or_notify_cancel()
        io.run(core.result(job_id), self._followed)

    def cancel(self) -> bool:
        """Asks the daemon to cancel the job, without waiting. False when it is done already."""
        if self.done():
            return False
        try:
            self._io.run(self._core.cancel(self._job_id), self._cancelled)
        except CumulusError:
            return False  # the client is closed
        return True

    def _cancelled(self, cancelling: "concurrent.futures.Future[bool]") -> None:
        error = None if cancelling.cancelled() else cancelling.exception()
        if error is not None:
            _log.error("cancelling job %s failed: %s", self._job_id, error)

    def _followed(self, following: "concurrent.futures.Future[Any]") -> None:
        # On the event loop's thread, where a callback that waits for a job would wait for itself.
        threading.Thread(
            target=self._ended, args=(following,), name="cumulus-job-future", daemon=True
        ).start()

    def _ended(self, following: "concurrent.futures.Future[Any]") -> None:
        if following.cancelled():
            error: BaseException | None = ConnectionFailed(
                f"this Cumulus client was closed before job {self._job_id} had ended",
                job_id=self._job_id,
                hint=f"attach to it: client.attach({self._job_id!r})",
            )
        else:
            error = following.exception()
        if error is None:
            self.set_result(following.result())
            return
        if isinstance(error, CumulusError):
            bare(error.__cause__)
            error = error.with_traceback(None)
        self.set_exception(error)
