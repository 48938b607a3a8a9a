"""The waiting line: fair between owners, then by priority, then by age. Pure."""

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator

from cumulusd.jobs.line_ranks import LineRanks
from cumulusd.jobs.model import UNITS_PER_DEVICE, JobRecord
from cumulusd.jobs.owner_line import BEGIN, Cursor, Entry, Key, OwnerLine, Sizes

#: (units that the owner has in use, key of their first job, owner): whose turn comes when.
_Head = tuple[int, Key, str]
#: A search of one owner's line takes as long as so many jobs take to be ranked, or longer.
_SEARCH_JOBS = 8


class _All:
    """No job asks for more than a device."""

    def below(self, pinned: str | None) -> int:
        return UNITS_PER_DEVICE + 1


class JobQueue:
    """Jobs that wait for a place.

    Whose turn it is goes to the owner with the fewest units in use; each job that is passed counts
    as in use for the next turn, so that owners alternate. Among owners who are equal, the job of
    higher priority comes first, then the older one. A higher priority never takes from another
    owner's share.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lines: dict[str, OwnerLine] = {}
        self._in_use: dict[str, int] = {}
        self._heads: list[_Head] = []
        self._head_of: dict[str, _Head] = {}
        #: Units -> the jobs that ask for so much, in the order in which they came.
        self._of_size: dict[int, dict[str, None]] = {}
        self._sizes: list[int] = []  #: those that there are, the smallest first
        self._pinned: dict[str, set[str]] = {}  #: node id -> the jobs that are pinned to it
        self.version = 0  #: another one after each change of who waits where in the line
        self._searched = (0, 0)  #: at that version, so many owners' lines for places
        self._ranks: LineRanks | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._entries

    def __iter__(self) -> Iterator[str]:
        """The jobs' ids, in no order to go by."""
        return iter(self._entries)

    def get(self, job_id: str) -> Entry | None:
        """The job as it stands in the line."""
        return self._entries.get(job_id)

    def waiting_of(self, owner: str) -> int:
        """How many jobs of that owner wait."""
        return len(self._lines.get(owner, ()))

    @property
    def least(self) -> int:
        """The smallest share asked for, in units; more than a device when nobody waits."""
        return self._sizes[0] if self._sizes else UNITS_PER_DEVICE + 1

    def sizes_over(self, units: int) -> list[int]:
        """What is asked for of more than so many units, the smallest first."""
        return self._sizes[bisect_right(self._sizes, units) :]

    def of_size(self, units: int) -> Collection[str]:
        """The ids of the jobs that ask for so much, in the order in which they came."""
        return self._of_size.get(units, {}).keys()

    def pinned(self, node_id: str) -> Collection[str]:
        """The ids of the jobs that may run there only."""
        return self._pinned.get(node_id, ())

    def pins(self) -> Collection[str]:
        """The nodes that jobs here are pinned to."""
        return self._pinned.keys()

    def push(self, record: JobRecord, now: float = 0.0) -> None:
        """Adds the job, or takes its newer record; its place goes by the record alone. `now`: unix
        seconds."""
        key: Key = (-record.spec.priority, record.created_at, record.job_id)
        old = self._entries.get(record.job_id)
        entry = Entry(key, record, record.spec.units, record.pinned_node, now)
        stays = old is not None and old.units == entry.units
        if old is not None:
            if stays:
                entry.pushed_at = old.pushed_at  # and its place among those of its size
            self._take_out(old, of_size=not stays)
        self._changed()
        self._entries[record.job_id] = entry
        same = self._of_size.get(entry.units)
        if same is None:
            same = self._of_size[entry.units] = {}
            insort(self._sizes, entry.units)
        same[record.job_id] = None
        if entry.pinned is not None:
            self._pinned.setdefault(entry.pinned, set()).add(record.job_id)
        line = self._lines.get(record.owner)
        if line is None:
            line = self._lines[record.owner] = OwnerLine()
        line.add(entry)
        if line.head is entry:
            self._place_head(record.owner)

    def remove(self, job_id: str) -> JobRecord | None:
        """Takes the job out; None when it isn't there."""
        entry = self._entries.pop(job_id, None)
        if entry is None:
            return None
        self._changed()
        self._take_out(entry, of_size=True)
        return entry.record

    def _take_out(self, entry: Entry, *, of_size: bool) -> None:
        job_id = entry.record.job_id
        if of_size:
            same = self._of_size[entry.units]
            del same[job_id]
            if not same:
                del self._of_size[entry.units]
                del self._sizes[bisect_left(self._sizes, entry.units)]
        if entry.pinned is not None:
            pinned = self._pinned[entry.pinned]
            pinned.discard(job_id)
            if not pinned:
                del self._pinned[entry.pinned]
        owner = entry.record.owner
        line = self._lines[owner]
        was_head = line.head is entry
        line.remove(entry.key)
        if not line:
            del self._lines[owner]
        if was_head:
            self._place_head(owner)

    def use(self, owner: str, units: int) -> None:
        """The owner's jobs hold so many units more than before; less, when it is negative."""
        in_use = self._in_use.get(owner, 0) + units
        if in_use:
            self._in_use[owner] = in_use
        else:
            self._in_use.pop(owner, None)
        if owner in self._head_of:
            self._changed()
            self._place_head(owner)

    def turns(self, sizes: Sizes) -> Iterator[JobRecord]:
        """The jobs in turn, but those that `sizes` is not for: they are passed over, many at once.
        Its bounds may fall meanwhile. The queue must not change before the last is taken."""
        opened: list[tuple[int, Key, str, Cursor, Entry]] = []
        heads = iter(self._heads)
        # An owner's turns are gone into when the first of them could be next.
        head = next(heads, None)
        while head is not None or opened:
            if head is not None and (not opened or head < opened[0][:3]):
                self._open(opened, head[2], BEGIN, sizes)
                head = next(heads, None)
                continue
            _, _, owner, cursor, entry = heapq.heappop(opened)
            if entry.units < sizes.below(entry.pinned):
                yield entry.record
                cursor = (cursor[0], cursor[1] + 1)
            self._open(opened, owner, cursor, sizes)

    def _open(
        self,
        opened: list[tuple[int, Key, str, Cursor, Entry]],
        owner: str,
        cursor: Cursor,
        sizes: Sizes,
    ) -> None:
        found = self._lines[owner].seek(cursor, sizes)
        if found is not None:
            at, ahead, entry = found
            units = self._in_use.get(owner, 0) + ahead
            # A key holds the job id, so no two are equal and nothing behind it is compared.
            heapq.heappush(opened, (units, entry.key, owner, at, entry))

    def in_turn(self) -> Iterator[JobRecord]:
        """All of them in turn. The queue must not change before the last is taken."""
        return self.turns(_All())

    def ordered(self) -> list[JobRecord]:
        """The same, at once."""
        return list(self.in_turn())

    def position(self, job_id: str) -> int | None:
        """Its place in the line, 1 is next; None when it isn't in it. It costs a search for each
        owner that waits, until as much was searched for this and others since the line changed as
        it takes to rank all jobs: from then on those who ask share that."""
        entry = self._entries.get(job_id)
        if entry is None:
            return None
        owner = entry.record.owner
        units = self._in_use.get(owner, 0) + self._lines[owner].units_ahead(entry.key)
        if self._ranks is None and not self._may_search():
            self._ranks = LineRanks(
                (self._in_use.get(other, 0), line) for other, line in self._lines.items()
            )
        if self._ranks is not None:
            return self._ranks.of(units, entry.key)
        return 1 + sum(
            line.count_before(units - self._in_use.get(other, 0), entry.key)
            for other, line in self._lines.items()
        )

    def _may_search(self) -> bool:
        version, searched = self._searched
        searched = len(self._lines) + (searched if version == self.version else 0)
        self._searched = (self.version, searched)
        return searched * _SEARCH_JOBS <= len(self._entries)

    def _changed(self) -> None:
        self.version += 1
        self._ranks = None

    def _place_head(self, owner: str) -> None:
        old = self._head_of.pop(owner, None)
        if old is not None:
            del self._heads[bisect_left(self._heads, old)]
        line = self._lines.get(owner)
        if line is not None:
            head = (self._in_use.get(owner, 0), line.head.key, owner)
            self._head_of[owner] = head
            insort(self._heads, head)
