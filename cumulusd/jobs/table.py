"""The jobs in memory: what every reader sees. Written by the supervisor only, after the disk."""

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import attrs
from twisted.logger import Logger

from cumulus_wire.states import JobState
from cumulusd.jobs import codec
from cumulusd.jobs.by_age import ByAge
from cumulusd.jobs.ended_job import EndedJob, is_kept_packed
from cumulusd.jobs.model import JobRecord, Phase, Wait
from cumulusd.tasks import Signal

LIVE = frozenset(Phase) - {Phase.ENDED}
#: Phases in which a job holds, or may hold, a share of a device.
HOLDING = LIVE - {Phase.QUEUED, Phase.PAUSED}

#: Ended jobs whose record is at hand unpacked: those that were asked for last.
UNPACKED = 256

Watch = Callable[[JobRecord | None, JobRecord], None]


class JobTable:
    """Records by job id, the idempotency keys, and a signal per job that is being followed.

    Of jobs that have ended and left their worker the record is packed: `get` gives it whole, and
    what goes through many of them looks at `EndedJob`.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._records: dict[str, JobRecord | EndedJob] = {}
        self._unpacked: OrderedDict[str, JobRecord] = OrderedDict()
        self._live: dict[str, JobRecord] = {}
        self._by_age = ByAge()
        self._live_by_age = ByAge()
        #: Owner -> state -> how many, of those whose end isn't known.
        self._states: dict[str, Counter[JobState]] = {}
        self._holding: dict[str, JobRecord] = {}
        #: (when it ended, job id) of those that have left their worker, in that order.
        self._ends: list[tuple[float, str]] = []
        #: Node id -> ids of the jobs that hold, or may hold, a share there.
        self._on_node: dict[str, dict[str, None]] = {}
        #: Of those that are being cleared, the ones whose worker has given their share back.
        self._without_share: set[str] = set()
        self._keys: dict[tuple[str, str], str] = {}
        self._signals: dict[str, Signal] = {}
        self._readers: dict[str, int] = {}  #: job id -> how many follow it
        self._watchers: list[Watch] = []
        self._givers: list[Callable[[str], None]] = []
        self._mourners: list[Callable[[str], None]] = []

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._records

    def get(self, job_id: str) -> JobRecord | None:
        """The record as it stands on disk."""
        found = self._records.get(job_id)
        if not isinstance(found, EndedJob):
            return found
        record = self._unpacked.get(job_id)
        if record is None:
            record = found.record()
        self._keep_unpacked(record)
        return record

    def owner(self, job_id: str) -> str | None:
        """Whose job that is; None: there is none."""
        found = self._records.get(job_id)
        return None if found is None else found.owner

    def all(self) -> Iterator[JobRecord | EndedJob]:
        """Every job, in the order they came in."""
        return iter(self._records.values())

    def newest(
        self, owner: str | None = None, until: float | None = None
    ) -> Iterator[JobRecord | EndedJob]:
        """The same, newest first; with an owner, theirs; with `until`, those created by then, in
        unix seconds. The table must not change meanwhile."""
        return (self._records[job_id] for job_id in self._by_age.newest(owner, until))

    def newest_live(self, owner: str | None = None) -> Iterator[JobRecord]:
        """Of those in `live`, newest first; with an owner, theirs. As `newest`."""
        return (self._live[job_id] for job_id in self._live_by_age.newest(owner))

    def counts(self, may_see: Callable[[str], bool]) -> Mapping[JobState, int]:
        """How many have each state, of those whose end isn't known and whose owner `may_see`
        takes."""
        total: Counter[JobState] = Counter()
        for owner, states in self._states.items():
            if may_see(owner):
                total.update(states)
        return total

    def live(self) -> Iterable[JobRecord]:
        """Those that may still have something on a worker, or wait."""
        return self._live.values()

    @property
    def ended_count(self) -> int:
        """How many have ended, and left their worker."""
        return len(self._ends)

    def oldest_ends(self, count: int | None = None) -> list[str]:
        """The ids of so many of those, all of them without a count, the oldest end first."""
        return [job_id for _, job_id in islice(self._ends, count)]

    def ended_before(self, moment: float) -> list[str]:
        """The ids of those whose end was before that, in unix seconds, the oldest first."""
        return self.oldest_ends(bisect_left(self._ends, (moment, "")))

    def by_key(self, owner: str, key: str) -> JobRecord | None:
        """The job that was submitted under this idempotency key."""
        job_id = self._keys.get((owner, key))
        return None if job_id is None else self.get(job_id)

    def watch(self, changed: Watch) -> None:
        """`changed(before, after)` after every change that a reader can see; new: before None."""
        self._watchers.append(changed)

    def watch_forgotten(self, forgotten: Callable[[str], None]) -> None:
        """`forgotten(job id)` after a record was dropped."""
        self._mourners.append(forgotten)

    def watch_shares(self, given_back: Callable[[str], None]) -> None:
        """`given_back(job id)` after `share_given_back`."""
        self._givers.append(given_back)

    def put(self, record: JobRecord) -> None:
        """Shows a record that is on disk."""
        before = self.get(record.job_id)
        if is_kept_packed(record):
            self._records[record.job_id] = EndedJob.of(record, codec.dumps(record))
            self._keep_unpacked(record)
        else:
            self._records[record.job_id] = record
            self._unpacked.pop(record.job_id, None)
        self._place(before, record)
        if record.phase is not Phase.ENDING:
            self._without_share.discard(record.job_id)
        if record.phase is Phase.ENDED:
            self._live.pop(record.job_id, None)
        else:
            self._live[record.job_id] = record
        if self.holds(record):
            self._holding[record.job_id] = record
        else:
            self._holding.pop(record.job_id, None)
        if record.spec.idempotency_key is not None:
            self._keys[record.owner, record.spec.idempotency_key] = record.job_id
        self._tell(before, record)

    def put_history(self, jobs: Sequence[EndedJob]) -> None:
        """Shows jobs that had ended when the daemon started: nobody is told, and none of them must
        be there. All at once, for they are many."""
        for job in jobs:
            self._records[job.job_id] = job
            self._ends.append((job.ended_at or 0.0, job.job_id))
            if job.idempotency_key is not None:
                self._keys[job.owner, job.idempotency_key] = job.job_id
        self._by_age.add_all((job.owner, (job.created_at, job.job_id)) for job in jobs)
        self._ends.sort()

    def explain(self, job_id: str, wait: Wait, phase: Phase = Phase.QUEUED) -> JobRecord | None:
        """Shows why a job that is in `phase` waits (derived, so not on disk). None when that is
        no news, or the job has gone on."""
        record = self._live.get(job_id)
        if record is None or record.phase is not phase or record.wait == wait:
            return None
        explained = attrs.evolve(record, wait=wait)
        self._records[job_id] = self._live[job_id] = explained
        if job_id in self._holding:
            self._holding[job_id] = explained
        self._tell(record, explained)
        return explained

    def forget(self, job_id: str) -> None:
        """Drops a record that history no longer keeps."""
        found = self._records.pop(job_id, None)
        self._unpacked.pop(job_id, None)
        self._live.pop(job_id, None)
        self._without_share.discard(job_id)
        self._holding.pop(job_id, None)
        if isinstance(found, EndedJob):
            self._by_age.remove(found.owner, (found.created_at, job_id))
            del self._ends[bisect_left(self._ends, (found.ended_at or 0.0, job_id))]
            self._keys.pop((found.owner, found.idempotency_key or ""), None)
        elif found is not None:
            self._place(found, None)
            self._keys.pop((found.owner, found.spec.idempotency_key or ""), None)
        self.wake(job_id)
        for mourner in self._mourners:
            mourner(job_id)

    def share_given_back(self, job_id: str) -> None:
        """The worker of a job that has ended says that its share is free; its container is still to
        be cleared."""
        record = self._live.get(job_id)
        if record is not None and record.phase is Phase.ENDING:
            self._without_share.add(job_id)
            self._holding.pop(job_id, None)
            for given_back in self._givers:
                given_back(job_id)

    def holds(self, record: JobRecord) -> bool:
        """Whether a job whose record this is holds, or may hold, a share."""
        return record.phase in HOLDING and record.job_id not in self._without_share

    def placed(self) -> list[JobRecord]:
        """Those that hold, or may hold, a share."""
        return list(self._holding.values())

    def placed_on(self, node_id: str) -> list[JobRecord]:
        """Those of them that are on that node."""
        return [self._live[job_id] for job_id in self._on_node.get(node_id, ())]

    def signal(self, job_id: str) -> Signal:
        """Fires when the job's record or journal changed."""
        return self._signals.setdefault(job_id, Signal())

    @contextmanager
    def reading(self, job_id: str) -> Iterator[None]:
        """Somebody follows the job meanwhile, whether they wait for its signal or for the reader
        just then."""
        self._readers[job_id] = self._readers.get(job_id, 0) + 1
        try:
            yield
        finally:
            self._readers[job_id] -= 1
            if not self._readers[job_id]:
                del self._readers[job_id]

    def followed(self) -> list[str]:
        """The ids of the jobs that somebody follows."""
        return list(self._readers)

    def is_followed(self, job_id: str) -> bool:
        """Is it one of those?"""
        return job_id in self._readers

    def wake(self, job_id: str) -> None:
        """Wakes the job's followers."""
        signal = self._signals.pop(job_id, None)
        if signal is not None:
            signal.fire()

    def _keep_unpacked(self, record: JobRecord) -> None:
        self._unpacked[record.job_id] = record
        self._unpacked.move_to_end(record.job_id)
        if len(self._unpacked) > UNPACKED:
            self._unpacked.popitem(last=False)

    def _place(self, before: JobRecord | None, after: JobRecord | None) -> None:
        """In all that finds it by something else than its id."""
        self._place_by_age(self._by_age, before, after)
        self._place_by_age(self._live_by_age, _if_live(before), _if_live(after))
        self._place_end(before, after)
        self._place_on_node(before, after)
        self._count(before, after)

    def _place_by_age(
        self, order: ByAge, before: JobRecord | None, after: JobRecord | None
    ) -> None:
        was = None if before is None else (before.owner, (before.created_at, before.job_id))
        now = None if after is None else (after.owner, (after.created_at, after.job_id))
        if was == now:
            return
        if was is not None:
            order.remove(*was)
        if now is not None:
            order.add(*now)

    def _count(self, before: JobRecord | None, after: JobRecord | None) -> None:
        was, now = _counted_as(before), _counted_as(after)
        if was == now:
            return
        if was is not None:
            states = self._states[was[0]]
            states[was[1]] -= 1
            if not states[was[1]]:
                del states[was[1]]
            if not states:
                del self._states[was[0]]
        if now is not None:
            self._states.setdefault(now[0], Counter())[now[1]] += 1

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


def _if_live(record: JobRecord | None) -> JobRecord | None:
    return None if record is None or record.phase is Phase.ENDED else record


def _counted_as(record: JobRecord | None) -> tuple[str, JobState] | None:
    if record is None or record.phase is Phase.ENDED or record.end is not None:
        return None
    return record.owner, record.state


def _end_of(record: JobRecord | None) -> tuple[float, str] | None:
    if record is None or record.phase is not Phase.ENDED:
        return None
    return record.ended_at or 0.0, record.job_id


def _node_of(record: JobRecord | None) -> str | None:
    """Where it holds a share."""
    if record is None or record.placement is None or record.phase not in HOLDING:
        return None
    return record.placement.node_id
