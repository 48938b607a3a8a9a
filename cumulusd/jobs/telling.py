"""What waiting jobs that were not placed are told. Pure."""

from collections.abc import Mapping, Sequence

import attrs

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs import waits
from cumulusd.jobs.model import End, JobRecord, Wait
from cumulusd.jobs.pool import could_ever_fit, in_order, unfit_workers
from cumulusd.jobs.ports import AgentView, Node
from cumulusd.jobs.slots import Slot


class Teller:
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
        self._away = in_order(n for n in nodes if n.usable and n.node_id not in agents)
        self._unfit = unfit_workers(nodes, agents)
        freest = max(slots, key=lambda slot: slot.free, default=None)
        self._largest = None
        if freest is not None:
            self._largest = waits.FreeShare.of(freest.node, freest.device, freest.free)
        self._outlooks: dict[int, Outlook] = {}

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
        if since is not None and record.pinned_node is None:
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
            self._outlooks[units] = Outlook.of(self._slots, units)
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
class Outlook:
    """What a job of some share can hope for, after the placements of this decision."""

    device_is_there: bool  #: a present device is large enough
    room_is_held: bool  #: one has the room even now, but reserved
    frees_by: float | None  #: unix time

    @classmethod
    def of(cls, slots: list[Slot], units: int) -> "Outlook":
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
