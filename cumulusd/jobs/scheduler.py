"""Which waiting job goes to which device. Pure and deterministic.

**The rule.** Jobs are taken in the order of the waiting line. A job goes to the device where the
smallest free share remains (best fit). A job that fits no device now reserves one: of the devices
that are large enough, the one where its share frees soonest by the bounds of the running jobs. A
reserved device takes no job that comes later in the line, so that it drains; later jobs go past
only to devices that nobody reserved. Since every job's duration is bounded and a reservation only
ever moves to a device that frees sooner, small jobs can't starve a large one.

**The cost.** A pass ends as soon as nothing is free for the smallest share that anybody asks for,
and jobs of a size that found neither room nor a device to reserve are passed over many at once. So
it looks at no more jobs than it places, and than there are devices and sizes, however many wait.

Free is what the agent reports, and never more than the device less what we have placed there, so
that a partition which its agent has not booked yet counts.
"""

from collections.abc import Collection, Iterator
from typing import Protocol

import attrs

from cumulusd.jobs.model import UNITS_PER_DEVICE, JobRecord, Placement
from cumulusd.jobs.owner_line import Sizes
from cumulusd.jobs.ports import Device, Node
from cumulusd.jobs.room import Room


class Line(Protocol):
    """Who waits, in turn; as `JobQueue`."""

    @property
    def least(self) -> int:
        """The smallest share asked for, in units."""

    def turns(self, sizes: Sizes) -> Iterator[JobRecord]:
        """The jobs in turn; those that `sizes` is not for may be left out."""


@attrs.frozen(kw_only=True)
class Decision:
    """What to do now. Who is not placed waits on."""

    placements: list[tuple[str, Placement]]
    #: job id -> (node id, device id): the device that a waiting job holds free for itself
    reservations: dict[str, tuple[str, str]]
    looked_at: int  #: jobs


def place(line: Line, room: Room, gone: Collection[str] = ()) -> Decision:
    """One pass. What is placed is taken of `room`; the line is left as it is. `gone`: nodes that
    were removed: jobs that are pinned to them are not looked at."""
    placements: list[tuple[str, Placement]] = []
    reservations: dict[str, tuple[str, str]] = {}
    looked_at = 0
    if room.most_free >= line.least:
        limits = _Limits(gone)
        for record in line.turns(limits):
            looked_at += 1
            units, pinned = record.spec.units, record.pinned_node
            slot = None
            if units < limits.placing(pinned):
                slot = room.best_fit(units, _shunned(record), pinned)
            if slot is not None:
                room.take(slot, units)
                placements.append((record.job_id, _placement(slot.node, slot.device)))
            else:
                limits.no_room(pinned, units)
                if units < limits.reserving(pinned):
                    slot = room.soonest(units, pinned)
                    if slot is not None:
                        room.reserve(slot)
                        where = (slot.node.node_id, slot.device.device_id)
                        reservations[record.job_id] = where
                    else:
                        limits.no_device(pinned, units)
            if room.most_free < line.least:
                break
        room.end_pass()
    return Decision(placements=placements, reservations=reservations, looked_at=looked_at)


class _Limits:
    """Room only shrinks in a pass: what found none, or no device to reserve, need not be tried
    again for as much or more. By node for the jobs that are pinned to it."""

    def __init__(self, gone: Collection[str]) -> None:
        self._placing: dict[str | None, int] = dict.fromkeys(gone, 0)
        self._reserving: dict[str | None, int] = dict.fromkeys(gone, 0)

    def placing(self, pinned: str | None) -> int:
        """Less than so many units may find room."""
        return _least(self._placing, pinned)

    def reserving(self, pinned: str | None) -> int:
        """Less than so many may find a device to reserve."""
        return _least(self._reserving, pinned)

    def below(self, pinned: str | None) -> int:
        """Less than so many must be looked at."""
        return max(_least(self._placing, pinned), _least(self._reserving, pinned))

    def no_room(self, pinned: str | None, units: int) -> None:
        self._placing[pinned] = min(units, self._placing.get(pinned, units))

    def no_device(self, pinned: str | None, units: int) -> None:
        self._reserving[pinned] = min(units, self._reserving.get(pinned, units))


def _least(limits: dict[str | None, int], pinned: str | None) -> int:
    whole = limits.get(None, UNITS_PER_DEVICE + 1)
    return whole if pinned is None else min(whole, limits.get(pinned, whole))


def _placement(node: Node, device: Device) -> Placement:
    return Placement(node_id=node.node_id, hostname=node.hostname, device_id=device.device_id)


def _shunned(record: JobRecord) -> str | None:
    """The worker that the attempt before failed on: another one is better, if one fits."""
    return record.attempts[-1].node_id if record.attempts else None
