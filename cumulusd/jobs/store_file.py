"""The job store's file: locked, opened, checked, brought to the current format. Blocking."""

import errno
import fcntl
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from twisted.logger import Logger

from cumulusd.errors import Unavailable
from cumulusd.jobs import codec, ended_job
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.model import JobRecord

#: "CUMU": tells this daemon's files from other SQLite files.
APPLICATION_ID = 0x43554D55


_SALVAGE = (
    "See what is left with `cumulusd store check --config FILE`; `cumulusd store salvage --config "
    "FILE` moves the damaged file aside and keeps what can be read. Or put a backup in its place."
)


_PID_BYTES = 16


class _RowUnreadable(Exception):
    """Its arguments: the job's id, the RecordUnreadable."""


class StoreUnusable(Unavailable):
    """The job store can't be opened: the daemon must not start on it."""


class StoreNewer(StoreUnusable):
    """A newer cumulusd wrote it, and can read it: this one never will."""


class StoreDamaged(StoreUnusable):
    """It is ours, and it isn't whole; `details["fault"]` says what is wrong. Salvage may help."""


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute("CREATE TABLE jobs (job_id TEXT PRIMARY KEY, record TEXT NOT NULL)")
    connection.execute("INSERT INTO meta VALUES ('instance_id', ?)", (str(uuid.uuid4()),))
    connection.execute("INSERT INTO meta VALUES ('probe', '0')")


def _pack_ended(connection: sqlite3.Connection) -> None:
    """1 to 2: jobs that have ended are kept packed, with a checksum (`jobs/ended_job.py`)."""
    packed = []
    for job_id, text in connection.execute("SELECT job_id, record FROM jobs"):
        try:
            record = codec.loads(text)
        except codec.RecordUnreadable as error:
            raise _RowUnreadable(job_id, error) from error
        if ended_job.is_kept_packed(record):
            packed.append((ended_job.stored(record, codec.dumps(record)), job_id))
    connection.executemany("UPDATE jobs SET record = ? WHERE job_id = ?", packed)


#: `_UPGRADES[n]` brings a file of format n (`PRAGMA user_version`) to n + 1; each has a golden file
#: in the tests. What the records themselves say has versions of its own: `jobs/versions.py`.
_UPGRADES: tuple[Callable[[sqlite3.Connection], None], ...] = (_create, _pack_ended)

FORMAT = len(_UPGRADES)


def store_path(state_dir: Path) -> Path:
    """Where the store is in the daemon's folder."""
    return state_dir / "jobs.sqlite3"


def salvaged_path(path: Path) -> Path:
    """Where a salvage writes the sound store before it takes the damaged one's place."""
    return path.with_name(path.name + ".salvaged")


def remove(path: Path) -> None:
    """What an interrupted `write_new` left; a log left behind would go into the next file."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def write_new(path: Path, instance_id: str, records: Iterable[JobRecord]) -> None:
    """A whole new file with these records, durable. Blocking; nothing may be at `path`.

    Raises StoreUnusable, sqlite3.Error, OSError.
    """
    file = StoreFile(path)
    # Records hold the users' environment variables: nobody else may read them. SQLite gives its
    # -wal and -shm files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = file.connect(empty=True)
    try:
        file.check_and_upgrade(connection)
        with transaction(connection):
            connection.execute(
                "UPDATE meta SET value = ? WHERE key = 'instance_id'", (instance_id,)
            )
            connection.executemany(
                "INSERT INTO jobs VALUES (?, ?)",
                (
                    (record.job_id, ended_job.stored(record, codec.dumps(record)))
                    for record in records
                ),
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


class StoreFile:
    """One SQLite file and the lock on it. Every method may raise StoreUnusable."""

    _log = Logger()

    def __init__(self, path: Path, named: Path | None = None) -> None:
        """`named`: what to call it in errors, when this is a copy of that."""
        self.path = path
        self._named = named or path
        self._lock_fd: int | None = None

    def lock(self) -> None:
        """Makes the folder and takes the lock; `unlock` gives it back. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock()

    def unlock(self) -> None:
        """Gives the lock back, if it is held."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def unusable(
        self, what: str, hint: str, kind: type[StoreUnusable] = StoreUnusable
    ) -> StoreUnusable:
        """The error, with the file's name in front."""
        return kind(
            f"The job store {self._named} {what}", details={"path": str(self._named)}, hint=hint
        )

    def damaged(self, fault: str) -> StoreDamaged:
        """The same for a file that is damaged, with the way out."""
        return StoreDamaged(
            f"The job store {self._named} is damaged: {fault}",
            details={"path": str(self._named), "fault": fault},
            hint=_SALVAGE,
        )

    def unreadable(self, job_id: str, error: codec.RecordUnreadable) -> StoreUnusable:
        """The error for a record that is damaged or too new."""
        what = f"holds a record of job {job_id} that can't be read: {error}"
        if isinstance(error, codec.RecordNewer):
            hint = "Run that version of cumulusd, or restore a backup."
            return self.unusable(what, hint, StoreNewer)
        return self.damaged(f"it {what}")

    def make_if_missing(self) -> None:
        """A new, empty store, whole or not at all. Raises OSError, sqlite3.Error."""
        if salvaged_path(self.path).exists():
            raise self.unusable(
                "was being salvaged when that was interrupted",
                "Finish it: cumulusd store salvage --config FILE",
            )
        if self.path.exists():
            return
        new = self.path.with_name(self.path.name + ".new")
        remove(new)
        write_new(new, str(uuid.uuid4()), ())
        os.rename(new, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lock(self) -> None:
        path = self.path.with_name(self.path.name + ".lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise self.unusable(
                f"is in use by another cumulusd (process {holder})",
                "Stop that daemon, or give this one a data folder of its own.",
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd = fd
        try:
            # Over what is there, not after it is cut: a full disk would not give it back.
            os.pwrite(fd, f"{os.getpid()}\n".ljust(_PID_BYTES).encode(), 0)
        except OSError as error:
            # The number only serves a message.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def connect(self, *, empty: bool = False) -> sqlite3.Connection:
        """A connection that any thread may use, one at a time. Raises sqlite3.Error, OSError.

        An empty file is a store that was torn, unless `empty` says that it is to become one.
        """
        if os.stat(self.path).st_size == 0 and not empty:
            raise self.damaged("the file is empty")
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=5.0
        )
        try:
            self._check_ours(connection)
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise self.unusable(
                    f"lies on a file system that can't hold a write-ahead log (mode {mode})",
                    "Use a local disk for the daemon's data folder.",
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        """Before anything is changed in the file, its journal mode too."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION_ID and (tables or application):
            raise self.unusable(
                "is an SQLite file of another program", "Name another path for the job store."
            )

    def refuse_newer(self, connection: sqlite3.Connection) -> int:
        """The file's format. Raises StoreNewer when a newer daemon wrote it."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise self.unusable(
                f"has format {version}; this cumulusd knows formats up to {FORMAT}",
                "It was written by a newer cumulusd: run that version, or restore a backup.",
                StoreNewer,
            )
        return int(version)

    def check_and_upgrade(self, connection: sqlite3.Connection) -> None:
        """Refuses what is newer or damaged; upgrades what is older."""
        version = self.refuse_newer(connection)
        faults = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
        if faults != ["ok"]:
            raise self.damaged("; ".join(faults))
        for number in range(version, FORMAT):
            try:
                with transaction(connection):
                    _UPGRADES[number](connection)
                    connection.execute(f"PRAGMA user_version = {number + 1}")
            except _RowUnreadable as error:
                raise self.unreadable(*error.args) from error

    def read(self, connection: sqlite3.Connection) -> tuple[str, list[JobRecord | EndedJob]]:
        """(the instance's id, all records, oldest first). Packed ones of an older version are
        brought to today's, in the file too where its disk has room."""
        row = connection.execute("SELECT value FROM meta WHERE key = 'instance_id'").fetchone()
        if row is None:
            raise self.damaged("its instance id is lost")
        records: list[JobRecord | EndedJob] = []
        outdated: list[EndedJob] = []
        for job_id, value in connection.execute("SELECT job_id, record FROM jobs"):
            try:
                found = ended_job.load(value)
            except codec.RecordUnreadable as error:
                raise self.unreadable(job_id, error) from error
            records.append(found)
            if isinstance(found, EndedJob) and ended_job.is_outdated(value):
                outdated.append(found)
        if outdated:
            self._write_upgraded(connection, outdated)
        records.sort(key=lambda record: (record.created_at, record.job_id))
        return str(row[0]), records

    def _write_upgraded(self, connection: sqlite3.Connection, outdated: list[EndedJob]) -> None:
        try:
            with transaction(connection):
                connection.executemany(
                    "UPDATE jobs SET record = ? WHERE job_id = ?",
                    ((one.stored(), one.job_id) for one in outdated),
                )
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_FULL":
                raise
            # They can be read as they are, and the daemon tells of its full disk itself.
            self._log.warn(
                "{count} record(s) of ended jobs in {path} stay in an older version until the next "
                "start: {why}",
                count=len(outdated),
                path=str(self._named),
                why=str(error),
            )


def is_damage(error: Exception) -> bool:
    """Whether an error of reading says that the file is damaged, rather than out of reach."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith(
        # SQLITE_ERROR: a table that isn't there.
        ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")
    )


class transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK on any exception."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
                return
            except sqlite3.Error:
                self._roll_back()
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        # SQLite rolls back by itself on some errors (disk full).
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
