"""A copy of all that a daemon keeps, taken while it runs or not. Blocking; for a command.

The job store first, as one consistent moment of it; then the rest, which is then as new or newer:
journals only grow, and what a job needs goes no sooner than its record.
"""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs

from cumulusd.errors import CumulusError, Unavailable
from cumulusd.jobs.salvage import examine
from cumulusd.jobs.store_file import store_path

#: Of this machine and this moment: processes, folders of running jobs, caches.
LEFT_OUT = frozenset({"worker", "local"})
_BUSY_TIMEOUT_S = 30.0


@attrs.frozen(kw_only=True)
class Backup:
    """What was copied."""

    jobs: int
    files: int  #: beside the store
    size_bytes: int  #: of all of it


def back_up(state_dir: Path, target: Path) -> Backup:
    """Copies to the folder `target`, which must not be there; it appears when it is whole.

    Raises CumulusError when there is nothing to copy, the store is damaged, or the target is in the
    way; OSError.
    """
    store = store_path(state_dir)
    if not store.is_file():
        raise Unavailable(f"there is no job store {store}: no daemon has run here yet")
    if target.exists():
        raise CumulusError(
            f"{target} is there already", hint="name a folder that isn't: none is overwritten"
        )
    if target.resolve().is_relative_to(state_dir.resolve()):
        raise CumulusError(
            f"{target} lies in the state_dir that it is to be a copy of",
            hint="name a folder elsewhere, on another disk at best",
        )
    draft = target.with_name(f".{target.name}.new")
    shutil.rmtree(draft, ignore_errors=True)  # of a command that was killed
    draft.mkdir(mode=0o700, parents=True)
    try:
        copied = store_path(draft)
        _copy_store(store, copied)
        report = examine(copied)
        if not report.sound:
            faults = "; ".join(report.faults) or "records are lost"
            raise Unavailable(
                f"the job store {store} is damaged: {faults}",
                hint="cumulusd store check --config FILE tells more",
            )
        for beside in draft.glob(f"{copied.name}?*"):  # its lock and its log, which is empty
            beside.unlink()
        files = [
            _copy_file(source, draft / source.relative_to(state_dir))
            for source in _others(state_dir, store)
        ]
        sizes = [size for size in files if size is not None]
        os.sync()
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Backup(
        jobs=len(report.records),
        files=len(sizes),
        size_bytes=sum(sizes) + store_path(target).stat().st_size,
    )


def _copy_store(source: Path, target: Path) -> None:
    """One moment of it, beside a daemon that writes on. Raises Unavailable."""
    uri = f"{source.absolute().as_uri()}?mode=rw"
    try:
        with (
            closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise Unavailable(
            f"the job store {source} can't be copied: {error}",
            hint="cumulusd store check --config FILE tells more",
        ) from error
    target.chmod(0o600)


def _others(state_dir: Path, store: Path) -> Iterator[Path]:
    """All files but the store's and this machine's own."""
    for folder, names, files in os.walk(state_dir):
        here = Path(folder)
        if here == state_dir:
            names[:] = [name for name in names if name not in LEFT_OUT]
            files = [name for name in files if not name.startswith(store.name)]
        for name in files:
            if not name.endswith(".lock"):
                yield here / name


def _copy_file(source: Path, target: Path) -> int | None:
    """Its size; None when it is no file, or has gone meanwhile."""
    try:
        status = source.lstat()
        if not stat.S_ISREG(status.st_mode):
            return None
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise
        return None
    return target.stat().st_size
