"""What is free where, kept up to date node by node, so that a pass looks for nothing. Pure."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence

from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.ports import AgentView, Node
from cumulusd.jobs.slots import Slot, slots_of

_SlotKey = tuple[str, int, str]
#: (by when it frees, -free units, its key): the least is to be reserved.
_Rank = tuple[float, int, _SlotKey]


class Room:
    """The devices of all workers. Those that are reserved are out of every search."""

    def __init__(self) -> None:
        self._slots: dict[_SlotKey, Slot] = {}
        self._of_node: dict[str, list[Slot]] = {}
        self._seen: dict[str, tuple[Node, AgentView | None]] = {}
        self._by_free: list[tuple[int, _SlotKey]] = []  #: those that are not reserved
        self._reserved: list[Slot] = []
        self._soonest: dict[int, list[_Rank]] = {}  #: units -> heap, while a pass goes on
        self._largest: int | None = None
        self.version = 0  #: another one after each change

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def most_free(self) -> int:
        """The largest free share of a device that nobody reserved, in units."""
        return self._by_free[-1][0] if self._by_free else 0

    @property
    def largest_total(self) -> int:
        """Units of the largest device that is there, busy or not."""
        if self._largest is None:
            totals = (slot.device.units_total for slot in self._slots.values())
            self._largest = max(totals, default=0)
        return self._largest

    def largest_on(self, node_id: str) -> int:
        """The same of one node."""
        return max((slot.device.units_total for slot in self.slots_on(node_id)), default=0)

    def fill(
        self,
        nodes: Sequence[Node],
        agents: Mapping[str, AgentView],
        changed: Iterable[str],
        placed_on: Mapping[str, Mapping[str, JobRecord]],
    ) -> None:
        """Takes what is new. `changed`: the nodes whose placed jobs have changed; `placed_on`:
        those jobs, of each node by their ids."""
        stale = set(changed)
        for node in nodes:
            node_id = node.node_id
            agent = agents.get(node_id)
            known = self._seen.get(node_id)
            if known is not None and node_id not in stale:
                if known[0] is node and known[1] is agent:
                    continue
                if known == (node, agent):
                    self._seen[node_id] = (node, agent)
                    continue
            self._take_out(node_id)
            self._seen[node_id] = (node, agent)
            self._put_in(slots_of([node], agents, list(placed_on.get(node_id, {}).values())))
        # After the new ones: as many may have come as have gone.
        if len(nodes) != len(self._seen):
            for gone in self._seen.keys() - {node.node_id for node in nodes}:
                self._take_out(gone)
                del self._seen[gone]

    def slots(self) -> list[Slot]:
        """All devices, by their keys."""
        return [self._slots[key] for key in sorted(self._slots)]

    def slots_on(self, node_id: str) -> list[Slot]:
        """Those of one node, the same."""
        return self._of_node.get(node_id, [])

    def best_fit(self, units: int, shunned: str | None, pinned: str | None) -> Slot | None:
        """Where the smallest free share remains; on the shunned node only when no other has room.
        `pinned`: on that node only."""
        if pinned is not None:
            fitting = [s for s in self.slots_on(pinned) if not s.reserved and s.free >= units]
            return min(fitting, key=lambda slot: (slot.free, slot.key), default=None)
        begin = bisect_left(self._by_free, (units,))
        first: Slot | None = None
        for index in range(begin, len(self._by_free)):
            slot = self._slots[self._by_free[index][1]]
            if slot.node.node_id != shunned:
                return slot
            first = first or slot
        return first

    def take(self, slot: Slot, units: int) -> None:
        """So much of it is free no more."""
        self._drop(slot)
        slot.free -= units
        insort(self._by_free, (slot.free, slot.key))
        self.version += 1

    def soonest(self, units: int, pinned: str | None) -> Slot | None:
        """The device to reserve: its share frees soonest; without a known bound, the freest."""
        if pinned is not None:
            large = [slot for slot in self.slots_on(pinned) if _may_hold(slot, units)]
            return min(large, key=lambda slot: _rank(slot, units), default=None)
        heap = self._soonest.get(units)
        if heap is None:
            heap = [_rank(each, units) for each in self._slots.values() if _may_hold(each, units)]
            heapq.heapify(heap)
            self._soonest[units] = heap
        while heap:
            slot = self._slots[heap[0][2]]
            if slot.reserved:
                heapq.heappop(heap)
                continue
            rank = _rank(slot, units)
            if rank == heap[0]:
                return slot
            heapq.heapreplace(heap, rank)  # room only shrinks in a pass: it comes no sooner
        return None

    def reserve(self, slot: Slot) -> None:
        """Nobody else is to get it in this pass."""
        self._drop(slot)
        slot.reserved = True
        self._reserved.append(slot)

    def end_pass(self) -> None:
        """Reservations are made anew in each."""
        for slot in self._reserved:
            slot.reserved = False
            insort(self._by_free, (slot.free, slot.key))
        self._reserved.clear()
        self._soonest.clear()

    def _put_in(self, slots: list[Slot]) -> None:
        self.version += 1
        for slot in slots:
            if slot.key in self._slots:
                continue  # an agent that names a device twice has it once
            self._slots[slot.key] = slot
            self._of_node.setdefault(slot.node.node_id, []).append(slot)
            insort(self._by_free, (slot.free, slot.key))
            if self._largest is not None:
                self._largest = max(self._largest, slot.device.units_total)

    def _take_out(self, node_id: str) -> None:
        self.version += 1
        for slot in self._of_node.pop(node_id, []):
            del self._slots[slot.key]
            self._drop(slot)
            if slot.device.units_total == self._largest:
                self._largest = None  # unless another one is as large

    def _drop(self, slot: Slot) -> None:
        del self._by_free[bisect_left(self._by_free, (slot.free, slot.key))]


def _may_hold(slot: Slot, units: int) -> bool:
    return not (slot.reserved or slot.fault) and slot.device.units_total >= units


def _rank(slot: Slot, units: int) -> _Rank:
    at = slot.frees_by(units)
    return (float("inf") if at is None else at, -slot.free, slot.key)
