"""Jobs in numbers: lists and searches over the table, as a principal may see them, bounded."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from cumulusd import job_search
from cumulusd.identity import Principal, Role
from cumulusd.job_search import Search
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.table import JobTable
from cumulusd.views import job_view


class Listings:
    """Looks through the table. `progress` gives a job's last word on that."""

    def __init__(
        self,
        *,
        table: JobTable,
        journals: Journals,
        tails: LogTails,
        wall_clock: Callable[[], float],
        progress: Callable[[str], Mapping[str, Any] | None],
    ) -> None:
        self._table = table
        self._journals = journals
        self._tails = tails
        self._wall_clock = wall_clock
        self._progress = progress

    def list(self, who: Principal, active: bool, limit: int) -> list[dict[str, Any]]:
        """The views of those jobs that this principal may see, newest first."""
        if not active:
            # They come newest first, nearly: of a long history the rest isn't looked at.
            visible = (each for each in self._newest_of(who) if who.may_see(each.owner))
            page = list(islice(visible, max(0, limit)))
            page.sort(key=lambda record: record.created_at, reverse=True)
            return [self._view(record) for record in page]
        seen = (
            record
            for record in self._table.live()
            if who.may_see(record.owner) and record.end is None
        )
        newest = heapq.nlargest(limit, seen, key=lambda record: record.created_at)
        return [self._view(record) for record in newest]

    def search(self, who: Principal, search: Search) -> dict[str, Any]:
        """What `cumulus.job.search` answers."""
        mine = [record for record in self._table.live() if who.may_see(record.owner)]
        found: Iterable[JobRecord]
        go_on = None
        if search.order == "queue":
            found = job_search.in_line(mine, search)
        else:
            looked = job_search.look(
                search, self._newest_of(who), lambda record: who.may_see(record.owner)
            )
            found, go_on = looked.records, looked.next
        return {
            "jobs": [
                {**self._view(record), "last_line": self._last_line(record)} for record in found
            ],
            "next": None if go_on is None else str(go_on),
            "counts": job_search.counts(mine),
            "now": self._wall_clock(),
        }

    def _newest_of(self, who: Principal) -> Iterator[JobRecord]:
        """All that this principal may see, and for some roles more."""
        return self._table.newest(who.owner if who.role is Role.CLIENT else None)

    def _view(self, record: JobRecord) -> dict[str, Any]:
        extent = self._journals.extent(record.job_id)
        return job_view(record, extent, self._progress(record.job_id), in_listing=True)

    def _last_line(self, record: JobRecord) -> str | None:
        if record.phase is Phase.ENDED:
            return None
        return job_search.last_line(self._tails.text(record.job_id))
