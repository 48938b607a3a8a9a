"""The hashes of uploads that still grow, made while their bytes come.

Off the reactor and behind what is written already: what is left at the end is short. Meanwhile the
disk gets what came, so that the last fsync is short too.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger

from cumulusd.jobs.ports import RunInThread
from cumulusd.tasks import Tasks, waiting_for

#: A thread looks when so much more has come.
STEP_BYTES = 8 << 20
#: Threads that this may take of the daemon's few.
_THREADS = 2
_READ_BYTES = 1 << 20


class Progress:
    """How far one upload is hashed. Only its file's end may grow."""

    def __init__(self) -> None:
        self.digest: Any = hashlib.sha256()
        self.hashed_bytes = 0
        self.is_lost = False  #: the disk refused what came: no later fsync would tell so again

    def hash_to(self, fd: int, end: int) -> None:
        """Goes on up to that byte of the file, or to its end. Blocking. Raises OSError."""
        while self.hashed_bytes < end:
            wanted = min(_READ_BYTES, end - self.hashed_bytes)
            data = os.pread(fd, wanted, self.hashed_bytes)
            if not data:
                return
            self.digest.update(data)
            self.hashed_bytes += len(data)


class UploadHashes:
    """Of all unfinished uploads, by the names of their files. On the reactor."""

    _log = Logger()

    def __init__(self, run_in_thread: RunInThread) -> None:
        self._run_in_thread = run_in_thread
        self._threads = DeferredSemaphore(_THREADS)
        self._uploads: dict[str, Progress] = {}
        self._working: dict[Progress, Deferred[None]] = {}
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._uploads)

    def grown(self, path: Path, held_bytes: int) -> None:
        """So much of that upload is in its file now."""
        progress = self._uploads.get(path.name)
        if progress is None:
            if held_bytes < STEP_BYTES:
                return
            progress = self._uploads[path.name] = Progress()
        if progress in self._working or held_bytes - progress.hashed_bytes < STEP_BYTES:
            return
        step = self._tasks.start(self._step(path, progress, held_bytes), "hashing an upload")
        if not step.called:
            self._working[progress] = step

    def forget(self, path: Path) -> None:
        """That upload is gone, or begins afresh."""
        self._uploads.pop(path.name, None)

    async def take(self, path: Path) -> Progress:
        """How far that upload is; nothing here works on it any more, and it is forgotten."""
        progress = self._uploads.pop(path.name, None) or Progress()
        working = self._working.get(progress)
        if working is not None:
            await waiting_for(working)
        return progress

    async def _step(self, path: Path, progress: Progress, end: int) -> None:
        await self._threads.acquire()
        try:
            await self._run_in_thread(lambda: _hash(path, progress, end))
        except OSError as error:
            # The commit goes on from here, where only reading failed: it meets that too, and tells.
            self._log.warn("an upload can't be hashed while it comes: {error}", error=error)
            if progress.is_lost:
                path.unlink(missing_ok=True)
                self.forget(path)  # it begins afresh
        finally:
            self._threads.release()
            self._working.pop(progress, None)


def _hash(path: Path, progress: Progress, end: int) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # it was deleted meanwhile
    try:
        progress.hash_to(fd, end)
        try:
            os.fdatasync(fd)
        except OSError:
            progress.is_lost = True
            raise
    finally:
        os.close(fd)
