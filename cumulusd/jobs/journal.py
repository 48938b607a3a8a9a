"""One job's journal on the daemon's disk: appended by one sender, read by any number of readers."""

import os
from collections.abc import Callable
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from cumulus_wire.journal import (
    HEADER,
    MAGIC,
    MAX_PAYLOAD_BYTES,
    FrameParser,
    JournalCorrupt,
    Kind,
    Record,
    gap_record,
    rest_missing,
)
from cumulusd.errors import Conflict, InvalidArgument
from cumulusd.jobs import segments
from cumulusd.jobs.ports import RunInThread
from cumulusd.jobs.segments import OpenFiles, Segment
from cumulusd.jobs.store import StoreFailed
from cumulusd.tasks import waiting_for


class JournalHole(Conflict):
    """Bytes were sent that don't follow on what is held: send from `received_offset` on."""


class JournalDamaged(JournalCorrupt):
    """Bytes were sent that are no frames. What was whole before them is kept, in `records` too."""

    def __init__(self, offset: int, why: str, records: list[Record]) -> None:
        super().__init__(offset, why)
        self.why = why
        self.records = records


@attrs.frozen(kw_only=True)
class Chunk:
    """A piece of a journal for a reader."""

    kind: str  #: "frames", or "gap" for a range that the size cap dropped
    offset: int
    next_offset: int  #: where to read on
    data: bytes = b""  #: whole frames; empty for a gap and at the journal's end

    def records(self) -> list[Record]:
        """The same as records; a gap is one GAP record. Raises JournalCorrupt."""
        if self.kind == "gap":
            return [gap_record(self.offset, self.next_offset, 0)]
        return FrameParser(self.offset).feed(self.data)


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
        self._files = files
        self._run_in_thread = run_in_thread
        self._cap_bytes = cap_bytes
        self._segment_bytes = segment_bytes
        self._changed = changed
        self._failed = failed
        self._on_durable = on_durable
        self._segments, self._last_kind = segments.recover(folder)
        self._parser = FrameParser(self._segments[-1].end if self._segments else 0)
        #: Everything before it is fsynced; whole frames only.
        self.durable_offset = self.start_offset
        #: Bytes on disk.
        self.size_bytes = sum(segment.size_bytes for segment in self._segments)
        #: A new segment waits for the older ones to be fsynced: don't wait for the interval.
        self.urgent = False
        self.closed = False
        #: Nothing of this attempt, nor of those before it, is taken any more.
        self.sealed_attempt = 0
        # Starts of the segments with bytes not fsynced: not looked at yet, and being fsynced. What
        # was found may have been left unsynced by a daemon that was killed.
        self._unsynced = {segment.start for segment in self._segments}
        self._in_flight: set[int] = set()
        self._sync_lock = DeferredLock()
        self._syncs_begun = 0
        self._sync_failure: str | None = None
        self._mending: Deferred[None] | None = None
        self._damage: tuple[int, str] | None = None
        self._waiters: dict[Deferred[None], int] = {}

    @property
    def start_offset(self) -> int:
        """Where it begins."""
        return self._segments[0].start if self._segments else 0

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
        return bool(self._unsynced or self._in_flight)

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
        segment = self._write(data)
        try:
            records = self._parser.feed(data)
        except JournalCorrupt as error:
            records = self._cut_damage(segment, boundary, error.offset)
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
        if self._segments and self._parser.pending_bytes:
            segment, end = self._segments[-1], self.end_offset
            try:
                fd = self._files.get(self._folder, segment.start)
                os.ftruncate(fd, end - segment.start)
            except OSError as error:
                raise disk_error(self.job_id, "written", self._folder, error) from error
            self.size_bytes -= segment.end - end
            segment.end = end
            self._unsynced.add(segment.start)
            self._parser = FrameParser(end)
            self._changed(self)
        start, end = given_up_from, self.end_offset
        if start is not None and not self.finished_since(start) and not self.given_up_since(start):
            self.append(end, rest_missing(end, attempt, time_us))
        self.sealed_attempt = max(self.sealed_attempt, attempt)
        return await self.sync() if self._segments else 0

    async def sync(self) -> int:
        """Fires when all whole frames appended before the call are fsynced: the durable offset.

        Raises StoreFailed. After a failed fsync the kernel may have dropped what it held, so from
        then on nothing is taken and nothing claimed, until a later sync has written anew what was
        not durable; the sender keeps its copy.
        """
        begun_before = self._syncs_begun
        async with self._sync_lock:
            if self.closed or not self._unsynced or self._syncs_begun > begun_before:
                self._check_sync_failure()
                return self.durable_offset  # whoever held the lock began after this call
            self._syncs_begun += 1
            self.urgent = False
            if self._sync_failure is None:
                await self._sync_segments()
            else:
                await self._mend()
            return self.durable_offset

    async def _sync_segments(self) -> None:
        wanted, starts = self.end_offset, sorted(self._unsynced)
        self._in_flight, self._unsynced = self._unsynced, set()
        folder = self._folder
        try:
            await self._run_in_thread(lambda: segments.sync_files(folder, starts))
        except BaseException as error:
            # Failed, or cancelled and unknown how far it came.
            self._unsynced |= self._in_flight
            self._in_flight = set()
            if isinstance(error, OSError):
                self._note_sync_failure(error)
            if not self.closed:
                self._changed(self)
            if isinstance(error, OSError):
                self._check_sync_failure()
            raise
        self._in_flight = set()
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
        self._files.close(self._folder)
        folder, end = self._folder, self.end_offset
        sizes = [
            (each.start, min(each.end, end) - each.start)
            for each in self._segments
            if each.start in self._unsynced
        ]

        def work() -> int:
            kept = sum(segments.rewrite(folder, *each) for each in sizes)
            segments.sync_files(folder, [])
            return kept

        kept = await self._run_in_thread(work)
        self._files.close(folder)  # sealing may have opened the file that is replaced now
        self._unsynced = set()
        self._sync_failure = None
        if self.closed:
            return
        if kept != sum(size for _, size in sizes):
            self._segments, self._last_kind = segments.recover(folder)
            end = self._segments[-1].end if self._segments else 0
            self._log.error(
                "job {job_id}: the disk lost its journal from {end} B on, it is asked for again",
                job_id=self.job_id,
                end=end,
            )
        elif self._segments:
            self._segments[-1].end = end
        self._parser = FrameParser(end)
        self.size_bytes = sum(each.size_bytes for each in self._segments)
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
            raise self._bad_offset(offset, f"is outside its range, 0 to {self.end_offset}")
        for segment in self._segments:
            if offset < segment.start:
                return Chunk(kind="gap", offset=offset, next_offset=segment.start)
            if offset < min(segment.end, self.end_offset):
                try:
                    return self._read_frames(segment, offset, max_bytes)
                except OSError as error:
                    raise disk_error(self.job_id, "read", self._folder, error) from error
        return Chunk(kind="frames", offset=offset, next_offset=offset)

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
        self._segments = segments.list_segments(self._folder)
        self.size_bytes = sum(segment.size_bytes for segment in self._segments)
        self._unsynced &= {segment.start for segment in self._segments}
        self._files.close(self._folder)
        self._changed(self)

    def close(self) -> None:
        """Closes its file and wakes its readers. Syncs nothing."""
        if not self.closed:
            self.closed = True
            self._files.close(self._folder)
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

    def _write(self, data: bytes) -> Segment:
        """Appends to the last segment, wholly or not at all."""
        segment = self._segments[-1] if self._segments else Segment(0, 0)
        try:
            fd = self._files.get(self._folder, segment.start)
            segments.write_at(fd, data, segment.size_bytes)
        except OSError as error:
            self._failed(error)
            raise disk_error(self.job_id, "written", self._folder, error) from error
        if not self._segments:
            self._segments.append(segment)
        segment.end += len(data)
        self.size_bytes += len(data)
        self._unsynced.add(segment.start)
        return segment

    def _cut_damage(self, segment: Segment, boundary: int, end: int) -> list[Record]:
        """Drops the bytes from `end` on; returns the whole records between `boundary` and it."""
        self._parser = FrameParser(end)
        self.size_bytes -= segment.end - end
        segment.end = end
        try:
            fd = self._files.get(self._folder, segment.start)
            whole = os.pread(fd, end - boundary, boundary - segment.start)
            os.ftruncate(fd, segment.size_bytes)
        except OSError as error:
            raise disk_error(self.job_id, "written", self._folder, error) from error
        return FrameParser(boundary).feed(whole)

    def _appended(self, records: list[Record]) -> None:
        if records:
            self._last_kind = records[-1].kind
        self._roll()
        self._drop()
        self._changed(self)
        if records:
            self._wake()

    def _roll(self) -> None:
        """Begins a new segment at the last frame boundary when this one is full."""
        last, boundary = self._segments[-1], self.end_offset
        if boundary - last.start < self._segment_bytes:
            return
        self.urgent = True
        older = (self._unsynced | self._in_flight) - {last.start}
        if older:
            return  # see segments.py: it grows until the older ones are on disk
        part_bytes = last.end - boundary
        try:
            if part_bytes:
                # The new one is whole before the old one is cut; recovery knows the overlap.
                fd = self._files.get(self._folder, last.start)
                part = os.pread(fd, part_bytes, boundary - last.start)
                segments.write_at(self._files.get(self._folder, boundary), part, 0)
                os.truncate(segments.path_of(self._folder, last.start), boundary - last.start)
        except OSError as error:
            # Nothing is lost: it stays one segment, and the next append tries again.
            self._failed(error)
            self._files.close(self._folder)
            segments.path_of(self._folder, boundary).unlink(missing_ok=True)
            return
        last.end = boundary
        self._segments.append(Segment(boundary, boundary + part_bytes))
        if part_bytes:
            self._unsynced.add(boundary)

    def _drop(self) -> None:
        """Keeps to the size cap."""
        if self.size_bytes <= self._cap_bytes:
            return
        # What isn't fsynced, or has no file yet, may be gone after a crash: the last two of the
        # rest would then be the last two.
        count, uncertain_bytes = len(self._segments), 0
        while count and self._is_uncertain(self._segments[count - 1]):
            count -= 1
            uncertain_bytes += self._segments[count].size_bytes
        certain = self._segments[:count]
        for segment in segments.droppable(certain, self._cap_bytes - uncertain_bytes):
            try:
                segments.path_of(self._folder, segment.start).unlink(missing_ok=True)
            except OSError as error:
                self._log.error(
                    "job {job_id}: can't drop a journal segment: {error}",
                    job_id=self.job_id,
                    error=error,
                )
                return
            self._segments.remove(segment)
            self._unsynced.discard(segment.start)
            self.size_bytes -= segment.size_bytes

    def _is_uncertain(self, segment: Segment) -> bool:
        start = segment.start
        return not segment.size_bytes or start in self._unsynced or start in self._in_flight

    # Reading.

    def _bad_offset(self, offset: int, why: str) -> InvalidArgument:
        message = f"Offset {offset} of the journal of job {self.job_id} {why}"
        return InvalidArgument(
            message,
            job_id=self.job_id,
            details={
                "faults": [{"key": "from_offset", "message": message}],
                "start_offset": self.start_offset,
                "end_offset": self.end_offset,
            },
            hint="Use 0, or a next_offset that the server sent.",
        )

    def _read_frames(self, segment: Segment, offset: int, max_bytes: int) -> Chunk:
        limit = min(segment.end, self.end_offset) - offset
        fd = os.open(segments.path_of(self._folder, segment.start), os.O_RDONLY | os.O_CLOEXEC)
        try:
            position = offset - segment.start
            data = os.pread(fd, min(limit, max(max_bytes, HEADER.size)), position)
            first = _frame_bytes(data, 0)
            if first is not None and len(data) < first <= limit:
                data = os.pread(fd, first, position)
        finally:
            os.close(fd)
        try:
            # The first frame's checksum proves that this is a boundary; readers check the others.
            if first is None or not FrameParser(offset).feed(data[:first]):
                raise JournalCorrupt(offset, "no frame")
        except JournalCorrupt:
            self._check_sync_failure()  # what the disk lost is no reader's fault, and comes again
            raise self._bad_offset(offset, "is inside a record") from None
        end = first
        while (size := _frame_bytes(data, end)) is not None and end + size <= len(data):
            end += size
        return Chunk(kind="frames", offset=offset, next_offset=offset + end, data=data[:end])

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


def _frame_bytes(data: bytes, position: int) -> int | None:
    """Size of the frame whose header stands at `position`; None when none does."""
    if len(data) - position < HEADER.size:
        return None
    magic, _, flags, length, _, _ = HEADER.unpack_from(data, position)
    if magic != MAGIC or flags != 0 or length > MAX_PAYLOAD_BYTES:
        return None
    return HEADER.size + int(length)


def disk_error(job_id: str, verb: str, folder: Path, error: OSError) -> StoreFailed:
    """What is raised when a journal's files can't be `verb`."""
    return StoreFailed(
        f"The journal of job {job_id} can't be {verb}: {error}",
        job_id=job_id,
        details={"path": str(folder)},
        hint=f"Check the free space and the health of the disk that holds {folder}.",
    )
