"""The place of every job in the waiting line, made in one go for many askers. Pure."""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from cumulusd.jobs.owner_line import Key, OwnerLine


class LineRanks:
    """As the line was when this was made: in the order of the units that stand before each job's
    turn, then of the keys."""

    def __init__(self, lines: Iterable[tuple[int, OwnerLine]]) -> None:
        """Each owner's line, with the units that the owner has in use. It costs a few steps for
        each job."""
        same: dict[int, list[Key]] = {}
        for in_use, line in lines:
            for units, keys in line.runs():
                for ahead, key in zip(units, keys, strict=False):  # the last sum is of no job
                    same.setdefault(in_use + ahead, []).append(key)
        self._same = same
        self._units = sorted(same)
        counts = (len(same[units]) for units in self._units)
        self._before = dict(zip(self._units, accumulate(counts, initial=0), strict=False))
        self._sorted: set[int] = set()

    def of(self, units: int, key: Key) -> int:
        """The place of the job with that key, 1 is next. `units`: those before its turn."""
        keys = self._same[units]
        if units not in self._sorted:
            keys.sort()
            self._sorted.add(units)
        return 1 + self._before[units] + bisect_left(keys, key)
