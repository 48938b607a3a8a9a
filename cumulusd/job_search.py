"""Looking through jobs: filters, pages, and how far one look goes. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from cumulus_wire.states import JobState
from cumulusd.errors import InvalidArgument
from cumulusd.jobs.model import JobRecord, Phase, Seen

#: What one answer holds at most, and how many records one look goes through for it: the reactor
#: does nothing else meanwhile.
MAX_FOUND = 200
MAX_SEEN = 20_000
MAX_TEXT_CHARS = 200
_ORDERS = ("newest", "queue")


@attrs.frozen(kw_only=True)
class Cursor:
    """Where a look goes on: behind this job."""

    created_at: float
    job_id: str

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """As `str` has it. Raises ValueError."""
        at, _, job_id = text.partition("~")
        return cls(created_at=float(at), job_id=job_id)

    def __str__(self) -> str:
        return f"{self.created_at!r}~{self.job_id}"


@attrs.frozen(kw_only=True)
class Search:
    """What is looked for. Texts are found anywhere, in upper or lower case."""

    states: frozenset[JobState] = frozenset()  #: none: all
    owner: str = ""
    text: str = ""  #: in name or id
    order: str = "newest"  #: or "queue": those that wait, in the order of the line
    after: Cursor | None = None
    limit: int = 50

    @classmethod
    def read(
        cls, *, states: Sequence[Any], owner: str, text: str, order: str, after: str, limit: int
    ) -> "Search":
        """Of a call's arguments. Raises InvalidArgument with every fault."""
        faults = []
        known = {state.value: state for state in JobState}
        texts = [state if isinstance(state, str) else repr(state) for state in states]
        if unknown := [state for state in texts if state not in known]:
            names = ", ".join(known)
            faults.append(("states", f"{unknown[0][:50]!r} is none of {names}"))
        for key, value in (("owner", owner), ("text", text)):
            if len(value) > MAX_TEXT_CHARS:
                faults.append((key, f"has over {MAX_TEXT_CHARS} characters"))
        if order not in _ORDERS:
            faults.append(("order", f"must be {' or '.join(_ORDERS)}"))
        cursor = None
        try:
            cursor = Cursor.read(after) if after else None
        except ValueError:
            faults.append(("after", "is no `next` of an earlier answer"))
        if faults:
            words = "; ".join(f"{key} {why}" for key, why in faults)
            raise InvalidArgument(
                f"The search is wrong: {words}",
                details={"faults": [{"key": key, "message": why} for key, why in faults]},
            )
        return cls(
            states=frozenset(known[state] for state in texts),
            owner=owner.casefold(),
            text=text.casefold(),
            order=order,
            after=cursor,
            limit=max(1, min(limit, MAX_FOUND)),
        )

    def finds(self, record: Seen) -> bool:
        """Is it one of those?"""
        if self.states and record.state not in self.states:
            return False
        if self.owner and self.owner not in record.owner.casefold():
            return False
        return not self.text or (
            self.text in record.job_id.casefold() or self.text in (record.name or "").casefold()
        )


@attrs.frozen
class Found:
    """What one look found. `next`: where to go on, None at the end; with fewer than were asked for
    there may still be more, further on."""

    records: list[Seen]
    next: Cursor | None


def look(search: Search, records: Iterable[Seen], may_see: Callable[[Seen], bool]) -> Found:
    """Goes through the records, which come newest first, from the search's place on. Those that
    are younger than that needn't be among them."""
    found: list[Seen] = []
    last: Seen | None = None
    for seen, record in enumerate(_behind(search.after, records)):
        if last is not None and (len(found) == search.limit or seen == MAX_SEEN):
            return Found(found, Cursor(created_at=last.created_at, job_id=last.job_id))
        last = record
        if may_see(record) and search.finds(record):
            found.append(record)
    return Found(found, None)


def _behind(after: Cursor | None, records: Iterable[Seen]) -> Iterable[Seen]:
    if after is None:
        yield from records
        return
    same: list[Seen] = []
    passed = False
    for record in records:
        if passed:
            yield record
        elif record.created_at > after.created_at:
            continue
        elif record.created_at == after.created_at and record.job_id != after.job_id:
            same.append(record)  # of one moment: before it in the order, unless it is forgotten
        elif record.job_id == after.job_id:
            passed = True
        else:
            yield from same
            yield record
            passed = True
    if not passed:
        yield from same


@attrs.frozen
class InLine:
    """What a look along the line found. `cut`: it ended before the line did, with fewer than were
    asked for."""

    records: list[JobRecord]
    cut: bool


def in_line(
    records: Iterable[JobRecord],
    line: Iterable[JobRecord],
    search: Search,
    may_see: Callable[[Seen], bool],
) -> InLine:
    """Those of `records` that are on their way to a worker, or between two attempts, the oldest
    first; then those in `line`, whose turn is next first: of that, no more than one look goes
    through."""
    found = [
        record
        for record in records
        if record.phase is not Phase.QUEUED
        and record.state is JobState.PENDING
        and may_see(record)
        and search.finds(record)
    ]
    found.sort(key=lambda record: record.created_at)
    del found[search.limit :]
    if len(found) < search.limit:
        for seen, record in enumerate(line):
            if seen == MAX_SEEN:
                return InLine(found, cut=True)
            if record.phase is Phase.QUEUED and may_see(record) and search.finds(record):
                found.append(record)
                if len(found) == search.limit:
                    break
    return InLine(found, cut=False)


def last_line(text: str, max_chars: int = 240) -> str | None:
    """The last line that says something in the end of an output; what a carriage return wrote over
    is gone, as on a terminal."""
    for line in reversed(text.splitlines()[-50:]):
        shown = line.rstrip()
        if shown:
            return shown[-max_chars:]
    return None
