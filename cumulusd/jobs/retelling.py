"""Tells those who listen to waiting jobs when what these wait for is another thing, a few at a
time: where each stands changes with every job that goes, and there may be very many of both."""

from collections import deque
from collections.abc import Callable

from cumulusd.jobs.model import JobRecord, Wait
from cumulusd.jobs.ports import Clock, DelayedCall
from cumulusd.jobs.queue import JobQueue
from cumulusd.jobs.table import JobTable

#: Between two slices; the first after a pause comes at once.
_PAUSE_S = 0.05
#: So many are told in one slice, and so many looked at for somebody who listens.
TOLD = 50
_LOOKED_AT = 200


class Retelling:
    """Rounds over the line, in slices. A round begins when something changed since the last one
    did; who is followed comes first."""

    def __init__(
        self,
        *,
        table: JobTable,
        line: JobQueue,
        wait_of: Callable[[JobRecord], Wait | None],
        clock: Clock,
    ) -> None:
        self._table = table
        self._line = line
        self._wait_of = wait_of
        self._clock = clock
        self._heard: list[Callable[[str], bool]] = []
        self._round: deque[str] = deque()
        self._is_due = False
        self._next: DelayedCall | None = None
        self._last_at = -_PAUSE_S

    def add(self, is_heard: Callable[[str], bool]) -> None:
        """`is_heard(job id)`: somebody listens to that job, otherwise than by its signal."""
        self._heard.append(is_heard)

    def soon(self) -> None:
        """Something changed."""
        self._is_due = True
        if self._next is None:
            wait_s = self._last_at + _PAUSE_S - self._clock.seconds()
            if wait_s <= 0:
                self._tell_some()
            else:
                self._next = self._clock.callLater(wait_s, self._tell_some)

    def stop(self) -> None:
        """Tells nobody any more."""
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _tell_some(self) -> None:
        self._next = None
        if not self._round and self._is_due:
            self._is_due = False
            first = [job_id for job_id in self._table.followed() if job_id in self._line]
            self._round.extend(first)
            if self._heard:
                known = set(first)
                self._round.extend(job_id for job_id in self._line if job_id not in known)
        told = looked_at = 0
        while self._round and told < TOLD and looked_at < _LOOKED_AT:
            job_id = self._round.popleft()
            looked_at += 1
            record = self._table.get(job_id)
            if record is None or job_id not in self._line or not self._is_listened_to(job_id):
                continue
            wait = self._wait_of(record)
            if wait is not None:
                told += 1
                self._table.explain(job_id, wait)
        self._last_at = self._clock.seconds()
        if self._round or self._is_due:
            self._next = self._clock.callLater(_PAUSE_S, self._tell_some)

    def _is_listened_to(self, job_id: str) -> bool:
        return self._table.is_followed(job_id) or any(heard(job_id) for heard in self._heard)
