"""Jobs in numbers: lists and searches over the table, as a principal may see them, bounded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from cumulusd import job_search
from cumulusd.identity import Principal, Role
from cumulusd.job_search import Search
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import JobRecord, Phase, Seen
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
        explained: Callable[[JobRecord], JobRecord] = lambda record: record,
        in_turn: Callable[[], Iterable[JobRecord]] = lambda: (),
    ) -> None:
        """`explained` puts what a waiting job waits for into its record; `in_turn` gives those in
        the queue, whose turn is next first."""
        self._table = table
        self._journals = journals
        self._tails = tails
        self._wall_clock = wall_clock
        self._progress = progress
        self._explained = explained
        self._in_turn = in_turn

    def list(self, who: Principal, active: bool, limit: int) -> list[dict[str, Any]]:
        """The views of those jobs that this principal may see, newest first."""
        # They come newest first: of many the rest isn't looked at.
        found: Iterator[Seen] = (
            (one for one in self._table.newest_live(_only(who)) if one.end is None)
            if active
            else self._table.newest(_only(who))
        )
        visible = (one for one in found if who.may_see(one.owner))
        return [self._view(each) for each in self._records(islice(visible, max(0, limit)))]

    def search(self, who: Principal, search: Search) -> dict[str, Any]:
        """What `cumulus.job.search` answers."""
        found: Iterable[JobRecord]
        go_on, cut = None, False
        if search.order == "queue":
            in_line = job_search.in_line(
                self._table.placed(), self._in_turn(), search, lambda one: who.may_see(one.owner)
            )
            found, cut = in_line.records, in_line.cut
        else:
            until = None if search.after is None else search.after.created_at
            looked = job_search.look(
                search, self._table.newest(_only(who), until), lambda one: who.may_see(one.owner)
            )
            found, go_on = self._records(looked.records), looked.next
        return {
            "jobs": [
                {**self._view(record), "last_line": self._last_line(record)} for record in found
            ],
            "next": None if go_on is None else str(go_on),
            "cut": cut,
            "counts": {
                state.value: count for state, count in self._table.counts(who.may_see).items()
            },
            "now": self._wall_clock(),
        }

    def _records(self, found: Iterable[Seen]) -> Iterator[JobRecord]:
        """The whole of them."""
        for one in found:
            record = self._table.get(one.job_id)
            assert record is not None, "nothing changes the table meanwhile"
            yield record

    def _view(self, record: JobRecord) -> dict[str, Any]:
        extent = self._journals.extent(record.job_id)
        progress = self._progress(record.job_id)
        return job_view(self._explained(record), extent, progress, in_listing=True)

    def _last_line(self, record: JobRecord) -> str | None:
        if record.phase is Phase.ENDED:
            return None
        return job_search.last_line(self._tails.text(record.job_id))


def _only(who: Principal) -> str | None:
    """Whose jobs alone this principal may see; None: more people's, but not all for some roles."""
    return who.owner if who.role is Role.CLIENT else None
