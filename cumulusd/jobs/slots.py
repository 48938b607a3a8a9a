"""The devices that jobs can be placed on, and what is left of them in one decision. Pure."""

from collections.abc import Mapping, Sequence

import attrs

from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import AgentView, Device, Node


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


def slots_of(
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
            bounds = [(ends_by(record), record.spec.units) for record in ours]
            ends = sorted((at, freed) for at, freed in bounds if at is not None)
            slots.append(Slot(node=node, device=device, free=free, ends=ends))
    return sorted(slots, key=lambda slot: slot.key)


def ends_by(record: JobRecord) -> float | None:
    """The latest end that the job's own bounds allow; None before its set-up began, and while its
    worker is being cleared for another attempt, or a pause."""
    if record.phase in (Phase.RETRYING, Phase.PAUSING):
        return None
    if record.ended_at is not None:
        return record.ended_at
    if record.started_at is not None:
        return record.started_at + record.duration_left_s
    if record.setup_at is not None:
        return record.setup_at + record.spec.setup_timeout_s + record.duration_left_s
    return None
