"""Connections in memory: ordered, late, stalled by a cut, and gone when an end gives up.

A `Wire` is one TCP connection. Nothing is lost on it but by its end: what was under way when it
breaks never arrives. While its network is cut, messages wait; each end gives up after a time of its
own (the pings), and when the network is back before, they arrive.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from tests.sim.sim_clock import ProcessClock, SimClock

#: After how long without a sign of life an end drops the connection.
PING_TIMEOUT_S = (2.0, 7.0)


class End:
    """One side of a wire."""

    def __init__(self, wire: "Wire", process: ProcessClock) -> None:
        self.wire = wire
        self.process = process
        self.open = True
        self.heard: Callable[[Any], None] = lambda message: None
        self.lost: Callable[[], None] = lambda: None
        self._free_at = 0.0
        self._held: deque[Any] = deque()

    @property
    def other(self) -> "End":
        return self.wire.ends[1] if self.wire.ends[0] is self else self.wire.ends[0]

    def send(self, message: Any) -> None:
        """Ordered; in vain when the other side is gone."""
        if not self.open or not self.process.alive:
            return
        self._free_at = max(self._free_at, self.wire.clock.now + self.wire.latency())
        self.wire.clock.callLater(self._free_at - self.wire.clock.now, self._arrive, message)

    def close(self) -> None:
        """This side ends it: it hears so at once, the other side when the network lets it."""
        if self.open:
            self.open = False
            self.wire.clock.callLater(0, self._gone)
            self.wire.clock.callLater(self.wire.latency(), self.other.reset)

    def reset(self) -> None:
        """The other side is gone."""
        if self.open and not self.wire.stalled:
            self.open = False
            self._gone()

    def give_up(self) -> None:
        """The pings were not answered."""
        if self.open and self.wire.stalled:
            self.open = False
            self._gone()

    def deliver_held(self) -> None:
        while self._held:
            self._hand_over(self._held.popleft())

    def _gone(self) -> None:
        if self.process.alive:
            self.lost()

    def _arrive(self, message: Any) -> None:
        if self.wire.stalled:
            self._held.append(message)
        else:
            self._hand_over(message)

    def _hand_over(self, message: Any) -> None:
        there = self.other
        if not there.process.alive or not there.open:
            self.reset()
        else:
            there.heard(message)


class Wire:
    """A connection between a worker's process (end 0) and the daemon (end 1)."""

    def __init__(
        self, clock: SimClock, random: Random, near: ProcessClock, far: ProcessClock
    ) -> None:
        self.clock = clock
        self.random = random
        self.stalled = False
        self.ends = (End(self, near), End(self, far))

    def latency(self) -> float:
        return self.random.uniform(0.0005, 0.004)

    @property
    def is_open(self) -> bool:
        return any(end.open and end.process.alive for end in self.ends)

    def stall(self) -> None:
        """The network is cut."""
        if not self.stalled:
            self.stalled = True
            for end in self.ends:
                self.clock.callLater(self.random.uniform(*PING_TIMEOUT_S), end.give_up)

    def resume(self) -> None:
        """The network is back."""
        self.stalled = False
        for end in self.ends:
            if not end.other.open or not end.other.process.alive:
                end.reset()
        for end in self.ends:
            end.deliver_held()

    def process_died(self, process: ProcessClock) -> None:
        """The machine of a dead process says so, when the network lets it."""
        for end in self.ends:
            if end.process is process:
                end.open = False
                if not self.stalled:
                    self.clock.callLater(self.latency(), end.other.reset)


class Network:
    """All wires, by node; which nodes are cut off."""

    def __init__(self, clock: SimClock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._wires: dict[str, list[Wire]] = {}
        self._cut: set[str] = set()

    def is_cut(self, node_id: str) -> bool:
        return node_id in self._cut

    def connect(self, node_id: str, near: ProcessClock, far: ProcessClock) -> Wire | None:
        """A new connection; None when nobody can be reached."""
        if node_id in self._cut or not far.alive:
            return None
        wire = Wire(self._clock, self._random, near, far)
        wires = [one for one in self._wires.get(node_id, ()) if one.is_open]
        self._wires[node_id] = [*wires, wire]
        return wire

    def cut(self, node_id: str) -> None:
        self._cut.add(node_id)
        for wire in self._wires.get(node_id, ()):
            wire.stall()

    def mend(self, node_id: str) -> None:
        self._cut.discard(node_id)
        for wire in list(self._wires.get(node_id, ())):
            wire.resume()

    def reset(self, node_id: str, which: int) -> None:
        """One connection of that node breaks; both sides see it."""
        wires = [one for one in self._wires.get(node_id, ()) if one.is_open and not one.stalled]
        if wires:
            wires[which % len(wires)].ends[which % 2].close()

    def process_died(self, process: ProcessClock) -> None:
        for wires in self._wires.values():
            for wire in wires:
                wire.process_died(process)
