"""Takes in the journals that the agents send, and hears in them what the jobs say."""

from collections.abc import Awaitable, Callable

import attrs
from twisted.logger import Logger

from cumulus_wire.journal import JournalCorrupt, Kind, Record
from cumulus_wire.states import JobState
from cumulusd.errors import CumulusError, NotFound, Unavailable
from cumulusd.jobs import checkpoints, ends
from cumulusd.jobs.announcing import Announcer
from cumulusd.jobs.effects import Tell
from cumulusd.jobs.events import Event, EventKind
from cumulusd.jobs.journals import Journal, JournalDamaged, Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import End, JobRecord, Phase
from cumulusd.jobs.output_pull import OutputPull
from cumulusd.jobs.outputs import listed_outputs
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.ports import Clock
from cumulusd.jobs.table import JobTable

_READ_BYTES = 1 << 20


class Intake:
    """The daemon's desk for the agents: journals in, packages out."""

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        journals: Journals,
        packages: Packages,
        tails: LogTails,
        clock: Clock,
        tell: Tell,
        named: Callable[[JobRecord, End], Awaitable[End]],
        nudge: Callable[[str], None],
        acknowledge: Callable[[str, int], None],
        pull: OutputPull | None = None,
        progress: Callable[[str, Record], None] = lambda job_id, entry: None,
        counted: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        """`acknowledge(job_id, offset)` tells the sender what is on disk; `nudge` the supervisor
        that a container is gone; `named` gives an end its true name. `pull`: None: outputs of jobs
        aren't stored. `progress` takes their PROGRESS records; `counted` is told of the bytes of
        journals that were taken."""
        self._table = table
        self._journals = journals
        self._packages = packages
        self._tails = tails
        self._tell = tell
        self._announcer = Announcer(table=table, clock=clock, tell=tell, named=named, pull=pull)
        self._nudge = nudge
        self._progress = progress
        self._counted = counted
        self._acknowledge = acknowledge
        self._errors: dict[str, Record] = {}

    def resume(self, record: JobRecord) -> None:
        """Hears again what the journal on disk says of the attempt of a job that has not ended."""
        try:
            journal = self._journals.get(record.job_id)
            if journal is not None:
                self._hear_again(record, journal)
        except (CumulusError, JournalCorrupt) as error:
            # One job's bad journal must not keep the daemon from all others.
            self._damaged(record, str(error))

    def _hear_again(self, record: JobRecord, journal: Journal) -> None:
        offset = max(journal.start_offset, record.journal_start)
        while offset < journal.end_offset:
            chunk = journal.read(offset, _READ_BYTES)
            for entry in chunk.records():
                self._hear(record, journal, entry)
            offset = chunk.next_offset

    async def stop(self) -> None:
        """Ends what is under way."""
        await self._announcer.stop()

    def is_storing(self, job_id: str) -> bool:
        """The job has ended, which is told as soon as its outputs are stored."""
        return self._announcer.is_storing(job_id)

    # -- for the agents' link

    def offered(self, node_id: str, job_id: str, attempt: int, start: int, end: int) -> int | None:
        """Where the agent shall begin to send; None: nothing of that attempt is wanted.

        Raises StoreFailed when our disk refuses: offer it again later."""
        record = self._wanted(node_id, job_id, attempt)
        if record is None:
            return None
        journal = self._journals.open(job_id)
        if start > journal.received_offset:
            why = f"the worker's begins at {start}, ours ends at {journal.received_offset}"
            self._damaged(record, why)
            return None
        # The agent frees what lies below: no more than what is durable. What we hold beyond that
        # comes a second time and is trimmed.
        return max(journal.durable_offset, record.journal_start)

    def received(self, node_id: str, job_id: str, attempt: int, offset: int, data: bytes) -> bool:
        """Bytes of a journal. False: send no more of that attempt.

        Raises StoreFailed when our disk refuses, JournalHole when bytes before these are missing
        (our disk lost them): nothing was taken; the agent keeps them, and is to offer them again.
        """
        record = self._wanted(node_id, job_id, attempt)
        if record is None:
            return False
        journal = self._journals.open(job_id)
        try:
            entries = journal.append(offset, data)
        except JournalDamaged as error:
            for entry in error.records:
                self._hear(record, journal, entry)
            self._damaged(record, str(error))
            return False
        self._counted(len(data))
        if entries:  # readers first: what is heard may be a record to save
            self._table.wake(job_id)
        for entry in entries:
            self._hear(record, journal, entry)
        return True

    def lock_free(self, node_id: str, job_id: str, attempt: int) -> None:
        """No process of that attempt is left on its worker."""
        if self._current(node_id, job_id, attempt) is not None:
            self._nudge(job_id)

    async def read_package(
        self, node_id: str, sha256: str, offset: int, length: int
    ) -> tuple[bytes, int]:
        """A range of a package that a job on that node needs, and the package's size."""
        for record in self._table.placed_on(node_id):
            if record.spec.package_sha256 == sha256:
                return await self._packages.read(sha256, offset, length)
        raise NotFound(f"No job on worker {node_id} has the package {sha256[:12]}…")

    # -- inside

    def _wanted(self, node_id: str, job_id: str, attempt: int) -> JobRecord | None:
        """The record of a job whose attempt on that node this is, while it is listened to.

        Raises StoreFailed, and Unavailable for a moment: let it be kept, and offered again."""
        record = self._current(node_id, job_id, attempt)
        if record is None:
            return None
        journal = self._journals.open(job_id)
        # An earlier daemon may have given it up, and told so in the journal.
        if attempt <= journal.sealed_attempt or journal.given_up_since(record.journal_start):
            if journal.durable_offset < journal.end_offset:
                # What the worker then deletes must not be missing without a word of it.
                raise Unavailable(f"The journal of job {job_id} is being closed", job_id=job_id)
            return None
        return record

    def _current(self, node_id: str, job_id: str, attempt: int) -> JobRecord | None:
        record = self._table.get(job_id)
        if record is None or record.phase is Phase.ENDED or record.placement is None:
            return None
        if record.placement.node_id != node_id or record.attempt != attempt:
            return None
        return record

    def _damaged(self, record: JobRecord, why: str) -> None:
        self._log.error("job {job_id}: journal damaged: {why}", job_id=record.job_id, why=why)
        end = ends.end_of_bad_journal(why)
        self._tell(record.job_id, EventKind.FINAL, end=end, attempt=record.attempt)

    def _hear(self, record: JobRecord, journal: Journal, entry: Record) -> None:
        job_id, attempt = record.job_id, record.attempt
        at = entry.time_us / 1e6
        self._tails.feed(job_id, entry)
        try:
            if entry.kind is Kind.STATUS:
                phase = entry.json().get("phase")
                if phase == "setup":
                    self._errors.pop(job_id, None)
                    self._tell(job_id, EventKind.SETUP_BEGAN, at=at, attempt=attempt)
                elif phase == "running":
                    self._tell(job_id, EventKind.CODE_BEGAN, at=at, attempt=attempt)
            elif entry.kind is Kind.PROGRESS:
                self._progress(job_id, entry)
            elif entry.kind is Kind.ERROR:
                self._errors[job_id] = entry
            elif entry.kind is Kind.CHECKPOINT:
                told = checkpoints.read(entry.json())
                event = Event(kind=EventKind.CHECKPOINTED, at=at, attempt=attempt, checkpoints=told)
                self._tell(job_id, event.kind, event=event)
            elif entry.kind is Kind.EXIT:
                error, said = self._errors.pop(job_id, None), entry.json()
                if said.get("outcome") == JobState.PAUSED.value:
                    self._announcer.start_pause(record, journal, at, ends.run_time(said))
                    return
                end = ends.end_of_exit(said, error.json() if error else None)
                listed, note = listed_outputs(said)
                end = attrs.evolve(end, outputs_note=note)
                self._announcer.start(record, journal, at, end, listed)
        except ValueError as problem:
            self._damaged(record, f"record at {entry.offset}: {problem}")
