"""When the workers have nothing to start: then what jobs left behind is cleared."""

from collections import deque

from twisted.internet.defer import Deferred

from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Clock, DelayedCall
from cumulusd.jobs.table import JobTable

#: So long nothing may be on its way to its start. A platform says as late that a container ended.
QUIET_S = 0.2
#: More never wait: who comes then waits with them no longer.
MAX_WAITING = 1000


class Lull:
    """Work that may wait, waits here while jobs start, which keeps workers and platform busy.

    All who wait go on together, so that they can share a look. A job starts from its placement
    until its runner has spoken.
    """

    def __init__(self, *, table: JobTable, clock: Clock, at_most_s: float) -> None:
        """`at_most_s`: nobody waits longer."""
        self._clock = clock
        self._at_most_s = at_most_s
        self._starting: set[str] = set()
        self._waiting: deque[Deferred[None]] = deque()
        self._quiet: DelayedCall | None = None
        self._bound: DelayedCall | None = None
        table.watch(self._changed)

    def wait(self) -> Deferred[None]:
        """Fires when nothing has been starting for a moment, or the bound is reached; may be
        cancelled."""
        waiting: Deferred[None] = Deferred(self._forget)
        self._waiting.append(waiting)
        if len(self._waiting) >= MAX_WAITING:
            self.end()
        elif self._bound is None:
            self._bound = self._clock.callLater(self._at_most_s, self.end)
            self._look()
        return waiting

    def _changed(self, before: JobRecord | None, after: JobRecord) -> None:
        if _starts(after):
            self._starting.add(after.job_id)
        else:
            self._starting.discard(after.job_id)
        self._look()

    def _look(self) -> None:
        if self._starting or not self._waiting:
            _cancel(self._quiet)
            self._quiet = None
        elif self._quiet is None:
            self._quiet = self._clock.callLater(QUIET_S, self.end)

    def end(self) -> None:
        """All who wait go on now: somebody waits for one of them."""
        self._end_timers()
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            each.callback(None)

    def _forget(self, waiting: Deferred[None]) -> None:
        self._waiting.remove(waiting)
        if not self._waiting:
            self._end_timers()

    def _end_timers(self) -> None:
        _cancel(self._quiet)
        _cancel(self._bound)
        self._quiet = self._bound = None


def _starts(record: JobRecord) -> bool:
    if record.phase is Phase.STARTING:
        return record.setup_at is None
    return record.phase in (Phase.PREPARING, Phase.LAUNCHING)


def _cancel(timer: DelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
