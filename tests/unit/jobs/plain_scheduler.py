"""One scheduling pass as it is written down: over the whole line, job by job, from nothing.

The daemon's own (`cumulusd.jobs.scheduler` with what it is given) looks at as few jobs as it can
and remembers what has not changed; this one is what it must agree with.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from cumulusd.jobs import ends, waits
from cumulusd.jobs.model import End, JobRecord, Placement, Wait
from cumulusd.jobs.ports import AgentView, Node
from cumulusd.jobs.slots import Slot, slots_of
from cumulusd.jobs.telling import Teller, timed_out


def in_turn(line: Iterable[JobRecord], in_use: Mapping[str, int]) -> list[JobRecord]:
    """The owner with the fewest units in use is next, with the best of their jobs; that job's
    units then count as in use."""
    left, used, turns = list(line), dict(in_use), []
    while left:
        heads: dict[str, JobRecord] = {}
        for each in left:
            if each.owner not in heads or _rank(each) < _rank(heads[each.owner]):
                heads[each.owner] = each
        first = min(heads.values(), key=lambda each: (used.get(each.owner, 0), _rank(each)))
        left.remove(first)
        used[first.owner] = used.get(first.owner, 0) + first.spec.units
        turns.append(first)
    return turns


def _rank(record: JobRecord) -> tuple[int, float, str]:
    return -record.spec.priority, record.created_at, record.job_id


@attrs.frozen(kw_only=True)
class Decision:
    """Every waiting job is in exactly one of the first three."""

    placements: list[tuple[str, Placement]]
    waits: dict[str, Wait]
    refusals: dict[str, End]
    reservations: dict[str, tuple[str, str]]


def decide(
    line: Sequence[JobRecord],
    nodes: Sequence[Node],
    agents: Mapping[str, AgentView],
    running: Sequence[JobRecord],
    now: float,
    agent_grace_s: float,
    observed_since: float,
) -> Decision:
    """`line` in turn, with the waits of the decision before."""
    slots = slots_of(nodes, agents, running)
    known = {node.node_id: node for node in nodes}
    decision = Decision(placements=[], waits={}, refusals={}, reservations={})
    left: list[tuple[int, JobRecord]] = []
    for position, record in enumerate(line, start=1):
        units, pinned = record.spec.units, record.pinned_node
        if pinned is not None and pinned not in known:
            decision.refusals[record.job_id] = (
                ends.end_of_lost_checkpoint(
                    record, "a worker", "that worker was removed from the pool"
                )
                if record.needs_kept
                else ends.end_of_lost_node(record)
            )
            continue
        slot = _best_fit(_open_to(slots, pinned), units, record)
        if slot is not None:
            slot.free -= units
            placement = Placement(
                node_id=slot.node.node_id,
                hostname=slot.node.hostname,
                device_id=slot.device.device_id,
            )
            decision.placements.append((record.job_id, placement))
            continue
        left.append((position, record))
        reserved = _soonest(_open_to(slots, pinned), units)
        if reserved is not None:
            reserved.reserved = True
            where = (reserved.node.node_id, reserved.device.device_id)
            decision.reservations[record.job_id] = where
    for position, record in left:
        pinned = record.pinned_node
        seen = nodes if pinned is None else [known[pinned]]
        teller = Teller(_open_to(slots, pinned), seen, agents)
        since = _since(record, now)
        wait = teller.wait(record.spec, position, len(line), since)
        if pinned is not None:
            wait = waits.pinned(wait, known[pinned], record.needs_kept)
        timeout_s = record.spec.queue_timeout_s
        begun = max(since, observed_since)
        if timeout_s is not None and now - record.waits_since >= timeout_s:
            decision.refusals[record.job_id] = timed_out(record, wait)
        elif "since" in wait.details and pinned is None and now - begun >= agent_grace_s:
            decision.refusals[record.job_id] = teller.unschedulable(record.spec, now - begun)
        else:
            decision.waits[record.job_id] = wait
    return decision


def _open_to(slots: list[Slot], pinned: str | None) -> list[Slot]:
    return [slot for slot in slots if pinned in (None, slot.node.node_id)]


def _best_fit(slots: list[Slot], units: int, record: JobRecord) -> Slot | None:
    shunned = record.attempts[-1].node_id if record.attempts else None
    fitting = [slot for slot in slots if not slot.reserved and slot.free >= units]
    return min(
        fitting,
        key=lambda slot: (slot.node.node_id == shunned, slot.free, slot.key),
        default=None,
    )


def _soonest(slots: list[Slot], units: int) -> Slot | None:
    def rank(slot: Slot) -> tuple[float, int, tuple[str, int, str]]:
        at = slot.frees_by(units)
        return (float("inf") if at is None else at, -slot.free, slot.key)

    large = [
        slot
        for slot in slots
        if not (slot.reserved or slot.fault) and slot.device.units_total >= units
    ]
    return min(large, key=rank, default=None)


def _since(record: JobRecord, now: float) -> float:
    since = None if record.wait is None else record.wait.details.get("since")
    return float(since) if isinstance(since, int | float) else now
