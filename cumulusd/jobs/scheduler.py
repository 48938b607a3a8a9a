"""Which waiting job goes to which device, and what the others are told. Pure and deterministic.

**The rule.** Jobs are taken in the order of the waiting line. A job goes to the device where the
smallest free share remains (best fit). A job that fits no device now reserves one: of the devices
that are large enough, the one where its share frees soonest by the bounds of the running jobs. A
reserved device takes no job that comes later in the line, so that it drains; later jobs go past
only to devices that nobody reserved. Since every job's duration is bounded and a reservation only
ever moves to a device that frees sooner, small jobs can't starve a large one.

Free is what the agent reports, and never more than the device less what we have placed there, so
that a partition which its agent has not booked yet counts.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from cumulusd.jobs import ends, waits
from cumulusd.jobs.model import UNITS_PER_DEVICE, End, JobRecord, Placement, Wait
from cumulusd.jobs.ports import AgentView, Node
from cumulusd.jobs.slots import Slot, slots_of
from cumulusd.jobs.telling import Teller


@attrs.frozen(kw_only=True)
class Decision:
    """What to do now. Every waiting job is in exactly one of the first three."""

    placements: list[tuple[str, Placement]]
    waits: dict[str, Wait]
    refusals: dict[str, End]
    #: job id -> (node id, device id): the device that a waiting job holds free for itself
    reservations: dict[str, tuple[str, str]]


def decide(
    waiting: Iterable[JobRecord],
    nodes: Sequence[Node],
    agents: Mapping[str, AgentView],
    running: Sequence[JobRecord],
    now: float,
    *,
    agent_grace_s: float = 60.0,
    observed_since: float = 0.0,
) -> Decision:
    """`waiting` in the order of the line; `running` are all jobs with a placement that have not
    left their worker. `now` is unix seconds, as in the records.

    Refused are jobs whose `queue_timeout_s` is over, and those that no present worker could ever
    take, once that has lasted `agent_grace_s`; a job that is pinned to a worker waits for it while
    it is in the pool. Since when is carried in `Wait.details["since"]`:
    hand in records with the wait of the last decision. It counts from `observed_since` at the
    earliest (when this daemon first saw the pool).
    """
    line = list(waiting)
    slots = slots_of(nodes, agents, running)
    placements: list[tuple[str, Placement]] = []
    reservations: dict[str, tuple[str, str]] = {}
    left: list[tuple[int, JobRecord]] = []
    # Room only shrinks in this loop: what found none need not be tried again for as much or more.
    unplaceable = unreservable = UNITS_PER_DEVICE + 1
    known = {node.node_id: node for node in nodes}
    lost: list[JobRecord] = []
    for position, record in enumerate(line, start=1):
        units, pinned = record.spec.units, record.pinned_node
        if pinned is not None and pinned not in known:
            lost.append(record)
            continue
        slot = (
            _best_fit(_open_to(slots, pinned), units, _shunned(record))
            if units < unplaceable
            else None
        )
        if slot is not None:
            slot.free -= units
            node, device = slot.node, slot.device
            placement = Placement(
                node_id=node.node_id, hostname=node.hostname, device_id=device.device_id
            )
            placements.append((record.job_id, placement))
            continue
        if pinned is None:
            unplaceable = min(unplaceable, units)
        left.append((position, record))
        reserved = _soonest(_open_to(slots, pinned), units) if units < unreservable else None
        if reserved is None:
            if pinned is None:
                unreservable = min(unreservable, units)
            continue
        reserved.reserved = True
        reservations[record.job_id] = (reserved.node.node_id, reserved.device.device_id)
    tellers: dict[str | None, Teller] = {}
    decision = Decision(placements=placements, waits={}, refusals={}, reservations=reservations)
    for record in lost:
        decision.refusals[record.job_id] = (
            ends.end_of_lost_checkpoint(record, "a worker", "that worker was removed from the pool")
            if record.needs_kept
            else ends.end_of_lost_node(record)
        )
    for position, record in left:
        pinned = record.pinned_node
        if pinned not in tellers:
            seen = nodes if pinned is None else [known[pinned]]
            tellers[pinned] = Teller(
                _open_to(slots, pinned),
                seen,
                agents,
                len(line),
                now,
                agent_grace_s,
                observed_since,
            )
        told = tellers[pinned].tell(position, record)
        if pinned is not None and isinstance(told, Wait):
            told = waits.pinned(told, known[pinned], record.needs_kept)
        if isinstance(told, End):
            decision.refusals[record.job_id] = told
        else:
            decision.waits[record.job_id] = told
    return decision


def _open_to(slots: list[Slot], pinned: str | None) -> list[Slot]:
    """The devices that a job may go to which is pinned to that node, or to none."""
    if pinned is None:
        return slots
    return [slot for slot in slots if slot.node.node_id == pinned]


def _shunned(record: JobRecord) -> str | None:
    """The worker that the attempt before failed on: another one is better, if one fits."""
    return record.attempts[-1].node_id if record.attempts else None


def _best_fit(slots: list[Slot], units: int, shunned: str | None) -> Slot | None:
    fitting = [slot for slot in slots if not slot.reserved and slot.free >= units]
    return min(
        fitting,
        key=lambda slot: (slot.node.node_id == shunned, slot.free, slot.key),
        default=None,
    )


def _soonest(slots: list[Slot], units: int) -> Slot | None:
    """The device to reserve: its share frees soonest; without a known bound, the freest."""

    def rank(slot: Slot) -> tuple[float, int, tuple[str, int, str]]:
        at = slot.frees_by(units)
        return (float("inf") if at is None else at, -slot.free, slot.key)

    large = [
        slot
        for slot in slots
        if not (slot.reserved or slot.fault) and slot.device.units_total >= units
    ]
    return min(large, key=rank, default=None)
