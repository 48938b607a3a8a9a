"""The way of an end from the runner's last record to the job's: journal durable, outputs stored."""

from collections.abc import Awaitable, Callable

import attrs
from twisted.logger import Logger

from cumulus_wire.codes import EndReason
from cumulusd.jobs import machine, waits
from cumulusd.jobs.effects import Tell
from cumulusd.jobs.events import Event, EventKind
from cumulusd.jobs.journals import Journal
from cumulusd.jobs.model import End, JobRecord
from cumulusd.jobs.output_pull import OutputPull, joined_notes
from cumulusd.jobs.outputs import ListedOutput
from cumulusd.jobs.ports import Clock
from cumulusd.jobs.store import StoreFailed
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import Tasks, sleep

_SYNC_AGAIN_S = 5.0
#: Storing outputs is worth a word when it takes longer than this.
TOLD_AFTER_S = 1.0


class Announcer:
    """Tells ends, each when all that belongs to it is on the daemon's disk."""

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        clock: Clock,
        tell: Tell,
        named: Callable[[JobRecord, End], Awaitable[End]],
        pull: OutputPull | None,
    ) -> None:
        """`named` gives an end its true name. `pull`: None: no outputs are stored."""
        self._table = table
        self._clock = clock
        self._tell = tell
        self._named = named
        self._pull = pull
        self._storing: set[str] = set()
        self._tasks = Tasks()

    def start(
        self,
        record: JobRecord,
        journal: Journal,
        at: float,
        end: End,
        listed: tuple[ListedOutput, ...],
    ) -> None:
        """The runner's last word is here. `end.outputs_note`: what the runner said of outputs."""
        self._tasks.start(
            self._announce(record, journal, at, end, listed),
            "announcing an end",
            job_id=record.job_id,
        )

    def start_pause(self, record: JobRecord, journal: Journal, at: float, ran_s: float) -> None:
        """The runner's last word is that the code has paused, after so long."""
        self._tasks.start(
            self._announce_pause(record, journal, at, ran_s),
            "announcing a pause",
            job_id=record.job_id,
        )

    def is_storing(self, job_id: str) -> bool:
        """The job has ended, which is told as soon as its outputs are stored."""
        return job_id in self._storing

    async def stop(self) -> None:
        """Ends what is under way; the next daemon takes it up."""
        await self._tasks.stop()

    async def _announce(
        self,
        record: JobRecord,
        journal: Journal,
        at: float,
        end: End,
        listed: tuple[ListedOutput, ...],
    ) -> None:
        await self._sync(record, journal)
        end = await self._named(record, end)
        current = self._table.get(record.job_id) or record
        # One that was forced meanwhile, or goes on with another attempt, leaves nothing.
        wanted = current.end is None and current.attempt == record.attempt
        wanted = wanted and not machine.is_retried(current, end)
        if listed and self._pull is not None and wanted:
            self._storing.add(record.job_id)
            telling = self._clock.callLater(TOLD_AFTER_S, self._explain, record, listed)
            try:
                end = await self._with_outputs(self._pull, record, end, listed)
            finally:
                self._storing.discard(record.job_id)
                if telling.active():
                    telling.cancel()
        self._tell(record.job_id, EventKind.FINAL, at=at, end=end, attempt=record.attempt)

    async def _announce_pause(
        self, record: JobRecord, journal: Journal, at: float, ran_s: float
    ) -> None:
        await self._sync(record, journal)
        event = Event(kind=EventKind.YIELDED, at=at, ran_s=ran_s, attempt=record.attempt)
        self._tell(record.job_id, event.kind, event=event)

    def _explain(self, record: JobRecord, listed: tuple[ListedOutput, ...]) -> None:
        """Says what the job waits for though its code has ended."""
        current = self._table.get(record.job_id)
        if current is None or current.placement is None or current.end is not None:
            return
        size_bytes = sum(one.size_bytes for one in listed)
        wait = waits.storing_outputs(current.placement.hostname, len(listed), size_bytes)
        self._table.explain(record.job_id, wait, current.phase)

    async def _sync(self, record: JobRecord, journal: Journal) -> None:
        """Has all of the journal on disk, however long the disk refuses."""
        told = False
        while True:
            try:
                await journal.sync()
                return
            except StoreFailed as error:
                if not told:
                    told = True
                    self._log.error(
                        "job {job_id} has ended, which is told when its journal is on disk: {why}",
                        job_id=record.job_id,
                        why=error.message,
                    )
            await sleep(self._clock, _SYNC_AGAIN_S)

    async def _with_outputs(
        self, pull: OutputPull, record: JobRecord, end: End, listed: tuple[ListedOutput, ...]
    ) -> End:
        before = self._stop_reason(record)

        def called_off() -> bool:
            # A cancel before the end leads to outputs like any other end; one after it means that
            # its user doesn't want to wait for them.
            now = self._stop_reason(record)
            return now is EndReason.CANCELLED_BY_USER and now is not before

        outputs, note = await pull.pull(record, listed, called_off)
        return attrs.evolve(end, outputs=outputs, outputs_note=joined_notes(end.outputs_note, note))

    def _stop_reason(self, record: JobRecord) -> EndReason | None:
        current = self._table.get(record.job_id)
        return None if current is None else current.stop_reason
