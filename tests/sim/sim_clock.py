"""Simulated time: one heap of timers for all, and a clock for each process that dies with it.

`ProcessClock` is what the code under test is handed as its reactor: `seconds` and `callLater`, as
`twisted.internet.task.Clock` has them. Timers of a process that was killed never fire.
"""

import heapq
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

BEGIN_S = 1_000.0
#: Unix time at the begin of every schedule.
BEGIN_UNIX_S = 1_800_000_000.0


class Timer:
    """One delayed call."""

    __slots__ = ("_active", "arguments", "at", "call", "owner")

    def __init__(
        self, at: float, call: Callable[..., Any], arguments: tuple[Any, ...], owner: Any
    ) -> None:
        self.at = at
        self.call = call
        self.arguments = arguments
        self.owner = owner
        self._active = True

    def active(self) -> bool:
        return self._active

    def cancel(self) -> None:
        if not self._active:
            raise RuntimeError("a timer was cancelled that is not active")
        self._active = False

    def getTime(self) -> float:
        return self.at


class SimClock:
    """All timers, in order of time, then of making."""

    def __init__(self) -> None:
        self.now = BEGIN_S
        self.steps = 0
        self.burying = False  #: what a killed process still says is of no interest
        self._heap: list[tuple[float, int, Timer]] = []
        self._made = 0

    def seconds(self) -> float:
        return self.now

    def callLater(self, delay: float, call: Callable[..., Any], *arguments: Any) -> Timer:
        return self.call_for(None, delay, call, arguments)

    def call_for(
        self, owner: Any, delay: float, call: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Timer:
        assert delay >= 0, delay
        timer = Timer(self.now + delay, call, arguments, owner)
        self._made += 1
        heapq.heappush(self._heap, (timer.at, self._made, timer))
        return timer

    def step(self) -> bool:
        """Runs the next timer; False when there is none."""
        while self._heap:
            at, _, timer = heapq.heappop(self._heap)
            if not timer._active or (timer.owner is not None and not timer.owner.alive):
                continue
            timer._active = False
            self.now = max(self.now, at)
            self.steps += 1
            timer.call(*timer.arguments)
            return True
        return False

    def timers_of(self, owner: Any) -> list[Timer]:
        """Those of that process that would still fire: not what comes back to it, from a thread or
        over a wire, by itself."""
        return [
            timer
            for _, _, timer in self._heap
            if timer._active and timer.owner is owner and timer.call is not _come_back
        ]


class ProcessClock:
    """One process's reactor, as far as time goes."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self.alive = True

    def seconds(self) -> float:
        return self._clock.now

    def callLater(self, delay: float, call: Callable[..., Any], *arguments: Any) -> Timer:
        return self._clock.call_for(self, delay, call, arguments)

    def kill(self) -> None:
        """Nothing of this process happens any more."""
        self.alive = False

    def later(self, delay: float) -> Deferred[None]:
        """Fires after `delay`; never when the process is killed before."""
        waiting: Deferred[None] = Deferred(lambda _: timer.cancel() if timer.active() else None)
        timer = self.callLater(delay, _come_back, waiting)
        return waiting


def _come_back(waiting: Deferred[None]) -> None:
    waiting.callback(None)
