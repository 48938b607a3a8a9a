"""The jobs that wait: what they are told, worked out when somebody asks, and who waits no more."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from cumulus_wire.codes import WaitReason
from cumulusd.jobs import ends, waits
from cumulusd.jobs.model import End, JobRecord, Wait
from cumulusd.jobs.owner_line import Entry
from cumulusd.jobs.ports import AgentView, Node
from cumulusd.jobs.queue import JobQueue
from cumulusd.jobs.room import Room
from cumulusd.jobs.telling import Teller, timed_out


class Lacking:
    """Since when no device that is there is large enough, by size."""

    def __init__(self) -> None:
        #: (units, unix time): more than so many are lacking since then; units fall, times rise.
        self._steps: list[tuple[int, float]] = []

    def see(self, largest: int, now: float) -> None:
        """So large is the largest device now, in units."""
        earliest: float | None = None
        while self._steps and self._steps[-1][0] <= largest:
            earliest = self._steps.pop()[1]
        if earliest is not None:
            self._steps.append((largest, earliest))
        elif not self._steps or self._steps[-1][0] > largest:
            self._steps.append((largest, now))

    def since(self, units: int) -> float | None:
        """Unix time; None: one of that size is there."""
        at = bisect_left(self._steps, -units + 1, key=lambda step: -step[0])
        return self._steps[at][1] if at < len(self._steps) else None


class Waiting:
    """What a pass leaves behind: for how each job waits after it, and which wait no longer."""

    def __init__(self, line: JobQueue, room: Room, agent_grace_s: float) -> None:
        self._line = line
        self._room = room
        self._agent_grace_s = agent_grace_s
        self._lacking = Lacking()
        self._lacking_on: dict[str, Lacking] = {}  #: the same of the nodes that jobs are pinned to
        self._nodes: Mapping[str, Node] = {}
        self._agents: Mapping[str, AgentView] = {}
        self._tellers: dict[str | None, Teller] = {}
        #: Those that came after the last pass: nothing is known of them yet.
        self._new: set[str] = set()
        self._impatient: dict[str, None] = {}  #: whose time in the queue is over, it is said

    def add(self, record: JobRecord) -> None:
        """It is in the line."""
        self._new.add(record.job_id)
        if record.spec.queue_timeout_s == 0:
            self._impatient[record.job_id] = None

    def time_is_over(self, job_id: str) -> None:
        """Its time in the queue is: it is refused after the next pass, if that doesn't place it."""
        if job_id in self._line:
            self._impatient[job_id] = None

    def renew(self, nodes: Sequence[Node], agents: Mapping[str, AgentView]) -> None:
        """After a pass that found something new."""
        self._nodes = {node.node_id: node for node in nodes}
        self._agents = dict(agents)
        self._tellers.clear()

    def passed(self, now: float) -> None:
        """After each pass."""
        self._new.clear()
        self._lacking.see(self._room.largest_total, now)
        pins = self._line.pins()
        for pinned in self._lacking_on.keys() - pins:
            del self._lacking_on[pinned]
        for pinned in pins:
            lacking = self._lacking_on.setdefault(pinned, Lacking())
            lacking.see(self._room.largest_on(pinned), now)

    def explained(self, record: JobRecord) -> Wait | None:
        """Why it waits, as it is now; None: it isn't in the line, or no pass has seen it yet."""
        entry = self._line.get(record.job_id)
        if entry is None or record.job_id in self._new:
            return None
        return self._wait(entry)

    def reason(self, record: JobRecord) -> WaitReason | None:
        """The same in short."""
        entry = self._line.get(record.job_id)
        if entry is None or record.job_id in self._new or not self._has_node(entry):
            return None
        return self._teller(entry.pinned).reason(entry.units)

    def lost(self) -> dict[str, End]:
        """The ends of those that may run only on workers that were removed from the pool."""
        found = {}
        for pinned in self.gone():
            for job_id in self._line.pinned(pinned):
                entry = self._line.get(job_id)
                assert entry is not None
                found[job_id] = (
                    ends.end_of_lost_checkpoint(
                        entry.record, "a worker", "that worker was removed from the pool"
                    )
                    if entry.record.needs_kept
                    else ends.end_of_lost_node(entry.record)
                )
        return found

    def gone(self) -> list[str]:
        """The nodes that jobs are pinned to, and that are not in the pool."""
        return [pinned for pinned in self._line.pins() if pinned not in self._nodes]

    def refused(self, now: float, observed_since: float) -> dict[str, End]:
        """The ends of those whose time in the queue is over, and of those that no present worker
        could ever take, once that has lasted for the agents' grace; a job that is pinned to a
        worker waits for it. It counts from `observed_since` at the earliest, when this daemon
        first saw the pool. Times are unix seconds."""
        found: dict[str, End] = {}
        for job_id in list(self._impatient):
            entry = self._line.get(job_id)
            if entry is None:
                del self._impatient[job_id]
                continue
            timeout_s = entry.record.spec.queue_timeout_s
            if timeout_s is not None and now - entry.record.waits_since >= timeout_s:
                del self._impatient[job_id]
                wait = self._wait(entry)
                if wait is not None:
                    found[job_id] = timed_out(entry.record, wait)
        for units in self._line.sizes_over(self._room.largest_total):
            since = self._lacking.since(units)
            if since is None or now - max(since, observed_since) < self._agent_grace_s:
                continue
            for job_id in self._line.of_size(units):
                entry = self._line.get(job_id)
                assert entry is not None
                waited_s = now - max(since, entry.pushed_at, observed_since)
                if waited_s < self._agent_grace_s:
                    break  # those behind it came later
                if entry.pinned is None and job_id not in found:
                    found[job_id] = self._teller(None).unschedulable(entry.record.spec, waited_s)
        return found

    def _wait(self, entry: Entry) -> Wait | None:
        if not self._has_node(entry):
            return None
        position = self._line.position(entry.record.job_id)
        assert position is not None
        lacking = self._lacking if entry.pinned is None else self._lacking_on.get(entry.pinned)
        since = None if lacking is None else lacking.since(entry.units)
        told = self._teller(entry.pinned).wait(
            entry.record.spec,
            position,
            len(self._line),
            max(entry.pushed_at, since or entry.pushed_at),
        )
        if entry.pinned is None:
            return told
        return waits.pinned(told, self._nodes[entry.pinned], entry.record.needs_kept)

    def _has_node(self, entry: Entry) -> bool:
        return entry.pinned is None or entry.pinned in self._nodes

    def _teller(self, pinned: str | None) -> Teller:
        teller = self._tellers.get(pinned)
        if teller is None:
            if pinned is None:
                slots, nodes = self._room.slots(), list(self._nodes.values())
            else:
                slots, nodes = self._room.slots_on(pinned), [self._nodes[pinned]]
            teller = self._tellers[pinned] = Teller(slots, nodes, self._agents)
        return teller
