"""How far the event loop is behind: a timer a second, and how late it comes."""

from collections.abc import Callable

from cumulusd.jobs.ports import Clock, DelayedCall

INTERVAL_S = 1.0


class LoopLag:
    """Measures from `start` to `stop`. What blocks the reactor for a while shows as lag."""

    def __init__(self, clock: Clock, told: Callable[[float], None]) -> None:
        """`told` is called with each lateness, in seconds."""
        self._clock = clock
        self._told = told
        self._timer: DelayedCall | None = None

    def start(self) -> None:
        """The first measurement comes a second from now."""
        due = self._clock.seconds() + INTERVAL_S
        self._timer = self._clock.callLater(INTERVAL_S, self._ran, due)

    def stop(self) -> None:
        """Ends it."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _ran(self, due: float) -> None:
        self._told(max(0.0, self._clock.seconds() - due))
        self.start()
