"""One timer for whatever is due next."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: A reactor can't wait for ever; an alarm that rings too early is set again.
_MAX_DELAY_S = 3600.0


class Alarm:
    """Rings when the earliest of somebody's deadlines has come."""

    def __init__(
        self, clock: IReactorTime, next_at: Callable[[], float | None], ring: Callable[[], None]
    ) -> None:
        """`next_at`: in the clock's seconds, None when nothing is due. `ring` handles all that is
        due, and may find that nothing is."""
        self._clock = clock
        self._next_at = next_at
        self._ring = ring
        self._timer: IDelayedCall | None = None

    def arm(self) -> None:
        """Deadlines may have come, moved or gone."""
        due_at = self._next_at()
        timer = self._timer
        if due_at is None:
            if timer is not None:
                self._timer = None
                timer.cancel()
            return
        if timer is not None:
            if timer.getTime() <= due_at:
                return
            timer.cancel()
        delay_s = min(max(0.0, due_at - self._clock.seconds()), _MAX_DELAY_S)
        self._timer = self._clock.callLater(delay_s, self._rings)

    def _rings(self) -> None:
        self._timer = None
        self._ring()
        self.arm()
