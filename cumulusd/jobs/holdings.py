"""The jobs that hold a share of a device, or are about to: by worker and by owner. Pure."""

from collections.abc import Callable

from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.slots import ends_by


class Holdings:
    """Records with a placement. It remembers on which nodes something changed."""

    def __init__(self, used: Callable[[str, int], None]) -> None:
        """`used(owner, units)`: the owner's jobs hold so many more, or fewer, than before."""
        self._used = used
        self._held: dict[str, JobRecord] = {}
        self._changed: set[str] = set()
        self.on_node: dict[str, dict[str, JobRecord]] = {}  #: node id -> job id -> record

    def put(self, job_id: str, record: JobRecord | None) -> None:
        """The job holds what its record says now; None: nothing."""
        old = self._held.pop(job_id, None)
        if old is not None and record is not None and _weighs(old) == _weighs(record):
            self._held[job_id] = self.on_node[_node(record)][job_id] = record
            return
        if old is not None:
            node_id = _node(old)
            self._changed.add(node_id)
            there = self.on_node[node_id]
            del there[job_id]
            if not there:
                del self.on_node[node_id]
        if record is not None:
            node_id = _node(record)
            self._changed.add(node_id)
            self._held[job_id] = record
            self.on_node.setdefault(node_id, {})[job_id] = record
        before, after = _use(old), _use(record)
        if before != after:
            for sign, use in ((-1, before), (1, after)):
                if use is not None:
                    self._used(use[0], sign * use[1])

    def units_on(self, node_id: str) -> dict[str, int]:
        """Units held there, by device id."""
        units: dict[str, int] = {}
        for record in self.on_node.get(node_id, {}).values():
            if record.placement is not None:
                device_id = record.placement.device_id
                units[device_id] = units.get(device_id, 0) + record.spec.units
        return units

    def take_changed(self) -> set[str]:
        """The nodes on which something changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed


def _node(record: JobRecord) -> str:
    return "" if record.placement is None else record.placement.node_id


def _weighs(record: JobRecord) -> tuple[object, ...]:
    """All that counts of it for who waits."""
    return record.placement, record.owner, record.spec.units, ends_by(record)


def _use(record: JobRecord | None) -> tuple[str, int] | None:
    return None if record is None else (record.owner, record.spec.units)
