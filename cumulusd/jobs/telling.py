"""What waiting jobs are told, by how a pass left the devices. Pure."""

from collections.abc import Mapping, Sequence

import attrs

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.states import JobState
from cumulusd.jobs import waits
from cumulusd.jobs.model import End, JobRecord, JobSpec, Wait
from cumulusd.jobs.pool import could_ever_fit, in_order, unfit_workers
from cumulusd.jobs.ports import AgentView, Node
from cumulusd.jobs.slots import Slot


class Teller:
    """What the jobs that were not placed are told; answers are shared by jobs of equal share."""

    def __init__(
        self, slots: Sequence[Slot], nodes: Sequence[Node], agents: Mapping[str, AgentView]
    ) -> None:
        """`slots` and `nodes`: those that the jobs may go to."""
        self._slots = slots
        self._nodes = nodes
        self._agents = agents
        self._away = in_order(n for n in nodes if n.usable and n.node_id not in agents)
        self._unfit = unfit_workers(nodes, agents)
        freest = max(slots, key=lambda slot: slot.free, default=None)
        self._largest = None
        if freest is not None:
            self._largest = waits.FreeShare.of(freest.node, freest.device, freest.free)
        self._outlooks: dict[int, Outlook] = {}

    def reason(self, units: int) -> WaitReason:
        """Why jobs of that share wait."""
        outlook = self._outlook(units)
        if not outlook.device_is_there:
            return WaitReason.AGENT_AWAY
        return WaitReason.BEHIND_OTHERS if outlook.room_is_held else WaitReason.NO_FREE_SHARE

    def wait(self, spec: JobSpec, position: int, waiting: int, since: float) -> Wait:
        """The same in words. `waiting`: jobs in the line. `since`: unix time since when no device
        is large enough; it doesn't matter when one is."""
        asked = waits.Asked(
            position=position, waiting=waiting, units=spec.units, gpu_memory=spec.gpu_memory
        )
        outlook = self._outlook(spec.units)
        if not outlook.device_is_there:
            if self._away:
                told = {node.node_id for node in self._away}
                return waits.with_unfit(
                    waits.agent_away(asked, self._away, since), self._unfit, told
                )
            error = could_ever_fit(spec, self._nodes, self._agents)
            return waits.with_unfit(waits.nothing_there(asked, error, since), self._unfit)
        if outlook.room_is_held:
            return waits.with_unfit(waits.behind_others(asked, self._largest), self._unfit)
        faults = {slot.node.node_id: (slot.node, slot.fault) for slot in self._slots if slot.fault}
        wait = waits.no_free_share(asked, self._largest, outlook.frees_by)
        return waits.with_unfit(waits.with_faults(wait, faults.values()), self._unfit)

    def unschedulable(self, spec: JobSpec, waited_s: float) -> End:
        """The end of a job that no worker could take for that long."""
        overdue = [node.node_id for node in self._away]
        error = could_ever_fit(spec, self._nodes, self._agents, overdue=overdue)
        assert error is not None
        return End(
            state=JobState.FAILED,
            reason=EndReason.UNSCHEDULABLE,
            message=f"{error.message}, for {waited_s:.0f} s now"
            + "".join(f"; {node.hostname}: {why}" for node, why in self._unfit[:5]),
            hint=error.hint,
        )

    def _outlook(self, units: int) -> "Outlook":
        if units not in self._outlooks:
            self._outlooks[units] = Outlook.of(self._slots, units)
        return self._outlooks[units]


def timed_out(record: JobRecord, wait: Wait) -> End:
    """The end of a job whose `queue_timeout_s` is over. `wait`: what it waited for at last."""
    timeout_s = record.spec.queue_timeout_s
    what = "The job was not to wait" if timeout_s == 0 else f"Waited {timeout_s:g} s"
    return End(
        state=JobState.FAILED,
        reason=EndReason.QUEUE_TIMEOUT,
        message=f"{what}, and there is no place for it. {wait.message}",
        hint="Submit with a longer queue_timeout_s, or ask for a smaller gpu_memory.",
    )


@attrs.frozen(kw_only=True)
class Outlook:
    """What a job of some share can hope for, after the placements of this decision."""

    device_is_there: bool  #: a present device is large enough
    room_is_held: bool  #: one has the room even now, but reserved
    frees_by: float | None  #: unix time

    @classmethod
    def of(cls, slots: Sequence[Slot], units: int) -> "Outlook":
        large = [slot for slot in slots if slot.device.units_total >= units]
        known = [at for slot in large if (at := slot.frees_by(units)) is not None]
        return cls(
            device_is_there=bool(large),
            room_is_held=any(slot.free >= units for slot in large),
            frees_by=min(known, default=None),
        )
