"""One job's journal on the daemon's disk: appended by one sender, read by any number of readers."""

from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from cumulus_wire.journal import FrameParser, JournalCorrupt, Kind, Record, rest_missing
from cumulusd.errors import Conflict, CumulusError, InvalidArgument
from cumulusd.jobs.chunk import Chunk, read_chunk, record_around
from cumulusd.jobs.journal_errors import JournalDamaged, JournalHole, disk_error
from cumulusd.jobs.journal_files import JournalFiles
from cumulusd.jobs.ports import RunInThread
from cumulusd.jobs.segments import OpenFiles, Segment
from cumulusd.jobs.store import StoreFailed
from cumulusd.tasks import waiting_for


class Journal:
    """Made by `Journals.open`. Offsets are journal offsets, in bytes."""

    _log = Logger()

    def __init__(
        self,
        job_id: str,
        folder: Path,
        *,
        files: OpenFiles,
        run_in_thread: RunInThread,
        cap_bytes: int,
        segment_bytes: int,
        changed: "Callable[[Journal], None]",
        failed: Callable[[OSError], None],
        on_durable: Callable[[str, int], None],
    ) -> None:
        """Recovers what `folder` holds; blocking. `changed` is called when `dirty`, `urgent` or
        `size_bytes` may have changed, `failed` when the disk refuses a write. Raises OSError.
        """
        self.job_id = job_id
        self._folder = folder
        self._changed = changed
        self._failed = failed
        self._on_durable = on_durable
        self._files = JournalFiles(
            job_id,
            folder,
            files=files,
            run_in_thread=run_in_thread,
            cap_bytes=cap_bytes,
            segment_bytes=segment_bytes,
            failed=failed,
        )
        self._last_kind = self._files.last_kind
        self._parser = FrameParser(self._files.end_offset)
        #: Everything before it is fsynced; whole frames only.
        self.durable_offset = self.start_offset
        self.closed = False
        #: Nothing of this attempt, nor of those before it, is taken any more.
        self.sealed_attempt = 0
        self._sync_lock = DeferredLock()
        self._syncs_begun = 0
        self._sync_failure: str | None = None
        self._mending: Deferred[None] | None = None
        self._damage: tuple[int, str] | None = None
        self._waiters: dict[Deferred[None], int] = {}

    @property
    def start_offset(self) -> int:
        """Where it begins."""
        return self._files.start_offset

    @property
    def end_offset(self) -> int:
        """Behind the last whole frame received."""
        return self._parser.offset

    @property
    def received_offset(self) -> int:
        """Behind the last byte received, those of an incomplete frame too."""
        return self._parser.offset + self._parser.pending_bytes

    @property
    def finished(self) -> bool:
        """Its last record is an EXIT: nothing follows in this attempt."""
        return self._last_kind is Kind.EXIT

    def finished_since(self, offset: int) -> bool:
        """An EXIT is its last record, and lies behind `offset`, where an attempt began."""
        return self.finished and self.end_offset > offset

    def given_up_since(self, offset: int) -> bool:
        """Its last record says that the rest of an attempt is missing, which began at `offset`."""
        return self._last_kind is Kind.GAP and self.end_offset > offset

    @property
    def dirty(self) -> bool:
        """It holds bytes that a sync can make durable."""
        return self._files.dirty

    @property
    def urgent(self) -> bool:
        """A new segment waits for the older ones to be fsynced: don't wait for the interval."""
        return self._files.urgent

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return self._files.size_bytes

    @property
    def failing(self) -> bool:
        """The last sync failed: it takes nothing until one succeeds."""
        return self._sync_failure is not None

    def append(self, offset: int, data: bytes) -> list[Record]:
        """Takes the journal's bytes from `offset` on; returns the records they complete, in order.

        Bytes already held are skipped. Raises JournalHole when some are missing before `offset`,
        JournalDamaged when they are no frames (at every later append too), Conflict when closed,
        StoreFailed when the disk refuses, or did at the last sync: nothing of `data` was taken.
        """
        self._check_open()
        self._check_sync_failure()
        received = self.received_offset
        if offset > received:
            raise JournalHole(
                f"The journal of job {self.job_id} is held up to {received}, "
                f"but bytes from {offset} on were sent",
                job_id=self.job_id,
                details={"received_offset": received, "offset": offset},
                hint=f"Send it from offset {received} on.",
            )
        if self._damage is not None:
            raise JournalDamaged(*self._damage, [])
        data = data[received - offset :]
        if not data:
            return []
        boundary = self.end_offset
        self._files.append(data)
        try:
            records = self._parser.feed(data)
        except JournalCorrupt as error:
            records = self._cut_damage(boundary, error.offset)
            why = str(error).partition(": ")[2]
            self._damage = error.offset, why
            self._appended(records)
            raise JournalDamaged(error.offset, why, records) from error
        self._appended(records)
        return records

    async def seal(
        self, attempt: int, *, given_up_from: int | None = None, time_us: int = 0
    ) -> int:
        """Takes nothing more of this attempt; fires with the offset at which the next one's
        journal begins, which is durable. An incomplete frame is cut. Raises StoreFailed, Conflict.

        `given_up_from`: where the attempt began, when more of it may be on its worker. A GAP record
        then says so, unless its EXIT is here, or that record already.
        """
        self._check_open()
        self._damage = None
        if self._files and self._parser.pending_bytes:
            end = self.end_offset
            self._files.cut(end)
            self._parser = FrameParser(end)
            self._changed(self)
        start, end = given_up_from, self.end_offset
        if start is not None and not self.finished_since(start) and not self.given_up_since(start):
            self.append(end, rest_missing(end, attempt, time_us))
        self.sealed_attempt = max(self.sealed_attempt, attempt)
        return await self.sync() if self._files else 0

    async def sync(self) -> int:
        """Fires when all whole frames appended before the call are fsynced: the durable offset.

        Raises StoreFailed. After a failed fsync the kernel may have dropped what it held, so from
        then on nothing is taken and nothing claimed, until a later sync has written anew what was
        not durable; the sender keeps its copy.
        """
        begun_before = self._syncs_begun
        async with self._sync_lock:
            if self.closed or not self._files.unsynced or self._syncs_begun > begun_before:
                self._check_sync_failure()
                return self.durable_offset  # whoever held the lock began after this call
            self._syncs_begun += 1
            self._files.urgent = False
            if self._sync_failure is None:
                await self._sync_segments()
            else:
                await self._mend()
            return self.durable_offset

    async def _sync_segments(self) -> None:
        wanted = self.end_offset
        try:
            await self._files.sync()
        except BaseException as error:
            if isinstance(error, OSError):
                self._note_sync_failure(error)
            if not self.closed:
                self._changed(self)
            if isinstance(error, OSError):
                self._check_sync_failure()
            raise
        self._synced(wanted)

    async def _mend(self) -> None:
        """Writes anew what is not durable. What the kernel lost is cut off: it comes again."""
        if self._mending is None or self._mending.called:
            self._mending = Deferred.fromCoroutine(self._try_to_mend())
        # A cancelled caller leaves it under way: two at a time must not be.
        await waiting_for(self._mending)
        self._check_sync_failure()

    async def _try_to_mend(self) -> None:
        try:
            await self._rewrite()
        except OSError as error:
            self._note_sync_failure(error)

    async def _rewrite(self) -> None:
        # Nothing is appended meanwhile, so nothing is dropped or begun either. A frame that is not
        # whole yet has no checksum to prove it: it is cut off, and comes again.
        end = self.end_offset
        complete = await self._files.rewrite(end)
        self._sync_failure = None
        if self.closed:
            return
        if complete:
            self._files.trim(end)
        else:
            self._files.recover()
            self._last_kind, end = self._files.last_kind, self._files.end_offset
            self._log.error(
                "job {job_id}: the disk lost its journal from {end} B on, it is asked for again",
                job_id=self.job_id,
                end=end,
            )
        self._parser = FrameParser(end)
        self._log.info("job {job_id}: its journal is on disk again", job_id=self.job_id)
        self._synced(end)

    def _note_sync_failure(self, error: OSError) -> None:
        if self._sync_failure is None:
            self._log.error(
                "job {job_id}: its journal can't be made durable: {error}; it takes nothing until "
                "it can, its worker keeps what comes",
                job_id=self.job_id,
                error=error,
            )
        self._sync_failure = str(error)
        self._failed(error)

    def _synced(self, offset: int) -> None:
        if self.closed:
            return
        if offset > self.durable_offset:
            self.durable_offset = offset
            self._on_durable(self.job_id, offset)
        self._changed(self)

    def read(self, offset: int, max_bytes: int) -> Chunk:
        """Whole frames from `offset` on, at most `max_bytes` (a single frame may be larger).

        At the end an empty chunk; where the cap dropped a range, a gap chunk. Raises
        InvalidArgument when `offset` is inside a frame or out of range, Conflict when closed,
        StoreFailed when the disk refuses.
        """
        self._check_open()
        if not 0 <= offset <= self.end_offset:
            nearest = max(0, min(offset, self.end_offset))
            raise self.bad_offset(offset, f"is outside its range, 0 to {self.end_offset}", nearest)
        for segment in self._files:
            if offset < segment.start:
                return Chunk(kind="gap", offset=offset, next_offset=segment.start)
            if offset < min(segment.end, self.end_offset):
                try:
                    return read_chunk(self._folder, segment, offset, self.end_offset, max_bytes)
                except OSError as error:
                    raise disk_error(self.job_id, "read", self._folder, error) from error
                except JournalCorrupt:
                    # What the disk lost is no reader's fault, and comes again.
                    self._check_sync_failure()
                    raise self._inside_a_record(segment, offset) from None
        return Chunk(kind="frames", offset=offset, next_offset=offset)

    def record_begin(self, offset: int) -> int:
        """Where the record begins that `offset` is inside; where that isn't kept, the next one that
        is. Raises StoreFailed when the disk refuses."""
        for segment in self._files:
            if offset < segment.start:
                return segment.start
            if offset < min(segment.end, self.end_offset):
                try:
                    return record_around(self._folder, segment, offset)
                except OSError as error:
                    raise disk_error(self.job_id, "read", self._folder, error) from error
        return self.end_offset

    async def wait_beyond(self, offset: int) -> None:
        """Fires when `end_offset` is beyond `offset`, or the journal is finished or closed.

        Safe to cancel.
        """
        if self.closed or self.finished or self.end_offset > offset:
            return
        waiter: Deferred[None] = Deferred()
        self._waiters[waiter] = offset
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    def pruned(self) -> None:
        """Its older segments were taken away: readers find a gap there."""
        self._files.pruned()
        self._changed(self)

    def close(self) -> None:
        """Closes its file and wakes its readers. Syncs nothing."""
        if not self.closed:
            self.closed = True
            self._files.close()
            self._wake()

    # Writing.

    def _check_open(self) -> None:
        if self.closed:
            raise Conflict(
                f"The journal of job {self.job_id} is closed: the job's history was deleted, or "
                "the daemon is stopping",
                job_id=self.job_id,
            )

    def _check_sync_failure(self) -> None:
        if self._sync_failure is not None:
            raise StoreFailed(
                f"The journal of job {self.job_id} can't be made durable: {self._sync_failure}",
                job_id=self.job_id,
                details={"durable_offset": self.durable_offset},
                hint=f"Check the free space and the health of the disk that holds {self._folder}; "
                "it is tried again every few seconds, and nothing is lost meanwhile.",
            )

    def _cut_damage(self, boundary: int, end: int) -> list[Record]:
        """Drops the bytes from `end` on; returns the whole records between `boundary` and it."""
        self._parser = FrameParser(end)
        return FrameParser(boundary).feed(self._files.cut_damage(boundary, end))

    def _appended(self, records: list[Record]) -> None:
        if records:
            self._last_kind = records[-1].kind
        self._files.roll(self.end_offset)
        self._files.drop()
        self._changed(self)
        if records:
            self._wake()

    # Reading.

    def _inside_a_record(self, segment: Segment, offset: int) -> CumulusError:
        try:
            begin = record_around(self._folder, segment, offset)
        except OSError as error:
            return disk_error(self.job_id, "read", self._folder, error)
        return self.bad_offset(offset, "is inside a record", begin)

    def bad_offset(self, offset: int, why: str, continue_from: int) -> InvalidArgument:
        """The error for an offset that can't be read from; `continue_from` can."""
        message = f"Offset {offset} of the journal of job {self.job_id} {why}"
        return InvalidArgument(
            message,
            job_id=self.job_id,
            details={
                "faults": [{"key": "from_offset", "message": message}],
                "start_offset": self.start_offset,
                "end_offset": self.end_offset,
                "continue_from": continue_from,
            },
            hint=f"Continue from {continue_from}; what was read behind it is not this journal's.",
        )

    def _wake(self) -> None:
        ready = [
            waiter
            for waiter, offset in self._waiters.items()
            if self.closed or self.finished or self.end_offset > offset
        ]
        for waiter in ready:
            # One that is woken may cancel another.
            if self._waiters.pop(waiter, None) is not None:
                waiter.callback(None)
