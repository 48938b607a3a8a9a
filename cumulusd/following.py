"""Following a job: its states and its journal, in order, as fast as the reader takes them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cumulusd.errors import InvalidArgument
from cumulusd.identity import Principal
from cumulusd.jobs.journals import Journal, Journals
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Clock
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import wait_at_most

#: What one progressive result carries at most, and to a reader that is quick: each costs daemon and
#: client more than its bytes, but a slow peer is one that takes none for a while.
FOLLOW_CHUNK_BYTES = 64 * 1024
BULK_CHUNK_BYTES = 256 * 1024
#: Quick is who takes so much within that time, until it is waited for so long.
_QUICK_BYTES, _QUICK_S = 4 << 20, 1.0
_SLOW_S = 0.25
#: How long followers of a job that was ended by force wait for what is still on its worker.
LATE_OUTPUT_S = 60.0

#: Takes one progressive result; fires when the reader can take more.
Sink = Callable[[Mapping[str, Any]], Awaitable[None]]


class Pace:
    """How large the pieces are that a reader gets, by how quickly it takes them. Pure."""

    def __init__(self, now: float) -> None:
        """`now`: seconds, of whatever clock."""
        self.chunk_bytes = FOLLOW_CHUNK_BYTES
        self._since = now
        self._taken_bytes = 0

    def took(self, size_bytes: int, began: float, now: float) -> None:
        """It took a piece that was given to it at `began`."""
        if now - began > _SLOW_S:
            self.chunk_bytes, self._since, self._taken_bytes = FOLLOW_CHUNK_BYTES, now, 0
            return
        self._taken_bytes += size_bytes
        if self._taken_bytes >= _QUICK_BYTES:
            quick = now - self._since <= _QUICK_S
            self.chunk_bytes = BULK_CHUNK_BYTES if quick else FOLLOW_CHUNK_BYTES
            self._since, self._taken_bytes = now, 0


class Following:
    """`readable(who, job id)`: the record, or NotFound; `view`: as its readers see it;
    `sent(bytes of journal)`: to one of them."""

    def __init__(
        self,
        *,
        table: JobTable,
        journals: Journals,
        clock: Clock,
        wall_clock: Callable[[], float],
        readable: Callable[[Principal, str], JobRecord],
        view: Callable[[JobRecord], dict[str, Any]],
        sent: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._table = table
        self._journals = journals
        self._clock = clock
        self._wall_clock = wall_clock
        self._readable = readable
        self._view = view
        self._sent = sent

    async def follow(
        self,
        who: Principal,
        job_id: str,
        from_offset: int,
        sink: Sink,
        tail_bytes: int | None = None,
    ) -> dict[str, Any]:
        """Sends state changes and journal in order to `sink`; the end, when all is sent.

        The reader sets the pace: nothing is read ahead of it. With `tail_bytes`, what lies between
        `from_offset` and about the last so many bytes that are there now is left out. Cancelling
        this ends the following, never the job.
        """
        record = self._readable(who, job_id)
        # Also while it waits for its reader: else what a waiting job waits for would be told to
        # others only meanwhile, and to it not before the next change.
        with self._table.reading(job_id):
            return await self._follow(who, record, from_offset, sink, tail_bytes)

    async def _follow(
        self,
        who: Principal,
        record: JobRecord,
        from_offset: int,
        sink: Sink,
        tail_bytes: int | None,
    ) -> dict[str, Any]:
        job_id = record.job_id
        journal = self._journals.get(job_id)
        offset = from_offset
        if tail_bytes is not None and journal is not None:
            tail = journal.end_offset - tail_bytes
            offset = max(offset, journal.record_begin(tail)) if tail > offset else offset
        shown: dict[str, Any] | None = None
        looked_at: JobRecord | None = None
        pace = Pace(self._clock.seconds())
        while True:
            record = self._readable(who, job_id)
            # The end itself is told last, by the answer.
            if record is not looked_at and record.end is None:
                looked_at, view = record, self._view(record)
                # Of journal and progress its records tell.
                state = {key: view[key] for key in view.keys() - {"journal", "progress"}}
                if state != shown:
                    await sink({"event": "state", "job": view})
                    shown = state
                    continue
            journal = journal or self._journals.get(job_id)
            if journal is not None and offset < journal.end_offset:
                try:
                    chunk = journal.read(offset, pace.chunk_bytes)
                except InvalidArgument as error:
                    begin = int(error.details["continue_from"])
                    why = "is inside a record"
                    raise journal.bad_offset(offset, why, _resumed(record, offset, begin)) from None
                part: dict[str, Any] = {
                    "event": "gap" if chunk.kind == "gap" else "journal",
                    "offset": chunk.offset,
                    "next_offset": chunk.next_offset,
                }
                if chunk.kind != "gap":
                    part["frames"] = chunk.data
                    self._sent(len(chunk.data))
                offset = chunk.next_offset
                began = self._clock.seconds()
                await sink(part)
                pace.took(len(chunk.data), began, self._clock.seconds())
                continue
            changed = self._table.signal(job_id).wait
            if record.end is None:
                await changed()
            elif (late_s := self._late_output_s(record, journal)) > 0:
                await wait_at_most(self._clock, late_s, changed())
            elif journal is not None and offset > journal.end_offset:
                # More than there is was shown to it: the daemon lost that with its power.
                end = journal.end_offset
                why = f"is behind its end, {end}"
                raise journal.bad_offset(offset, why, _resumed(record, offset, end))
            else:
                return {"event": "end", "job": self._view(record)}

    def _late_output_s(self, record: JobRecord, journal: Journal | None) -> float:
        """How long the journal of an ended job may still grow, for its followers.

        A job that was ended by force has said no last word: its worker was away, or its runner
        hung. What is on the worker comes while that is cleared.
        """
        if record.stop_reason is None or record.phase is Phase.ENDED:
            return 0.0
        if journal is not None and journal.finished_since(record.journal_start):
            return 0.0
        return (record.ended_at or 0.0) + LATE_OUTPUT_S - self._wall_clock()


def _resumed(record: JobRecord, offset: int, boundary: int) -> int:
    """From where a reader goes on whose `offset` is none of this journal, `boundary` the next one
    before it. What it was sent was another attempt's, when one has begun before it since: the
    daemon lost the end of that with its power. So it hasn't seen anything of this one."""
    return record.journal_start if record.journal_start < offset else boundary
