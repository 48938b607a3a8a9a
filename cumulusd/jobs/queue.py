"""The waiting line: fair between owners, then by priority, then by age. Pure."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Mapping

import attrs

from cumulusd.jobs.model import JobRecord

#: (-priority, created_at, job_id): the order within one owner's line.
_Key = tuple[int, float, str]


@attrs.frozen
class _Entry:
    key: _Key
    record: JobRecord


def _key(record: JobRecord) -> _Key:
    return (-record.spec.priority, record.created_at, record.job_id)


class JobQueue:
    """Jobs that wait for a place.

    Whose turn it is goes to the owner with the fewest units in use; each job that is passed counts
    as in use for the next turn, so that owners alternate. Among owners who are equal, the job of
    higher priority comes first, then the older one. A higher priority never takes from another
    owner's share.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lines: dict[str, list[_Key]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._entries

    def waiting_of(self, owner: str) -> int:
        """How many jobs of that owner wait."""
        return len(self._lines.get(owner, ()))

    def push(self, record: JobRecord) -> None:
        """Adds the job, or takes its newer record; its place goes by the record alone."""
        key, old = _key(record), self._entries.get(record.job_id)
        self._entries[record.job_id] = _Entry(key, record)
        if old is not None:
            if (old.key, old.record.owner) == (key, record.owner):
                return
            self._unline(old)
        insort(self._lines.setdefault(record.owner, []), key)

    def remove(self, job_id: str) -> JobRecord | None:
        """Takes the job out; None when it isn't there."""
        entry = self._entries.pop(job_id, None)
        if entry is None:
            return None
        self._unline(entry)
        return entry.record

    def ordered(self, units_in_use: Mapping[str, int] | None = None) -> list[JobRecord]:
        """The jobs in turn, O(log owners) each. `units_in_use`: owner -> units of the jobs that
        hold a share now; left out, only the waiting jobs are shared out.
        """
        used = units_in_use or {}
        # A key holds the job id, so no two are equal and owners are never compared.
        turns = [(used.get(owner, 0), line[0], 0, owner) for owner, line in self._lines.items()]
        heapq.heapify(turns)
        records = []
        while turns:
            units, key, index, owner = turns[0]
            record = self._entries[key[2]].record
            records.append(record)
            line = self._lines[owner]
            if index + 1 < len(line):
                turn = (units + record.spec.units, line[index + 1], index + 1, owner)
                heapq.heapreplace(turns, turn)
            else:
                heapq.heappop(turns)
        return records

    def _unline(self, entry: _Entry) -> None:
        owner = entry.record.owner
        line = self._lines[owner]
        del line[bisect_left(line, entry.key)]
        if not line:
            del self._lines[owner]
