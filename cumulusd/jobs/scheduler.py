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

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.errors import CumulusError, InsufficientResources, NoWorkers
from cumulusd.jobs import waits
from cumulusd.jobs.model import (
    UNITS_PER_DEVICE,
    End,
    JobRecord,
    JobSpec,
    Phase,
    Placement,
    Wait,
)
from cumulusd.jobs.ports import AgentView, Device, Node

_NO_WORKERS = "No GPU workers available"


@attrs.frozen(kw_only=True)
class Decision:
    """What to do now. Every waiting job is in exactly one of the first three."""

    placements: list[tuple[str, Placement]]
    waits: dict[str, Wait]
    refusals: dict[str, End]
    #: job id -> (node id, device id): the device that a waiting job holds free for itself
    reservations: dict[str, tuple[str, str]]


@attrs.define
class Slot:
    """A device that jobs can be placed on, and what is left of it in this decision."""

    node: Node
    device: Device
    free: int  #: units
    reserved: bool = False
    fault: str | None = None  #: why its worker takes no job now; nothing of it is free then
    #: (unix time by which a running job has ended, its units), soonest first; only known bounds
    ends: list[tuple[float, int]] = attrs.field(factory=list)

    @property
    def key(self) -> tuple[str, int, str]:
        """Order among equals."""
        return (self.node.node_id, self.device.index, self.device.device_id)

    def frees_by(self, units: int) -> float | None:
        """By when that much is free, if no other job comes; None when no bound is known."""
        free, at = self.free, 0.0
        for end, freed in self.ends:
            if free >= units:
                break
            free, at = free + freed, end
        return at if free >= units else None


def could_ever_fit(
    spec: JobSpec,
    nodes: Sequence[Node],
    agents: Mapping[str, AgentView],
    *,
    overdue: Collection[str] = (),
) -> CumulusError | None:
    """None when the job may wait for a place, else why there is none for it however long it waits.

    A usable worker whose agent is away may have what it needs, except those in `overdue` (node ids
    whose agent has been away too long). The errors are NoWorkers and InsufficientResources.
    """
    usable = _in_order(node for node in nodes if node.usable)
    if not usable:
        return NoWorkers(
            _NO_WORKERS,
            details={
                "workers": [_node_dict(node, "its platform state") for node in _in_order(nodes)]
            },
            hint="Enrol a GPU worker, or activate one that is drained or down.",
        )
    present = [node for node in usable if node.node_id in agents]
    devices = [(node, device) for node in present for device in agents[node.node_id].devices]
    if any(device.units_total >= spec.units for _, device in devices):
        return None
    away = [node for node in usable if node.node_id not in agents]
    if any(node.node_id not in overdue for node in away):
        return None
    if not devices:
        workers = [_node_dict(node, _no_device(agents[node.node_id])) for node in present]
        workers += [_node_dict(node, "its agent is away") for node in away]
        why = "; ".join(f"{each['hostname']}: {each['why']}" for each in workers)
        return NoWorkers(
            _NO_WORKERS,
            details={"workers": workers, "why": why},
            hint=f"Look at the agents of these workers ({why}).",
        )
    node, largest = max(devices, key=lambda each: each[1].units_total)
    return InsufficientResources(
        f"The job asks for {waits.share(spec.units)}, but the largest device of the pool, "
        f"{largest.name} on {node.hostname}, has {waits.share(largest.units_total)}",
        details={
            "units": spec.units,
            "gpu_memory": spec.gpu_memory,
            "largest": {
                "node_id": node.node_id,
                "hostname": node.hostname,
                "device_id": largest.device_id,
                "device_name": largest.name,
                "units_total": largest.units_total,
            },
            "devices": len(devices),
        },
        hint="Ask for a smaller gpu_memory.",
    )


def _in_order(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: (node.hostname, node.node_id))


def _no_device(agent: AgentView) -> str:
    said = f" ({agent.discovery_error})" if agent.discovery_error else ""
    return f"no device was found on it{said}"


def unfit_workers(nodes: Sequence[Node], agents: Mapping[str, AgentView]) -> list[tuple[Node, str]]:
    """The workers of the pool that can take no job now, and why, in a few words."""
    found = []
    for node in _in_order(node for node in nodes if node.is_worker):
        agent = agents.get(node.node_id)
        if node.state != "ready":
            found.append((node, f"its node is {node.state}"))
        elif node.availability != "active":
            words = {"drain": "drained", "pause": "paused"}
            found.append((node, words.get(node.availability, node.availability)))
        elif agent is None:
            found.append((node, "its agent is away"))
        elif not agent.devices:
            found.append((node, _no_device(agent)))
    return found


def _node_dict(node: Node, why: str) -> dict[str, Any]:
    return {
        "node_id": node.node_id,
        "hostname": node.hostname,
        "state": node.state,
        "availability": node.availability,
        "enrolled": node.is_worker,
        "why": why,
    }


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
    take, once that has lasted `agent_grace_s`. Since when is carried in `Wait.details["since"]`:
    hand in records with the wait of the last decision. It counts from `observed_since` at the
    earliest (when this daemon first saw the pool).
    """
    line = list(waiting)
    slots = _slots(nodes, agents, running)
    placements: list[tuple[str, Placement]] = []
    reservations: dict[str, tuple[str, str]] = {}
    left: list[tuple[int, JobRecord]] = []
    # Room only shrinks in this loop: what found none need not be tried again for as much or more.
    unplaceable = unreservable = UNITS_PER_DEVICE + 1
    for position, record in enumerate(line, start=1):
        units = record.spec.units
        slot = _best_fit(slots, units, _shunned(record)) if units < unplaceable else None
        if slot is not None:
            slot.free -= units
            node, device = slot.node, slot.device
            placement = Placement(
                node_id=node.node_id, hostname=node.hostname, device_id=device.device_id
            )
            placements.append((record.job_id, placement))
            continue
        unplaceable = min(unplaceable, units)
        left.append((position, record))
        reserved = _soonest(slots, units) if units < unreservable else None
        if reserved is None:
            unreservable = min(unreservable, units)
            continue
        reserved.reserved = True
        reservations[record.job_id] = (reserved.node.node_id, reserved.device.device_id)
    teller = _Teller(slots, nodes, agents, len(line), now, agent_grace_s, observed_since)
    decision = Decision(placements=placements, waits={}, refusals={}, reservations=reservations)
    for position, record in left:
        told = teller.tell(position, record)
        if isinstance(told, End):
            decision.refusals[record.job_id] = told
        else:
            decision.waits[record.job_id] = told
    return decision


def _slots(
    nodes: Sequence[Node], agents: Mapping[str, AgentView], running: Sequence[JobRecord]
) -> list[Slot]:
    placed: dict[tuple[str, str], list[JobRecord]] = {}
    for record in running:
        if record.placement is not None:
            where = (record.placement.node_id, record.placement.device_id)
            placed.setdefault(where, []).append(record)
    slots = []
    for node in nodes:
        agent = agents.get(node.node_id)
        if not node.usable or agent is None:
            continue
        for device in agent.devices:
            if agent.fault is not None:
                slots.append(Slot(node=node, device=device, free=0, fault=agent.fault))
                continue
            ours = placed.get((node.node_id, device.device_id), [])
            units = sum(record.spec.units for record in ours)
            free = max(0, min(device.units_free, device.units_total - units))
            bounds = [(_ends_by(record), record.spec.units) for record in ours]
            ends = sorted((at, freed) for at, freed in bounds if at is not None)
            slots.append(Slot(node=node, device=device, free=free, ends=ends))
    return sorted(slots, key=lambda slot: slot.key)


def _ends_by(record: JobRecord) -> float | None:
    """The latest end that the job's own bounds allow; None before its set-up began, and while its
    worker is being cleared for another attempt."""
    if record.phase is Phase.RETRYING:
        return None
    if record.ended_at is not None:
        return record.ended_at
    if record.started_at is not None:
        return record.started_at + record.spec.duration_s
    if record.setup_at is not None:
        return record.setup_at + record.spec.setup_timeout_s + record.spec.duration_s
    return None


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


class _Teller:
    """What the jobs that were not placed are told; answers are shared by jobs of equal share."""

    def __init__(
        self,
        slots: list[Slot],
        nodes: Sequence[Node],
        agents: Mapping[str, AgentView],
        waiting: int,
        now: float,
        agent_grace_s: float,
        observed_since: float,
    ) -> None:
        self._slots = slots
        self._nodes = nodes
        self._agents = agents
        self._waiting = waiting
        self._now = now
        self._agent_grace_s = agent_grace_s
        self._observed_since = observed_since
        self._away = _in_order(n for n in nodes if n.usable and n.node_id not in agents)
        self._unfit = unfit_workers(nodes, agents)
        freest = max(slots, key=lambda slot: slot.free, default=None)
        self._largest = None
        if freest is not None:
            self._largest = waits.FreeShare.of(freest.node, freest.device, freest.free)
        self._outlooks: dict[int, _Outlook] = {}

    def tell(self, position: int, record: JobRecord) -> Wait | End:
        wait = self._wait(position, record)
        timeout_s = record.spec.queue_timeout_s
        if timeout_s is not None and self._now - record.waits_since >= timeout_s:
            what = "The job was not to wait" if timeout_s == 0 else f"Waited {timeout_s:g} s"
            return End(
                state=JobState.FAILED,
                reason=EndReason.QUEUE_TIMEOUT,
                message=f"{what}, and there is no place for it. {wait.message}",
                hint="Submit with a longer queue_timeout_s, or ask for a smaller gpu_memory.",
            )
        since = wait.details.get("since")
        if since is not None:
            begun = max(since, self._observed_since)
            if self._now - begun >= self._agent_grace_s:
                return self._unschedulable(record, self._now - begun)
        return wait

    def _unschedulable(self, record: JobRecord, waited_s: float) -> End:
        overdue = [node.node_id for node in self._away]
        error = could_ever_fit(record.spec, self._nodes, self._agents, overdue=overdue)
        assert error is not None
        return End(
            state=JobState.FAILED,
            reason=EndReason.UNSCHEDULABLE,
            message=f"{error.message}, for {waited_s:.0f} s now"
            + "".join(f"; {node.hostname}: {why}" for node, why in self._unfit[:5]),
            hint=error.hint,
        )

    def _wait(self, position: int, record: JobRecord) -> Wait:
        units = record.spec.units
        asked = waits.Asked(
            position=position,
            waiting=self._waiting,
            units=units,
            gpu_memory=record.spec.gpu_memory,
        )
        if units not in self._outlooks:
            self._outlooks[units] = _Outlook.of(self._slots, units)
        outlook = self._outlooks[units]
        if not outlook.device_is_there:
            since = _since(record, self._now)
            if self._away:
                told = {node.node_id for node in self._away}
                return waits.with_unfit(
                    waits.agent_away(asked, self._away, since), self._unfit, told
                )
            error = could_ever_fit(record.spec, self._nodes, self._agents)
            return waits.with_unfit(waits.nothing_there(asked, error, since), self._unfit)
        if outlook.room_is_held:
            return waits.with_unfit(waits.behind_others(asked, self._largest), self._unfit)
        faults = {slot.node.node_id: (slot.node, slot.fault) for slot in self._slots if slot.fault}
        wait = waits.no_free_share(asked, self._largest, outlook.frees_by)
        return waits.with_unfit(waits.with_faults(wait, faults.values()), self._unfit)


@attrs.frozen(kw_only=True)
class _Outlook:
    """What a job of some share can hope for, after the placements of this decision."""

    device_is_there: bool  #: a present device is large enough
    room_is_held: bool  #: one has the room even now, but reserved
    frees_by: float | None  #: unix time

    @classmethod
    def of(cls, slots: list[Slot], units: int) -> "_Outlook":
        large = [slot for slot in slots if slot.device.units_total >= units]
        known = [at for slot in large if (at := slot.frees_by(units)) is not None]
        return cls(
            device_is_there=bool(large),
            room_is_held=any(slot.free >= units for slot in large),
            frees_by=min(known, default=None),
        )


def _since(record: JobRecord, now: float) -> float:
    """Since when no present worker could take the job: carried along in its wait."""
    if record.wait is not None:
        since = record.wait.details.get("since")
        if isinstance(since, int | float):
            return float(since)
    return now
