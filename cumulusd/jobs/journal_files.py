"""The files of one journal, for the one who appends to it: which there are, and which are fsynced.

What a file may hold and lose stands in `segments`. Here is no frame and no promise to anybody.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from twisted.logger import Logger

from cumulus_wire.journal import Kind
from cumulusd.jobs import segments
from cumulusd.jobs.journal_errors import disk_error
from cumulusd.jobs.ports import RunInThread
from cumulusd.jobs.segments import OpenFiles, Segment


class JournalFiles:
    """The segments of the journal in `folder`. Offsets are journal offsets, in bytes."""

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
        failed: Callable[[OSError], None],
    ) -> None:
        """Recovers what `folder` holds; blocking. `failed` is called when the disk refuses a write.
        Raises OSError.
        """
        self._folder = folder
        self._job_id = job_id
        self._files = files
        self._run_in_thread = run_in_thread
        self._cap_bytes = cap_bytes
        self._segment_bytes = segment_bytes
        self._failed = failed
        #: Kind of the last record, when the files were recovered.
        self.last_kind: Kind | None = None
        self._segments: list[Segment] = []
        #: Bytes on disk.
        self.size_bytes = 0
        #: A new segment waits for the older ones to be fsynced: don't wait for the interval.
        self.urgent = False
        self.recover()
        # Starts of the segments with bytes not fsynced: not looked at yet, and being fsynced. What
        # was found may have been left unsynced by a daemon that was killed.
        self._unsynced = {segment.start for segment in self._segments}
        self._in_flight: set[int] = set()
        #: The names of some may not be on disk.
        self._new_names = True

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def __bool__(self) -> bool:
        """There is something."""
        return bool(self._segments)

    @property
    def start_offset(self) -> int:
        """Where they begin."""
        return self._segments[0].start if self._segments else 0

    @property
    def end_offset(self) -> int:
        """Behind the last byte."""
        return self._segments[-1].end if self._segments else 0

    @property
    def dirty(self) -> bool:
        """They hold bytes that an fsync can make durable."""
        return bool(self._unsynced or self._in_flight)

    @property
    def unsynced(self) -> bool:
        """They hold bytes that no fsync under way makes durable."""
        return bool(self._unsynced)

    def recover(self) -> None:
        """Cuts back to what is whole. Blocking; raises OSError."""
        self._segments, self.last_kind = segments.recover(self._folder)
        self._add_up()

    def pruned(self) -> None:
        """The older ones were taken away."""
        self._segments = segments.list_segments(self._folder)
        self._add_up()
        self._unsynced &= {segment.start for segment in self._segments}
        self.close()

    def close(self) -> None:
        """Closes the file that is open for appending; the next append opens it again."""
        self._files.close(self._folder)

    def _add_up(self) -> None:
        self.size_bytes = sum(segment.size_bytes for segment in self._segments)

    # Writing.

    def append(self, data: bytes) -> None:
        """Appends to the last segment, wholly or not at all. Raises StoreFailed."""
        segment = self._segments[-1] if self._segments else Segment(0, 0)
        try:
            fd = self._files.get(self._folder, segment.start)
            segments.write_at(fd, data, segment.size_bytes)
        except OSError as error:
            self._failed(error)
            raise disk_error(self._job_id, "written", self._folder, error) from error
        if not self._segments:
            self._segments.append(segment)
        if not segment.size_bytes:
            self._new_names = True
        segment.end += len(data)
        self.size_bytes += len(data)
        self._unsynced.add(segment.start)

    def cut(self, end: int) -> None:
        """Drops the bytes of the last segment from `end` on. Raises StoreFailed: they are there."""
        segment = self._segments[-1]
        try:
            fd = self._files.get(self._folder, segment.start)
            os.ftruncate(fd, end - segment.start)
        except OSError as error:
            raise disk_error(self._job_id, "written", self._folder, error) from error
        self.size_bytes -= segment.end - end
        segment.end = end
        self._unsynced.add(segment.start)

    def cut_damage(self, boundary: int, end: int) -> bytes:
        """Drops the bytes just appended from `end` on; those between `boundary` and `end`.

        Raises StoreFailed: the bytes don't count any more, and are written over.
        """
        segment = self._segments[-1]
        self.size_bytes -= segment.end - end
        segment.end = end
        try:
            fd = self._files.get(self._folder, segment.start)
            whole = os.pread(fd, end - boundary, boundary - segment.start)
            os.ftruncate(fd, segment.size_bytes)
        except OSError as error:
            raise disk_error(self._job_id, "written", self._folder, error) from error
        return whole

    def roll(self, boundary: int) -> None:
        """Begins a new segment at `boundary`, the last frame boundary, when this one is full."""
        last = self._segments[-1]
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
            self.close()
            segments.path_of(self._folder, boundary).unlink(missing_ok=True)
            return
        last.end = boundary
        self._segments.append(Segment(boundary, boundary + part_bytes))
        if part_bytes:
            self._new_names = True
            self._unsynced.add(boundary)

    def drop(self) -> None:
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
                    job_id=self._job_id,
                    error=error,
                )
                return
            self._segments.remove(segment)
            self._unsynced.discard(segment.start)
            self.size_bytes -= segment.size_bytes

    def _is_uncertain(self, segment: Segment) -> bool:
        start = segment.start
        return not segment.size_bytes or start in self._unsynced or start in self._in_flight

    # Syncing: one at a time.

    async def sync(self) -> None:
        """Fires when what was there at the call is fsynced. Raises OSError: it may not be."""
        folder, starts = self._folder, sorted(self._unsynced)
        self._in_flight, self._unsynced = self._unsynced, set()
        names, self._new_names = self._new_names, False
        try:
            await self._run_in_thread(lambda: segments.sync_files(folder, starts, names))
        except BaseException:
            # Failed, or cancelled and unknown how far it came.
            self._unsynced |= self._in_flight
            self._new_names = self._new_names or names
            raise
        finally:
            self._in_flight = set()

    async def rewrite(self, end: int) -> bool:
        """Writes anew what isn't fsynced, and is before `end`; whether the disk had all of it.

        Nothing may be appended meanwhile. The segments are as they were: `recover` then, or `trim`.
        Raises OSError.
        """
        self.close()
        folder = self._folder
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
        self.close()  # sealing may have opened the file that is replaced now
        self._unsynced = set()
        return kept == sum(size for _, size in sizes)

    def trim(self, end: int) -> None:
        """The last segment was written anew up to `end` only."""
        if self._segments:
            self._segments[-1].end = end
        self._add_up()
