"""One owner's waiting jobs in their order, with what is asked for ahead of each. Pure.

Kept in blocks, so that a job is put in, taken out, found by its place or passed over together with
its neighbours in far fewer steps than there are jobs.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from operator import attrgetter
from typing import Protocol

import attrs

from cumulusd.jobs.model import JobRecord

#: (-priority, created_at, job_id): the order within one owner's line.
Key = tuple[int, float, str]
#: Where a search goes on: number of the block, index in it.
Cursor = tuple[int, int]

BEGIN: Cursor = (0, 0)
#: A block is split in two when it has more.
MAX_BLOCK = 128


class Sizes(Protocol):
    """Which jobs a search is for: those that ask for less than the bound of their pin."""

    def below(self, pinned: str | None) -> int:
        """The bound, in units, for jobs that are pinned to that node, or to none."""


@attrs.define(eq=False)
class Entry:
    """A job in the line."""

    key: Key
    record: JobRecord
    units: int
    pinned: str | None
    pushed_at: float  #: unix seconds: since when it is in the line


_UNITS = attrgetter("units")


class _Block:
    """Neighbours. What is derived of them is made anew when it is asked for after a change."""

    __slots__ = ("_ahead", "_least", "entries", "keys")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.keys = [entry.key for entry in entries]
        self._ahead: list[int] | None = None
        self._least: dict[str | None, int] | None = None

    def changed(self) -> None:
        self._ahead = self._least = None

    @property
    def ahead(self) -> list[int]:
        """Units ahead of each within the block, and at the end of all."""
        if self._ahead is None:
            self._ahead = list(accumulate(map(_UNITS, self.entries), initial=0))
        return self._ahead

    @property
    def least(self) -> dict[str | None, int]:
        """The smallest size in it, by pin."""
        if self._least is None:
            self._least = {}
            for entry in self.entries:
                known = self._least.get(entry.pinned)
                if known is None or entry.units < known:
                    self._least[entry.pinned] = entry.units
        return self._least

    def has_any(self, sizes: Sizes) -> bool:
        return any(least < sizes.below(pinned) for pinned, least in self.least.items())


class OwnerLine:
    """Entries by key. No two have the same."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._lasts: list[Key] = []  #: the last key of each block
        self._units_before: list[int] | None = None  #: each block, and at the end of all
        self._count_before: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def head(self) -> Entry:
        """The first. Raises IndexError when there is none."""
        return self._blocks[0].entries[0]

    def add(self, entry: Entry) -> None:
        """Puts it in its place."""
        self._count += 1
        self._units_before = None
        if not self._blocks:
            self._blocks.append(_Block([entry]))
            self._lasts.append(entry.key)
            return
        number = min(bisect_left(self._lasts, entry.key), len(self._blocks) - 1)
        block = self._blocks[number]
        index = bisect_left(block.keys, entry.key)
        block.keys.insert(index, entry.key)
        block.entries.insert(index, entry)
        block.changed()
        if len(block.keys) > MAX_BLOCK:
            half = len(block.keys) // 2
            halves = [_Block(block.entries[:half]), _Block(block.entries[half:])]
            self._blocks[number : number + 1] = halves
            self._lasts[number : number + 1] = [each.keys[-1] for each in halves]
        else:
            self._lasts[number] = block.keys[-1]

    def remove(self, key: Key) -> None:
        """Takes it out. It must be there."""
        number, index = self._find(key)
        block = self._blocks[number]
        del block.keys[index]
        del block.entries[index]
        block.changed()
        self._count -= 1
        self._units_before = None
        if block.keys:
            self._lasts[number] = block.keys[-1]
        else:
            del self._blocks[number]
            del self._lasts[number]

    def units_ahead(self, key: Key) -> int:
        """What those ahead of it ask for, in units."""
        number, index = self._find(key)
        return self._sums()[number] + self._blocks[number].ahead[index]

    def count_before(self, units: int, key: Key) -> int:
        """How many come before one that has so many units, and that key: by the units ahead of
        them in this line first."""
        starts = self._sums()
        number = min(bisect_left(starts, units), len(self._blocks)) - 1
        if number < 0:
            number, index = 0, 0
        else:
            block = self._blocks[number]
            # The last sum is of all of it, of none of its entries.
            index = bisect_left(block.ahead, units - starts[number], hi=len(block.keys))
        count = self._count_before[number] + index
        if index == len(self._blocks[number].keys):
            number, index = number + 1, 0
        if number < len(self._blocks):
            block = self._blocks[number]
            if starts[number] + block.ahead[index] == units and block.keys[index] < key:
                count += 1
        return count

    def seek(self, cursor: Cursor, sizes: Sizes) -> tuple[Cursor, int, Entry] | None:
        """(where it is, units ahead of it, the entry): the first at or behind the cursor that is
        searched for. None: there is none. Cursors hold until the line changes."""
        number, index = cursor
        for at in range(number, len(self._blocks)):
            block = self._blocks[at]
            if block.has_any(sizes):
                for found in range(index, len(block.entries)):
                    entry = block.entries[found]
                    if entry.units < sizes.below(entry.pinned):
                        return (at, found), self._sums()[at] + block.ahead[found], entry
            index = 0
        return None

    def runs(self) -> Iterator[tuple[Iterator[int], list[Key]]]:
        """Neighbours: the units ahead of each in this line, and one sum more, and their keys."""
        for before, block in zip(self._sums(), self._blocks, strict=False):
            yield (before + ahead for ahead in block.ahead), block.keys

    def __iter__(self) -> Iterator[Entry]:
        for block in self._blocks:
            yield from block.entries

    def _find(self, key: Key) -> Cursor:
        number = bisect_left(self._lasts, key)
        return number, bisect_left(self._blocks[number].keys, key)

    def _sums(self) -> list[int]:
        if self._units_before is None:
            totals = (block.ahead[-1] for block in self._blocks)
            self._units_before = list(accumulate(totals, initial=0))
            self._count_before = list(
                accumulate((len(block.keys) for block in self._blocks), initial=0)
            )
        return self._units_before
