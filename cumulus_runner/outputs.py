"""Lists what the code left in its output folder: names, sizes, hashes. Follows no link."""

from __future__ import annotations

import os
import stat

from cumulus_wire.light_json import dumps
from cumulus_wire.outputs import name_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from cumulus_runner.orders import Orders
    from cumulus_runner.supervisor import Supervisor

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HASH_BYTES = 1 << 20
#: Entries of all folders that are looked at.
MAX_ENTRIES = 50_000
#: The list as JSON: it is a part of one journal record, and of the job's record at the daemon.
MAX_LISTING_BYTES = 256 << 10
#: For hashing the outputs of a job that was stopped, and of one that ended by itself.
STOPPED_HASH_S = 1.5
MAX_HASH_S = 60.0
#: Files that the note names one by one.
_MAX_NAMED = 5


class _LeftOut:
    """What isn't in the list, and why."""

    def __init__(self) -> None:
        self._named: list[str] = []
        self._count = 0
        self._rest = ""

    def add(self, name: str, why: str) -> None:
        """That file isn't listed."""
        self._count += 1
        if len(self._named) < _MAX_NAMED:
            shown = name.encode("utf-8", "backslashreplace").decode()[:100]
            self._named.append(f"{shown!r} ({why})")

    def rest(self, why: str) -> None:
        """Nobody looked at what else there is."""
        self._rest = why

    def note(self) -> str | None:
        """In words; None: nothing was left out."""
        words = []
        if self._count:
            more = self._count - len(self._named)
            words.append(
                f"{self._count} left out: {', '.join(self._named)}"
                + (f" and {more} more" if more else "")
            )
        if self._rest:
            words.append(f"there is more that isn't listed: {self._rest}")
        return "; ".join(words) or None


def list_outputs(
    path: str, max_files: int, max_bytes: int, go_on: Callable[[], bool]
) -> tuple[list[dict[str, Any]], str | None]:
    """(`{name, size_bytes, sha256}` of each regular file below `path`, what was left out and why).

    At most `max_files` of together `max_bytes`, ordered by name folder by folder. `go_on()` is
    asked between small pieces of work; once it is false, the files left have no hash (None).
    Raises OSError when `path` is no folder that can be read.
    """
    found: list[dict[str, Any]] = []
    left_out = _LeftOut()
    total_bytes, listing_bytes = 0, 0
    root = os.open(path, _DIRECTORY)
    try:
        for name, size_bytes in _files(root, left_out):
            if len(found) >= max_files:
                left_out.rest(f"a job may leave {max_files} files")
                break
            if total_bytes + size_bytes > max_bytes:
                left_out.add(name, f"{size_bytes} bytes, a job may leave {max_bytes} in all")
                continue
            entry: dict[str, Any] = {"name": name, "size_bytes": size_bytes, "sha256": None}
            listing_bytes += len(dumps(entry)) + 64
            if listing_bytes > MAX_LISTING_BYTES:
                left_out.rest("the names of its files are too long together")
                break
            found.append(entry)
            total_bytes += size_bytes
        for entry in list(found):
            if not go_on():
                break
            try:
                entry["sha256"] = _hash(root, entry["name"], entry["size_bytes"], go_on)
            except _Changed as error:
                found.remove(entry)
                left_out.add(entry["name"], str(error))
            except OSError as error:
                found.remove(entry)
                left_out.add(entry["name"], f"can't be read: {error.strerror}")
    finally:
        os.close(root)
    return found, left_out.note()


def describe_outputs(path: str, orders: Orders, supervisor: Supervisor) -> dict[str, Any]:
    """`{outputs, outputs_note}` of EXIT, for any folder and whatever happens: the end is told.

    A job that was stopped has little time left for hashes, another one what is left of its own.
    """
    stop, now = supervisor.stop, supervisor.now()
    until = now + STOPPED_HASH_S
    if stop is None:
        until = min(max(now, supervisor.deadline) + orders.stop_grace_s, now + MAX_HASH_S)

    def go_on() -> bool:
        supervisor.attend()
        return supervisor.now() < until and supervisor.stop is stop

    try:
        found, note = list_outputs(path, orders.outputs_max_files, orders.outputs_max_bytes, go_on)
    except FileNotFoundError:
        found, note = [], None  # the code took its folder away
    except Exception as error:
        found, note = [], f"the output folder could not be read: {error}"
    return {"outputs": found, "outputs_note": note}


class _Changed(Exception):
    """The file isn't what was listed."""


def _files(root: int, left_out: _LeftOut) -> Iterator[tuple[str, int]]:
    """(name, size) of every regular file with a name that can be told, folder by folder."""
    folders = [""]
    seen = 0
    while folders:
        folder = folders.pop()
        try:
            handle = _open_folder(root, folder)
        except OSError as error:
            left_out.add(folder, f"can't be read: {error.strerror}")
            continue
        inner = []
        try:
            entries = []
            with os.scandir(handle) as scanned:
                for entry in scanned:
                    seen += 1
                    if seen > MAX_ENTRIES:
                        left_out.rest(f"only {MAX_ENTRIES} entries are looked at")
                        break
                    entries.append(entry.name)
            for last in sorted(entries):
                name = f"{folder}/{last}" if folder else last
                why = name_fault(name)
                if why is not None:
                    left_out.add(name, why)
                    continue
                try:
                    status = os.stat(last, dir_fd=handle, follow_symlinks=False)
                except OSError as error:
                    left_out.add(name, f"can't be read: {error.strerror}")
                    continue
                if stat.S_ISDIR(status.st_mode):
                    inner.append(name)
                elif stat.S_ISREG(status.st_mode):
                    yield name, status.st_size
                else:
                    left_out.add(name, _what(status.st_mode))
        finally:
            os.close(handle)
        folders += reversed(inner)
        if seen > MAX_ENTRIES:
            return


def _open_folder(root: int, name: str) -> int:
    """The folder of that name; the caller closes it."""
    handle = os.dup(root)
    try:
        for part in name.split("/") if name else ():
            inner = os.open(part, _DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle = inner
        return handle
    except BaseException:
        os.close(handle)
        raise


def _hash(root: int, name: str, size_bytes: int, go_on: Callable[[], bool]) -> str | None:
    """The file's SHA-256; None: `go_on` said no before its end. Raises _Changed, OSError."""
    above, _, last = name.rpartition("/")
    handle = _open_folder(root, above)
    try:
        fd = os.open(last, _READ, dir_fd=handle)
    finally:
        os.close(handle)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
            raise _Changed("it changed while it was listed")
        import hashlib  # only where there is something to hash: the runner starts light

        digest, read = hashlib.sha256(), 0
        while data := os.read(fd, _HASH_BYTES):
            digest.update(data)
            read += len(data)
            if read > size_bytes:
                break
            if not go_on():
                return None
        if read != size_bytes:
            raise _Changed("it changed while it was listed")
        return digest.hexdigest()
    finally:
        os.close(fd)


def _what(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link: only regular files are kept"
    return "no regular file"
