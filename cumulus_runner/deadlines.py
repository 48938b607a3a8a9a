"""When what a job is at must be over: its set-up, its code, and all of it on this worker."""

from __future__ import annotations

from cumulus_runner.boot import boot_id, boot_time
from cumulus_runner.outcome import JobFailed, Stop
from cumulus_wire.codes import EndReason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cumulus_runner.orders import Orders
    from cumulus_runner.supervisor import Supervisor

#: Between the last SIGKILL and the moment at which nothing may be left.
LAST_MARGIN_S = 15.0


class Deadlines:
    """Sets the supervisor's one deadline as the job goes on. Times are those of the boot clock."""

    def __init__(self, orders: Orders, supervisor: Supervisor, begun_at: float) -> None:
        """`begun_at`: when the runner began."""
        self._orders = orders
        self._supervisor = supervisor
        self._begun_at = begun_at

    @property
    def last_moment(self) -> float:
        """When the job is stopped in any case, so that it is gone at the very last one."""
        return self._orders.last_moment_s - self._orders.stop_grace_s - LAST_MARGIN_S

    def refuse_late(self) -> None:
        """Raises JobFailed where the daemon may have taken this attempt for over and begun another
        one elsewhere: after a restart of the worker, and past the last moment."""
        orders = self._orders
        try:
            restarted = orders.boot_id is not None and orders.boot_id != boot_id()
        except OSError:
            restarted = False  # nobody can tell
        if restarted:
            why = "the worker was restarted since the job was placed on it"
        elif boot_time() >= self.last_moment:
            why = "the time in which the job could run on this worker is over"
        else:
            return
        raise JobFailed(
            EndReason.RUNNER_FAILED, f"{why}; nothing was started", "Submit the job again."
        )

    def begin_setup(self) -> None:
        """Set-up has its own time, from the runner's begin."""
        orders = self._orders
        self._set(
            self._begun_at + orders.setup_timeout_s,
            Stop(
                EndReason.SETUP_TIMEOUT,
                f"setting up took longer than its {orders.setup_timeout_s:g} s",
                orders.stop_grace_s,
            ),
        )

    def begin_code(self, now: float) -> None:
        """The code has what is left of the job's duration."""
        orders = self._orders
        self._set(
            now + orders.duration_s,
            Stop(
                EndReason.DURATION_EXCEEDED,
                f"the code ran longer than its {orders.ran_s + orders.duration_s:g} s",
                orders.stop_grace_s,
            ),
        )

    def _set(self, deadline: float, stop: Stop) -> None:
        """The deadline, or the last moment where that comes first."""
        if self.last_moment < deadline:
            message = f"{stop.message}, or the start took so long that the worker's time was over"
            deadline, stop = self.last_moment, Stop(stop.reason, message, stop.grace_s)
        self._supervisor.set_deadline(deadline, stop)
