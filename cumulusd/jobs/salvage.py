"""What a damaged job store still holds, and a sound store made of it. Blocking; for a command.

The file is never written to: it is read as a copy, and in the end moved aside.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from cumulusd.errors import Unavailable
from cumulusd.jobs import codec, ended_job, store_file
from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.store_file import StoreDamaged, StoreFile

_PAGE_BYTES = 4096
_MAX_FAULTS = 20
_SUFFIXES = ("", "-wal", "-shm")


@attrs.frozen(kw_only=True)
class StoreReport:
    """What a store holds."""

    instance_id: str | None  #: None: lost
    records: tuple[JobRecord, ...]  #: those that can be read, oldest first
    lost: dict[str, str]  #: job id -> why its record can't be read
    faults: tuple[str, ...]  #: what is wrong with the file; empty: it is sound

    @property
    def sound(self) -> bool:
        """The daemon starts on it."""
        return not (self.faults or self.lost) and self.instance_id is not None


@attrs.frozen(kw_only=True)
class Salvaged:
    """What `salvage` did."""

    report: StoreReport
    aside: tuple[Path, ...]  #: where the damaged files are now; empty: nothing was to be done


def examine(path: Path) -> StoreReport:
    """Reads all that can be read, and tells what can't. Changes nothing.

    Raises StoreUnusable when a daemon has it, when it isn't there, isn't ours, or is a newer one's.
    """
    with _locked(path), _copy(path) as copy:
        return _read(path, copy)


def salvage(path: Path, stamp: str, instance_id: str | None = None) -> Salvaged:
    """Puts a sound store with all that can be read in the place of a damaged one.

    `stamp` becomes part of the name under which the damaged files are kept. `instance_id` is used
    when the file has lost its own. A salvage that was interrupted is finished. Raises StoreUnusable
    as `examine` does, and when the instance id is lost and none is given; OSError.
    """
    with _locked(path):
        made = store_file.salvaged_path(path)
        if made.exists() and not path.exists():
            # The damaged file is aside already, and the new one was durable before that.
            aside = _move_aside(path, stamp)
            _put_in_place(made, path)
            with _copy(path) as copy:
                return Salvaged(report=_read(path, copy), aside=aside)
        with _copy(path) as copy:
            report = _read(path, copy)
        if report.sound:
            return Salvaged(report=report, aside=())
        name = report.instance_id or instance_id
        if name is None:
            raise StoreFile(path).unusable(
                "has lost the daemon's instance id",
                "Say it with --instance-id: with Swarm it is the label cumulus.instance of this "
                "daemon's nodes (docker node inspect NODE); `--instance-id new` makes a new one, "
                "which gives up all that carries the old one.",
            )
        store_file.remove(made)
        store_file.write_new(made, name, report.records)
        aside = _move_aside(path, stamp)
        _put_in_place(made, path)
        return Salvaged(report=report, aside=aside)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if not path.parent.is_dir():
        raise StoreFile(path).unusable("isn't there", "Is state_dir the right one?")
    file = StoreFile(path)
    file.lock()
    try:
        yield
    finally:
        file.unlock()


@contextmanager
def _copy(path: Path) -> Iterator[Path]:
    """A copy to read: opening a store finishes what its log holds, which changes it."""
    if not path.exists():
        raise StoreFile(path).unusable("isn't there", "Is state_dir the right one?")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".reading-", dir=path.parent))
    except OSError as error:
        raise _no_copy(path, error) from error
    try:
        for suffix in ("", "-wal"):
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                shutil.copyfile(beside, folder / beside.name)
        yield folder / path.name
    except OSError as error:
        raise _no_copy(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _no_copy(path: Path, error: OSError) -> Unavailable:
    return StoreFile(path).unusable(
        f"can't be copied to be read: {error}",
        f"Make room on the disk that holds {path.parent}, and run this as the daemon's user.",
    )


def _move_aside(path: Path, stamp: str) -> tuple[Path, ...]:
    """The log after the file: see `StoreFile.refuse_unfinished`."""
    aside = []
    for suffix in _SUFFIXES:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            kept = path.with_name(f"{path.name}.damaged-{stamp}{suffix}")
            os.rename(beside, kept)
            aside.append(kept)
    _sync_folder(path.parent)
    return tuple(aside)


def _put_in_place(made: Path, path: Path) -> None:
    os.rename(made, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Reading what is damaged.


def _read(path: Path, copy: Path) -> StoreReport:
    """`path` names the store in errors; `copy` is read, and may be changed."""
    faults: list[str] = []
    connection = _connect(path, copy, faults)
    if connection is None and _give_new_first_page(copy):
        connection = _connect(path, copy, faults)
    if connection is None:
        return StoreReport(instance_id=None, records=(), lost={}, faults=tuple(faults))
    try:
        connection.text_factory = bytes
        with _noted(faults):
            found = connection.execute(f"PRAGMA integrity_check({_MAX_FAULTS})").fetchall()
            faults += [text for (raw,) in found if (text := raw.decode()) != "ok"]
        instance_id = None
        with _noted(faults):
            for (value,) in connection.execute("SELECT value FROM meta WHERE key = 'instance_id'"):
                instance_id = value.decode("ascii", "replace")
        if instance_id is None:
            faults.append("its instance id is lost")
        records, lost = _records(path, connection, faults)
    finally:
        connection.close()
    unique = tuple(dict.fromkeys(faults))
    return StoreReport(
        instance_id=instance_id, records=records, lost=lost, faults=unique[:_MAX_FAULTS]
    )


@contextmanager
def _noted(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        faults.append(str(error))


def _connect(path: Path, copy: Path, faults: list[str]) -> sqlite3.Connection | None:
    """None when it can't be opened at all. Raises StoreUnusable when it isn't to be touched."""
    file = StoreFile(copy, named=path)
    try:
        connection = file.connect()
    except StoreDamaged as error:
        faults.append(str(error.details.get("fault", error.message)))
        return None
    except sqlite3.Error as error:
        faults.append(str(error))
        return None
    try:
        file.refuse_newer(connection)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        faults.append(str(error))
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _give_new_first_page(copy: Path) -> bool:
    """Writes the page that every store begins with over a first one that is no such page.

    It holds the tables' names and places, the same in every store of this format, so with it what
    follows can be read.
    """
    size_bytes = copy.stat().st_size
    if size_bytes < 2 * _PAGE_BYTES:
        return False
    model = copy.with_name("model.sqlite3")
    store_file.write_new(model, "", ())
    page = bytearray(model.read_bytes()[:_PAGE_BYTES])
    page[28:32] = (size_bytes // _PAGE_BYTES).to_bytes(4, "big")  # pages in the file
    page[32:40] = bytes(8)  # no free pages
    with open(copy, "r+b") as file:
        file.write(page)
    return True


def _records(
    path: Path, connection: sqlite3.Connection, faults: list[str]
) -> tuple[tuple[JobRecord, ...], dict[str, str]]:
    """(what can be read, oldest first; job id -> why not, of what can't)."""
    texts, lost = _texts(connection, faults)
    records = []
    for job_id, text in texts.items():
        try:
            record = ended_job.load_record(text)
            if record.job_id != job_id:
                raise codec.RecordUnreadable(f"it says that it is of job {record.job_id}")
            records.append(record)
        except codec.RecordNewer as error:
            raise StoreFile(path).unreadable(job_id, error) from error
        except codec.RecordUnreadable as error:
            lost[job_id] = str(error)
    records.sort(key=lambda record: (record.created_at, record.job_id))
    return tuple(records), lost


def _texts(
    connection: sqlite3.Connection, faults: list[str]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """(job id -> record, job id -> why its record can't be got at).

    A damaged page ends a walk over the table, so it is walked from both ends, and then row by row
    by what the index of job ids names.
    """
    rows: dict[int, tuple[str, bytes]] = {}
    named: dict[int, str] = {}
    for order in ("ASC", "DESC"):
        with _noted(faults):
            table = f"SELECT rowid, job_id, record FROM jobs NOT INDEXED ORDER BY rowid {order}"
            for number, job_id, text in connection.execute(table):
                if isinstance(job_id, bytes) and isinstance(text, bytes):
                    rows[number] = job_id.decode("utf-8", "replace"), text
        with _noted(faults):
            index = (
                "SELECT rowid, job_id FROM jobs INDEXED BY sqlite_autoindex_jobs_1 "
                f"ORDER BY job_id {order}"
            )
            for number, job_id in connection.execute(index):
                if isinstance(job_id, bytes):
                    named[number] = job_id.decode("utf-8", "replace")
    lost: dict[str, str] = {}
    for number in named.keys() - rows.keys():
        try:
            row = connection.execute(
                "SELECT record FROM jobs NOT INDEXED WHERE rowid = ?", (number,)
            ).fetchone()
        except sqlite3.Error as error:
            lost[named[number]] = str(error)
            continue
        if row is not None and isinstance(row[0], bytes):
            rows[number] = named[number], row[0]
        else:
            lost[named[number]] = "its row is gone"
    # Each save of a job gives it a new, higher number.
    texts = {job_id: text for _, (job_id, text) in sorted(rows.items())}
    return texts, {job_id: why for job_id, why in lost.items() if job_id not in texts}
