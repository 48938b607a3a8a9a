"""What a blocking caller needs on top of the client's coroutines: waiting, and Ctrl-C."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from cumulus_client._core import MAYBE_ACCEPTED, ClientCore
from cumulus_client._io_future import IoFuture
from cumulus_client._io_thread import IoThread
from cumulus_client.exceptions import ClientTimeout, Conflict, CumulusError

#: How long run() waits for the end of a job that Ctrl-C cancelled.
CANCEL_WAIT_S = 60.0
BEGIN_WAIT_S = 1.0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C by other means: a signal that asks the process to end. `signal_name`: "SIGTERM"."""

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name
        self.exit_code = exit_code


def begin(io: IoThread, coroutine: Coroutine[Any, Any, None]) -> None:
    """Waits a moment for what only begins something, so that the end of the program, should it
    come next, finds it begun."""
    try:
        beginning = io.run(coroutine)
        if not io.is_current():
            beginning.wait(time.monotonic() + BEGIN_WAIT_S)
    except CumulusError:
        pass  # the client is closed


def client_timeout(
    url: str, job_id: str | None, *, submitting: bool = True, mapping: bool = False
) -> ClientTimeout:
    """What is raised when the caller's own `timeout` is over. `submitting`: the daemon may have
    been told of the job. `mapping`: it was that of a map."""
    if mapping:
        return ClientTimeout(
            "Client timeout exceeded before map() had the next result; its jobs that are under way "
            "are cancelled",
            hint="give a longer timeout, or none",
        )
    if job_id is not None:
        return ClientTimeout(
            f"Client timeout exceeded; job {job_id} goes on",
            job_id=job_id,
            hint=f"wait for it with client.attach({job_id!r}).result(), or cancel it with "
            f"client.cancel_job({job_id!r})",
        )
    if submitting:
        return ClientTimeout(
            f"Client timeout exceeded before {url} accepted the job", hint=MAYBE_ACCEPTED
        )
    return ClientTimeout(
        f"Client timeout exceeded before {url} had taken the job's package",
        hint="no job was submitted; can the daemon be reached from here, and does it answer?",
    )


class Interruption:
    """What Ctrl-C does to a followed job: the first cancels it, the second detaches."""

    def __init__(
        self,
        io: IoThread,
        core: ClientCore,
        note: Callable[[str], None],
        *,
        come_back: str,
        cancels_unread: bool = True,
    ) -> None:
        """`come_back`: how its reader gets at the job again, `{}` standing for its id.
        `cancels_unread`: cancel the job also when nobody reads its output any more."""
        self._io = io
        self._core = core
        self._write_note = note
        self._come_back = come_back
        self._cancels_unread = cancels_unread
        self._first: BaseException | None = None
        self._detached = False
        self._cancelling: IoFuture[bool] | None = None
        self.deadline: float | None = None

    @property
    def begun(self) -> bool:
        """The job is being cancelled."""
        return self._first is not None

    def interrupted(self, job_id: str | None, error: BaseException) -> None:
        """Raises `error` when that was the second time, or there is no job yet."""
        by = f"{error.signal_name}: " if isinstance(error, Interrupted) else ""
        if job_id is None:
            raise error
        if self._first is not None:
            self._note(
                f"{by}detached; job {job_id} may still be running: come back with "
                f"{self._come_back.format(job_id)}"
            )
            if self._cancelling is not None and not self._detached:
                self._detached = True  # so that one more Ctrl-C ends the wait, too
                # Two in one breath: the daemon is to have heard the first before the program ends.
                self._cancelling.wait(time.monotonic() + BEGIN_WAIT_S)
            raise error
        self._first = error
        self.deadline = time.monotonic() + CANCEL_WAIT_S
        self._cancelling = self._io.run(self._core.cancel(job_id), self._cancelled)
        again = f"another {error.signal_name}" if isinstance(error, Interrupted) else "Ctrl-C again"
        self._note(f"{by}cancelling job {job_id} ({again} detaches from it)")

    def unread(self, job_id: str | None, error: OSError) -> None:
        """Nobody reads the job's output any more. Raises `error` unless the job is cancelled."""
        if not self._cancels_unread:
            raise error
        self.interrupted(job_id, error)

    def _note(self, text: str) -> None:
        try:
            self._write_note(text)
        except OSError:
            pass  # the terminal is gone; the job is to be cancelled all the same

    def _cancelled(self, cancelling: IoFuture[bool]) -> None:
        error = None if cancelling.cancelled() else cancelling.exception()
        if error is not None and not isinstance(error, Conflict):
            self._note(f"cancelling failed: {error}")

    def gave_up(self, job_id: str | None) -> None:
        """The deadline is over. Raises the interruption, if there was one."""
        if self._first is not None:
            self._note(f"job {job_id} did not end within {CANCEL_WAIT_S:g} s of being cancelled")
            raise self._first

    def raise_if_any(self) -> None:
        """Raises the interruption, if there was one."""
        if self._first is not None:
            raise self._first
