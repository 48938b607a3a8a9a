"""The checkpoint of the job table: one SQLite file, one writer thread, group commit.

All saves that wait when the writer wakes go into one transaction, so that a burst of changes costs
one fsync. The file is locked against a second daemon.
"""

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from cumulusd.errors import TooLarge, Unavailable
from cumulusd.jobs import codec, ended_job
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.store_file import (
    StoreDamaged,
    StoreFile,
    StoreUnusable,
    is_damage,
    transaction,
)
from cumulusd.jobs.store_stats import StoreStats

__all__ = ["Store", "StoreDamaged", "StoreFailed", "StoreStats", "StoreUnusable"]

MAX_RECORD_BYTES = 16 << 20
#: Callers of `save` and `delete` that may wait at once, over all jobs.
MAX_WAITERS = 100_000
#: A trouble that lasts is logged again after so long.
_TELL_AGAIN_S = 60.0
#: A commit that takes longer: the disk hangs.
HANGS_S = 20.0


class StoreFailed(Unavailable):
    """Something could not be written to disk. A later try may succeed."""


class _Change:
    """The newest state of one job that is not on disk: as it is stored, or None to delete it."""

    __slots__ = ("stored", "waiters")

    def __init__(self) -> None:
        self.stored: str | bytes | None = None
        self.waiters: list[Deferred[None]] = []


class Store:
    """Job records on disk. `save` fires when the record is durable."""

    _log = Logger()

    def __init__(
        self,
        path: Path,
        call_in_reactor: Callable[..., None],
        *,
        probe_interval_s: float = 5.0,
        idle_probe_s: float = 15.0,
        stop_timeout_s: float = 30.0,
        committed: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`path`: the SQLite file; its folder is made. `call_in_reactor(function, *arguments)` may
        be called from any thread (`reactor.callFromThread`). While the disk refuses writes, the
        writer tries again every `probe_interval_s`, also when nothing waits to be saved. It tries
        the disk after each `idle_probe_s` without a commit: else nobody would know that it writes.
        `committed(seconds)` is called in the writer's thread after each commit.
        """
        self._path = path
        self._file = StoreFile(path)
        self._call_in_reactor = call_in_reactor
        self._probe_interval_s = probe_interval_s
        self._idle_probe_s = idle_probe_s
        self._committed = committed
        self._stop_timeout_s = stop_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._instance_id: str | None = None
        self._thread: threading.Thread | None = None
        self._stopped: Deferred[bool] | None = None
        # Shared with the writer, under the condition's lock.
        self._condition = threading.Condition()
        self._changes: dict[str, _Change] = {}
        self._waiters = 0
        self._stopping = False
        self._trouble: str | None = None
        self._commits = 0
        self._failures = 0
        self._told_at = 0.0
        self._last_commit_s: float | None = None
        self._busy_since: float | None = None

    @property
    def healthy(self) -> str | None:
        """None when the last write succeeded, else why not."""
        return self._trouble

    @property
    def stuck_s(self) -> float:
        """For how long the writer has been at one transaction; 0.0: at none; infinite: it died."""
        since, thread = self._busy_since, self._thread
        if thread is not None and not thread.is_alive() and self._stopped is None:
            return math.inf
        return 0.0 if since is None else time.monotonic() - since

    @property
    def fault(self) -> str | None:
        """Why it doesn't write now: the last write failed, or the one under way hangs."""
        stuck_s = self.stuck_s
        hangs = f"the disk hangs: a commit has taken {stuck_s:.0f} s by now"
        return self._trouble or (hangs if stuck_s > HANGS_S else None)

    @property
    def stats(self) -> StoreStats:
        """Counters for metrics."""
        with self._condition:
            return StoreStats(
                commits=self._commits,
                failures=self._failures,
                last_commit_s=self._last_commit_s,
                waiting=len(self._changes),
            )

    def instance_id(self) -> str:
        """The uuid of this daemon's data, made when the file was. Call it after `load`."""
        if self._instance_id is None:
            raise RuntimeError("the store is not loaded")
        return self._instance_id

    # At start, blocking.

    def load(self) -> list[JobRecord | EndedJob]:
        """All, oldest first, ended jobs packed. Blocking: once, before `start`.

        Takes the lock, makes or upgrades the file. Raises StoreUnusable when another daemon has it,
        when it is not ours or written by a newer version; StoreDamaged when it is damaged.
        """
        if self._connection is not None:
            raise RuntimeError("the store is loaded already")
        try:
            self._file.lock()
            self._file.make_if_missing()
            self._connection = self._file.connect()
            self._file.check_and_upgrade(self._connection)
            self._instance_id, records = self._file.read(self._connection)
            return records
        except (sqlite3.Error, OSError) as error:
            self._close()
            if is_damage(error):
                raise self._file.damaged(f"it can't be opened: {error}") from error
            raise self._file.unusable(
                f"can't be opened: {error}", "Check the disk, the path and its permissions."
            ) from error
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._file.unlock()

    # In the reactor's thread.

    def start(self) -> None:
        """Starts the writer. `load` comes first."""
        if self._connection is None:
            raise RuntimeError("the store is not loaded")
        # A daemon thread: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._write, name="cumulus-store", daemon=True)
        self._thread.start()

    async def save(self, record: JobRecord) -> None:
        """Fires when this record, or a later one of the same job, is durable.

        Cancelling gives up the waiting, not the save. Raises StoreFailed when the disk refuses
        (the record is then not saved; the next save is tried afresh), TooLarge over 16 MiB.
        """
        text = codec.dumps(record)
        if len(text) > MAX_RECORD_BYTES:
            raise TooLarge(
                f"The record of job {record.job_id} is {len(text)} bytes long; "
                f"the store takes up to {MAX_RECORD_BYTES}",
                job_id=record.job_id,
                details={"size_bytes": len(text), "max_bytes": MAX_RECORD_BYTES},
                hint="Use a smaller environment or fewer requirements.",
            )
        await self._change({record.job_id: ended_job.stored(record, text)})

    async def delete(self, job_ids: Sequence[str]) -> None:
        """Fires when the records of these jobs are durably gone; unknown ones are no error.

        Raises StoreFailed.
        """
        if job_ids:
            await self._change(dict.fromkeys(job_ids))

    def _change(self, values: dict[str, str | bytes | None]) -> Deferred[None]:
        job_id = next(iter(values)) if len(values) == 1 else None
        waiter: Deferred[None] = Deferred()
        with self._condition:
            if self._stopping:
                raise StoreFailed(
                    "The job store is stopped: the change was not saved",
                    job_id=job_id,
                    hint="Submit again when the daemon runs.",
                )
            if self._waiters >= MAX_WAITERS:
                raise StoreFailed(
                    f"The disk doesn't keep up: {self._waiters} changes wait to be saved",
                    job_id=job_id,
                    hint="Try again later.",
                )
            self._waiters += 1
            change = None
            for each, value in values.items():
                change = self._changes.setdefault(each, _Change())
                change.stored = value
            # One transaction takes all that waits, so any one of them stands for the call.
            assert change is not None
            change.waiters.append(waiter)
            self._condition.notify()
        return waiter

    async def stop(self) -> None:
        """Fires when all that waited is on disk (or has failed) and the file is closed.

        Bounded: after `stop_timeout_s` it gives up on a disk that hangs; who still waits for a save
        then gets StoreFailed.
        """
        with self._condition:
            if self._stopping:
                return
            self._stopping = True
            self._condition.notify()
        thread = self._thread
        if thread is None:
            self._settle(self._take(), self._failed("the daemon stopped before it was saved"))
            self._close()
            return
        self._stopped = Deferred()
        timer = threading.Timer(
            self._stop_timeout_s, self._call_in_reactor, (self._finish_stop, False)
        )
        timer.daemon = True
        timer.start()
        try:
            clean = await self._stopped
        finally:
            timer.cancel()
        if clean:
            thread.join(self._stop_timeout_s)  # it has nothing left to do
            timer.join(self._stop_timeout_s)
        else:
            self._log.critical(
                "job store {path} did not close within {timeout_s} s: the disk hangs; "
                "{waiting} changes may not be saved",
                path=str(self._path),
                timeout_s=self._stop_timeout_s,
                waiting=len(self._changes),
            )
            self._settle(self._take(), self._failed("the disk did not answer in time"))

    def _finish_stop(self, clean: bool) -> None:
        if self._stopped is not None and not self._stopped.called:
            self._stopped.callback(clean)

    def _settle(self, changes: dict[str, _Change], error: StoreFailed | None) -> None:
        for job_id, change in changes.items():
            for waiter in change.waiters:
                self._waiters -= 1
                if waiter.called:
                    continue
                if error is None:
                    waiter.callback(None)
                else:
                    waiter.errback(
                        StoreFailed(
                            error.message,
                            job_id=job_id,
                            details=error.details,
                            hint=error.hint,
                        )
                    )

    # In the writer's thread.

    def _take(self) -> dict[str, _Change]:
        with self._condition:
            changes, self._changes = self._changes, {}
            return changes

    def _failed(self, why: str) -> StoreFailed:
        return StoreFailed(
            f"The job could not be saved: {why}",
            details={"path": str(self._path)},
            hint=f"Check the free space and the health of the disk that holds {self._path}.",
        )

    def _write(self) -> None:
        changes: dict[str, _Change] = {}
        try:
            while True:
                with self._condition:
                    while not self._changes and not self._stopping:
                        pause_s = self._probe_interval_s if self._trouble else self._idle_probe_s
                        if not self._condition.wait(pause_s):
                            break
                    if self._stopping and not self._changes:
                        return
                changes = self._take()
                self._busy_since = time.monotonic()
                outcome = self._commit(changes)
                self._busy_since = None
                self._call_in_reactor(self._settle, changes, outcome)
                changes = {}
        except BaseException as error:
            # Nobody else can tell: without its writer every save would wait for ever.
            self._log.failure("the writer of job store {path} died", path=str(self._path))
            with self._condition:
                self._stopping = True
                self._trouble = f"the writer died: {error!r}"
            for lost in (changes, self._take()):
                self._call_in_reactor(self._settle, lost, self._failed(self._trouble))
        finally:
            try:
                self._close()
            except sqlite3.Error as error:
                self._log.error(
                    "job store {path} did not close cleanly: {error}",
                    path=str(self._path),
                    error=error,
                )
            self._call_in_reactor(self._finish_stop, True)

    def _commit(self, changes: dict[str, _Change]) -> StoreFailed | None:
        """One transaction; with nothing to save, a small write that tries the disk."""
        begun = time.monotonic()
        try:
            if self._connection is None:
                self._connection = self._file.connect()
            with transaction(self._connection):
                self._connection.executemany(
                    "INSERT OR REPLACE INTO jobs VALUES (?, ?)",
                    [
                        (key, each.stored)
                        for key, each in changes.items()
                        if each.stored is not None
                    ],
                )
                self._connection.executemany(
                    "DELETE FROM jobs WHERE job_id = ?",
                    [(key,) for key, each in changes.items() if each.stored is None],
                )
                if not changes:
                    # Another value each time: SQLite writes nothing where nothing changes.
                    self._connection.execute(
                        "UPDATE meta SET value = ? WHERE key = 'probe'", (str(time.time_ns()),)
                    )
        except (sqlite3.Error, OSError, StoreUnusable) as error:
            return self._note_failure(error, changes)
        with self._condition:
            if self._trouble is not None:
                self._log.info("job store {path} can write again", path=str(self._path))
            self._trouble = None
            self._commits += 1
            self._last_commit_s = seconds = time.monotonic() - begun
        self._committed(seconds)
        return None

    def _note_failure(self, error: Exception, changes: dict[str, _Change]) -> StoreFailed:
        # After an I/O error a connection's own view may be stale: the next commit opens a new one.
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error as close_error:
                self._log.error("closing the job store: {error}", error=close_error)
            self._connection = None
        now = time.monotonic()
        with self._condition:
            news = self._trouble != str(error) or now - self._told_at >= _TELL_AGAIN_S
            self._failures += 1
            self._trouble = str(error)
        if not news:
            return self._failed(str(error))
        self._told_at = now
        self._log.error(
            "job store {path} can't write: {error}; jobs not saved: {job_ids}",
            path=str(self._path),
            error=error,
            job_ids=sorted(changes)[:20],
        )
        return self._failed(str(error))
