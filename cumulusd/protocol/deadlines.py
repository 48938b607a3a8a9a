"""Which of many things is due next; things that ended before their time leave nothing behind."""

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64  #: dead entries that are not worth a sweep


class Deadlines(Generic[K]):
    """At most one deadline for each key, in seconds of whatever clock its owner goes by."""

    def __init__(self) -> None:
        self._entries: dict[K, tuple[float, int, K]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, key: K, due_at: float) -> None:
        """Sets or moves the key's deadline."""
        entry = self._entries[key] = (due_at, next(self._numbers), key)
        heapq.heappush(self._heap, entry)
        self._sweep()

    def discard(self, key: K) -> None:
        """The key has none any more."""
        if self._entries.pop(key, None) is not None:
            self._sweep()

    def next_at(self) -> float | None:
        """The earliest deadline."""
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[K]:
        """Takes out the keys whose deadline is not after `now`, earliest first."""
        due = []
        while (at := self.next_at()) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._entries[key]
            due.append(key)
        return due

    def _is_live(self, entry: tuple[float, int, K]) -> bool:
        return self._entries.get(entry[2]) is entry

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)
