"""Jobs in the order of their age, all of them and each owner's: pages begin anywhere in it."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

#: (created at, job id); of one moment the id decides.
Place = tuple[float, str]
#: Behind every id.
_LAST = "\U0010ffff"


class ByAge:
    """Places in order. Adding the newest and looking from anywhere cost next to nothing."""

    def __init__(self) -> None:
        self._all: list[Place] = []
        self._of_owner: dict[str, list[Place]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, owner: str, place: Place) -> None:
        """It must not be there."""
        insort(self._all, place)
        insort(self._of_owner.setdefault(owner, []), place)

    def add_all(self, places: Iterable[tuple[str, Place]]) -> None:
        """Each with its owner, in any order; none of them must be there. Cheaper than one by one
        where they are many."""
        for owner, place in places:
            self._all.append(place)
            self._of_owner.setdefault(owner, []).append(place)
        self._all.sort()
        for theirs in self._of_owner.values():
            theirs.sort()

    def remove(self, owner: str, place: Place) -> None:
        """It must be there."""
        theirs = self._of_owner[owner]
        del self._all[bisect_left(self._all, place)]
        del theirs[bisect_left(theirs, place)]
        if not theirs:
            del self._of_owner[owner]

    def newest(self, owner: str | None = None, until: float | None = None) -> Iterator[str]:
        """Job ids, the newest first; with an owner, theirs; with `until`, those created by then.
        Nothing may be added or removed meanwhile."""
        places = self._all if owner is None else self._of_owner.get(owner, [])
        end = len(places) if until is None else bisect_right(places, (until, _LAST))
        for index in range(end - 1, -1, -1):
            yield places[index][1]

    def owners(self) -> list[str]:
        """Who has some."""
        return list(self._of_owner)
