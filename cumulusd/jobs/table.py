"""The jobs in memory: what every reader sees. Written by the supervisor only, after the disk."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import attrs
from twisted.logger import Logger

from cumulusd.jobs.model import JobRecord, Phase, Wait
from cumulusd.tasks import Signal

LIVE = frozenset(Phase) - {Phase.ENDED}
#: Phases in which a job holds, or may hold, a share of a device.
HOLDING = LIVE - {Phase.QUEUED, Phase.PAUSED}

Watch = Callable[[JobRecord | None, JobRecord], None]


class JobTable:
    """Records by job id, the idempotency keys, and a signal per job that is being followed."""

    _log = Logger()

    def __init__(self) -> None:
        self._records: dict[str, JobRecord] = {}
        self._live: dict[str, JobRecord] = {}
        #: (when it ended, job id) of those that have left their worker, in that order.
        self._ends: list[tuple[float, str]] = []
        self._of_owner: dict[str, dict[str, None]] = {}  #: job ids, oldest first
        #: Node id -> ids of the jobs that hold, or may hold, a share there.
        self._on_node: dict[str, dict[str, None]] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._signals: dict[str, Signal] = {}
        self._watchers: list[Watch] = []
        self._mourners: list[Callable[[str], None]] = []

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._records

    def get(self, job_id: str) -> JobRecord | None:
        """The record as it stands on disk."""
        return self._records.get(job_id)

    def all(self) -> Iterator[JobRecord]:
        """Every record, oldest first."""
        return iter(self._records.values())

    def newest(self, owner: str | None = None) -> Iterator[JobRecord]:
        """The same, newest first; with an owner, theirs."""
        if owner is None:
            return reversed(self._records.values())
        return (self._records[job_id] for job_id in reversed(self._of_owner.get(owner, {})))

    def live(self) -> Iterable[JobRecord]:
        """Those that may still have something on a worker, or wait."""
        return self._live.values()

    @property
    def ended_count(self) -> int:
        """How many have ended, and left their worker."""
        return len(self._ends)

    def oldest_ends(self, count: int | None = None) -> list[JobRecord]:
        """So many of those, all of them without a count, the oldest end first."""
        return [self._records[job_id] for _, job_id in islice(self._ends, count)]

    def ended_before(self, moment: float) -> list[JobRecord]:
        """Those whose end was before that, in unix seconds, the oldest first."""
        return self.oldest_ends(bisect_left(self._ends, (moment, "")))

    def by_key(self, owner: str, key: str) -> JobRecord | None:
        """The job that was submitted under this idempotency key."""
        job_id = self._keys.get((owner, key))
        return None if job_id is None else self._records.get(job_id)

    def watch(self, changed: Watch) -> None:
        """`changed(before, after)` after every change that a reader can see; new: before None."""
        self._watchers.append(changed)

    def watch_forgotten(self, forgotten: Callable[[str], None]) -> None:
        """`forgotten(job id)` after a record was dropped."""
        self._mourners.append(forgotten)

    def put(self, record: JobRecord) -> None:
        """Shows a record that is on disk."""
        before = self._records.get(record.job_id)
        self._records[record.job_id] = record
        if before is None:
            self._of_owner.setdefault(record.owner, {})[record.job_id] = None
        self._place_end(before, record)
        self._place_on_node(before, record)
        if record.phase is Phase.ENDED:
            self._live.pop(record.job_id, None)
        else:
            self._live[record.job_id] = record
        if record.spec.idempotency_key is not None:
            self._keys[record.owner, record.spec.idempotency_key] = record.job_id
        self._tell(before, record)

    def explain(self, job_id: str, wait: Wait, phase: Phase = Phase.QUEUED) -> JobRecord | None:
        """Shows why a job that is in `phase` waits (derived, so not on disk). None when that is
        no news, or the job has gone on."""
        record = self._records.get(job_id)
        if record is None or record.phase is not phase or record.wait == wait:
            return None
        explained = attrs.evolve(record, wait=wait)
        self._records[job_id] = self._live[job_id] = explained
        self._tell(record, explained)
        return explained

    def forget(self, job_id: str) -> None:
        """Drops a record that history no longer keeps."""
        record = self._records.pop(job_id, None)
        self._live.pop(job_id, None)
        self._place_end(record, None)
        self._place_on_node(record, None)
        if record is not None:
            theirs = self._of_owner[record.owner]
            del theirs[job_id]
            if not theirs:
                del self._of_owner[record.owner]
        if record is not None and record.spec.idempotency_key is not None:
            self._keys.pop((record.owner, record.spec.idempotency_key), None)
        self.wake(job_id)
        for mourner in self._mourners:
            mourner(job_id)

    def placed(self) -> list[JobRecord]:
        """Those that hold, or may hold, a share."""
        return [record for record in self._live.values() if record.phase in HOLDING]

    def placed_on(self, node_id: str) -> list[JobRecord]:
        """Those of them that are on that node."""
        return [self._records[job_id] for job_id in self._on_node.get(node_id, ())]

    def signal(self, job_id: str) -> Signal:
        """Fires when the job's record or journal changed."""
        return self._signals.setdefault(job_id, Signal())

    def wake(self, job_id: str) -> None:
        """Wakes the job's followers."""
        signal = self._signals.pop(job_id, None)
        if signal is not None:
            signal.fire()

    def _place_end(self, before: JobRecord | None, after: JobRecord | None) -> None:
        was, now = _end_of(before), _end_of(after)
        if was == now:
            return
        if was is not None:
            del self._ends[bisect_left(self._ends, was)]
        if now is not None:
            insort(self._ends, now)

    def _place_on_node(self, before: JobRecord | None, after: JobRecord | None) -> None:
        was, now = _node_of(before), _node_of(after)
        if was == now:
            return
        if before is not None and was is not None:
            there = self._on_node[was]
            del there[before.job_id]
            if not there:
                del self._on_node[was]
        if after is not None and now is not None:
            self._on_node.setdefault(now, {})[after.job_id] = None

    def _tell(self, before: JobRecord | None, after: JobRecord) -> None:
        self.wake(after.job_id)
        for watcher in self._watchers:
            try:
                watcher(before, after)
            except Exception:
                # Who looks on must not keep a job, saved already, from what is to be done next.
                self._log.failure("a watcher of the jobs failed", job_id=after.job_id)


def _end_of(record: JobRecord | None) -> tuple[float, str] | None:
    if record is None or record.phase is not Phase.ENDED:
        return None
    return record.ended_at or 0.0, record.job_id


def _node_of(record: JobRecord | None) -> str | None:
    """Where it holds a share."""
    if record is None or record.placement is None or record.phase not in HOLDING:
        return None
    return record.placement.node_id
