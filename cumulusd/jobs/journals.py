"""The daemon's copies of the jobs' journals, on disk under `<root>/<job id>/`.

Appending goes to the page cache; an fsync follows at most `sync_interval_s` later, off the reactor
thread, and then `on_durable` lets the sender forget. Opening a journal reads its last two segments;
in memory a journal is a few numbers.
"""

import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulusd.errors import Conflict, InvalidArgument
from cumulusd.jobs import segments
from cumulusd.jobs.chunk import Chunk
from cumulusd.jobs.journal import Journal
from cumulusd.jobs.journal_errors import JournalDamaged, JournalHole, disk_error
from cumulusd.jobs.journal_sizes import JournalSizes
from cumulusd.jobs.ports import Clock, DelayedCall, RunInThread
from cumulusd.jobs.segments import OpenFiles
from cumulusd.jobs.store import StoreFailed

__all__ = ["Chunk", "Journal", "JournalDamaged", "JournalHole", "Journals"]

#: Journals whose file stays open for appending, unless told otherwise.
MAX_OPEN_FILES = 64
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TRASH = ".trash-"
#: Journals that are fsynced at the same time.
_SYNCS_AT_A_TIME = 4
#: A disk that refuses is tried again after so long, and the log told after so long.
_RETRY_S = 5.0
_TELL_AGAIN_S = 60.0
#: So long after the last refusal, workers have offered again what they kept.
_SETTLE_S = 30.0
_PROBE = ".probe"


class Journals:
    """All journals of this daemon: owns their files and the timer that syncs them."""

    _log = Logger()

    def __init__(
        self,
        root: Path,
        *,
        clock: Clock,
        run_in_thread: RunInThread,
        cap_bytes: int,
        segment_bytes: int,
        sync_interval_s: float = 1.0,
        max_open_files: int = MAX_OPEN_FILES,
        on_durable: Callable[[str, int], None],
    ) -> None:
        """`cap_bytes` is per journal: over it, middle segments are dropped. It counts whole
        segments, so it must be at least four times `segment_bytes`. `on_durable(job_id, offset)` is
        called when a journal is fsynced up to there. Makes `root`, clears what a delete left over;
        blocking.
        """
        if segment_bytes < 1 or cap_bytes < 4 * segment_bytes:
            raise ValueError("cap_bytes must be at least four times segment_bytes")
        self._root = root
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._cap_bytes = cap_bytes
        self._segment_bytes = segment_bytes
        self._sync_interval_s = sync_interval_s
        self._on_durable = on_durable
        self._files = OpenFiles(max_open_files)
        self._journals: dict[str, Journal] = {}
        self._sizes = JournalSizes(cap_bytes, lambda job_id: segments.size_bytes(root / job_id))
        self._dirty: set[str] = set()
        self._timer: DelayedCall | None = None
        self._syncing = False
        self._hurried: set[str] = set()
        self._retry_at: dict[str, float] = {}
        self._trouble: str | None = None
        self._told_at = 0.0
        self._settled_at = clock.seconds()
        self._probe_timer: DelayedCall | None = None
        self._stopped = False
        root.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(root):
            if name == _PROBE:
                (root / name).unlink()
            elif name.startswith(_TRASH):
                shutil.rmtree(root / name)
            elif _JOB_ID.fullmatch(name):
                self._sizes.found(name)

    @property
    def total_bytes(self) -> int:
        """Bytes of all journals on disk, also of those that are not open; until `measure` has
        fired, of some."""
        return self._sizes.total_bytes

    @property
    def trouble(self) -> str | None:
        """What the disk said when it refused a write; None when the last one went well."""
        return self._trouble

    @property
    def settled(self) -> bool:
        """The disk has refused nothing for a while: what workers kept meanwhile is here now."""
        return self._clock.seconds() >= self._settled_at

    def known(self) -> list[str]:
        """Job ids of all journals on disk."""
        return self._sizes.known()

    def over_cap(self) -> list[str]:
        """Job ids of those that are larger than the cap, for `fit`."""
        return self._sizes.over_cap()

    async def measure(self) -> None:
        """Fires when the sizes of all are known. A start doesn't wait for that: it takes a look
        into each folder. Raises StoreFailed."""
        try:
            await self._sizes.measure_all(self._run_in_thread)
        except OSError as error:
            raise StoreFailed(
                f"The journals in {self._root} can't be looked at: {error}",
                hint=f"Check the health of the disk that holds {self._root}.",
            ) from error

    def open(self, job_id: str) -> Journal:
        """The job's journal, made or loaded when it isn't open yet.

        Raises InvalidArgument for what is no job id, Conflict after `stop`, StoreFailed when the
        disk refuses.
        """
        journal = self._journals.get(job_id)
        if journal is not None:
            return journal
        if self._stopped:
            raise Conflict("The daemon is stopping: its journals are closed", job_id=job_id)
        if not _JOB_ID.fullmatch(job_id):
            raise InvalidArgument(f"{job_id!r} is no job id")
        folder = self._root / job_id
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            journal = Journal(
                job_id,
                folder,
                files=self._files,
                run_in_thread=self._run_in_thread,
                cap_bytes=self._cap_bytes,
                segment_bytes=self._segment_bytes,
                changed=self._changed,
                failed=self._failed,
                on_durable=self._on_durable,
            )
        except OSError as error:
            self._failed(error)
            raise disk_error(job_id, "opened", folder, error) from error
        self._journals[job_id] = journal
        self._changed(journal)
        return journal

    def get(self, job_id: str) -> Journal | None:
        """The job's journal, loaded when it is only on disk; None when there is none."""
        return self.open(job_id) if job_id in self._sizes else None

    def extent(self, job_id: str) -> tuple[int, int]:
        """(start, end) offsets for a listing, without opening the journal: then the end may count
        a record that was torn. (0, 0) when there is none. Raises StoreFailed.
        """
        journal = self._journals.get(job_id)
        if journal is not None:
            return journal.start_offset, journal.end_offset
        if job_id not in self._sizes:
            return 0, 0
        try:
            found = segments.list_segments(self._root / job_id)
        except OSError as error:
            raise disk_error(job_id, "read", self._root / job_id, error) from error
        return (found[0].start, found[-1].end) if found else (0, 0)

    async def delete(self, job_id: str) -> None:
        """Fires when the journal is gone from disk. Its readers are woken and find it closed.

        Unknown journals are no error. Raises StoreFailed.
        """
        journal = self._journals.pop(job_id, None)
        if journal is not None:
            journal.close()
        self._dirty.discard(job_id)
        self._retry_at.pop(job_id, None)
        if job_id not in self._sizes:
            return
        folder, trash = self._root / job_id, self._root / (_TRASH + job_id)
        try:
            # Renamed first: an interrupted removal must not look like a journal with gaps.
            os.rename(folder, trash)
            self._sizes.drop(job_id)
            await self._run_in_thread(lambda: shutil.rmtree(trash))
        except OSError as error:
            raise disk_error(job_id, "deleted", folder, error) from error

    def size_bytes(self, job_id: str) -> int:
        """Bytes of this journal on disk."""
        return self._sizes.of(job_id)

    def age_s(self, job_id: str, now: float) -> float:
        """For how long nothing was begun or deleted in its folder. `now`: unix seconds."""
        try:
            return now - os.stat(self._root / job_id).st_mtime
        except FileNotFoundError:
            return 0.0

    async def prune(self, job_id: str, floor: int, *, keep_result: bool) -> int:
        """Drops the output of a journal to which nothing is appended any more; gives the bytes
        freed.

        What stays is its end: the RESULT records from `floor` on with `keep_result`, else the last
        record only. Fires when the rest is gone from disk; readers find a gap. Raises StoreFailed.
        """
        journal = self._journals.get(job_id)
        if job_id not in self._sizes or self._stopped or (journal is not None and journal.failing):
            return 0
        folder = self._root / job_id

        def work() -> tuple[int, int] | None:
            begin = segments.keep_tail(folder, floor, keep_result)
            return None if begin is None else (0, begin)

        return await self._drop(job_id, work)

    async def fit(self, job_id: str, floor: int) -> int:
        """Brings a journal to which nothing is appended any more under the cap, where segments that
        grew large (their writer was quicker than the disk) kept it over that; gives the bytes
        freed.

        Head and tail stay, and the RESULT records from `floor` on. Raises StoreFailed.
        """
        folder, cap_bytes = self._root / job_id, self._cap_bytes
        journal = self._journals.get(job_id)
        failing = journal is not None and journal.failing
        if self._sizes.of(job_id) <= cap_bytes or self._stopped or failing:
            return 0
        return await self._drop(job_id, lambda: segments.fit(folder, cap_bytes, floor))

    async def _drop(self, job_id: str, work: Callable[[], tuple[int, int] | None]) -> int:
        """Drops the range that `work` gives, off the reactor thread; the bytes freed."""
        folder = self._root / job_id
        trash = self._root / f"{_TRASH}{job_id}-output"
        try:
            before = self._sizes.of(job_id)
            dropped = await self._run_in_thread(work)
            if dropped is None or self._stopped or job_id not in self._sizes:
                return 0
            head_end, begin = dropped
            trash.mkdir(exist_ok=True)
            for segment in segments.list_segments(folder):
                path = segments.path_of(folder, segment.start)
                if head_end <= segment.start < begin:
                    os.rename(path, trash / path.name)
                elif segment.start < head_end < segment.end:
                    os.truncate(path, head_end - segment.start)
            journal = self._journals.get(job_id)
            if journal is not None:
                journal.pruned()
            else:
                self._sizes.put(job_id, segments.size_bytes(folder))
            freed = before - self._sizes.of(job_id)
            await self._run_in_thread(lambda: shutil.rmtree(trash))
        except OSError as error:
            raise disk_error(job_id, "pruned", folder, error) from error
        return freed

    async def stop(self) -> None:
        """Fires when everything is fsynced and all files are closed; readers are woken.

        What can't be synced is logged: the workers still hold it. Lasts as long as the disk does.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._probe_timer is not None and self._probe_timer.active():
            self._probe_timer.cancel()
        self._probe_timer = None
        self._retry_at.clear()
        try:
            for job_id in sorted(self._dirty):
                await self._sync(job_id)
        finally:
            for journal in self._journals.values():
                journal.close()
            self._journals.clear()

    def _changed(self, journal: Journal) -> None:
        job_id = journal.job_id
        self._sizes.put(job_id, journal.size_bytes)
        if not journal.dirty:
            self._dirty.discard(job_id)
            return
        self._dirty.add(job_id)
        if self._stopped:
            return
        if journal.urgent and job_id not in self._hurried:
            self._hurried.add(job_id)
            self._in_background(self._hurry(job_id))
        if self._timer is None and not self._syncing:
            self._timer = self._clock.callLater(self._sync_interval_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._syncing = True
        self._in_background(self._sync_all())

    async def _sync_all(self) -> None:
        waiting = deque(sorted(self._dirty))

        async def some() -> None:
            while waiting:
                await self._sync(waiting.popleft())

        try:
            # Some at a time: the file system then waits for its disk once for several.
            await gatherResults(
                [Deferred.fromCoroutine(some()) for _ in range(min(len(waiting), _SYNCS_AT_A_TIME))]
            )
        finally:
            self._syncing = False
            if self._dirty and not self._stopped:
                self._timer = self._clock.callLater(self._sync_interval_s, self._tick)

    async def _hurry(self, job_id: str) -> None:
        try:
            await self._sync(job_id)
        finally:
            self._hurried.discard(job_id)

    async def _sync(self, job_id: str) -> None:
        journal = self._journals.get(job_id)
        if journal is None or self._clock.seconds() < self._retry_at.get(job_id, 0.0):
            return
        try:
            await journal.sync()
            self._retry_at.pop(job_id, None)
        except StoreFailed as error:
            # The journal has told so when it began to fail.
            self._retry_at[job_id] = self._clock.seconds() + _RETRY_S
            if self._stopped:
                self._log.error("{why}; its worker keeps it", why=error.message, job_id=job_id)

    # A disk that refuses.

    def _failed(self, error: OSError) -> None:
        """Told when it begins and once a minute; the disk is then tried until it takes a write."""
        now = self._clock.seconds()
        self._settled_at = now + _SETTLE_S
        if self._trouble is None or now - self._told_at >= _TELL_AGAIN_S:
            self._told_at = now
            self._log.error(
                "the journals in {root} can't be written: {error}; workers keep what comes, and it "
                "is tried again every {retry_s} s",
                root=str(self._root),
                error=error,
                retry_s=_RETRY_S,
            )
        self._trouble = error.strerror or str(error)
        if self._probe_timer is None and not self._stopped:
            self._probe_timer = self._clock.callLater(_RETRY_S, self._begin_probe)

    def _begin_probe(self) -> None:
        self._in_background(self._probe())

    async def _probe(self) -> None:
        """Writes a little: also when no journal has anything to write, the trouble must end."""
        try:
            await self._run_in_thread(lambda: segments.try_disk(self._root / _PROBE))
        except OSError as error:
            self._probe_timer = None
            self._failed(error)
            return
        self._probe_timer = None
        if any(journal.failing for journal in self._journals.values()):
            if not self._stopped:
                self._probe_timer = self._clock.callLater(_RETRY_S, self._begin_probe)
            return
        self._trouble = None
        self._log.info("the journals in {root} can be written again", root=str(self._root))

    def _in_background(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(self._unexpected)

    def _unexpected(self, failure: Failure) -> None:
        self._log.failure("syncing the journals failed", failure)
