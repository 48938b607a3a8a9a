"""A package's bytes, wherever they lie: in memory while they are few, else in a temporary file,
and what travels as it is in the user's own files, which are not copied."""

import bisect
import contextlib
import hashlib
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cumulus_client.exceptions import PackagingError

#: What is made here and is larger goes to a temporary file.
IN_MEMORY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file of the user's as it was when it was packed."""

    path: Path
    #: Device, inode, size and time of change (ns): another one is another file.
    was: tuple[int, int, int, int]

    @classmethod
    def of(cls, path: Path, found: os.stat_result) -> "UserFile":
        """As `found` says."""
        return cls(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly that range. Raises PackagingError when it is another file by now."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                if UserFile.of(self.path, os.fstat(file.fileno())) != self:
                    raise changed(self.path)
                file.seek(offset)
                data = file.read(size_bytes)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if len(data) != size_bytes:
            raise changed(self.path)
        return data


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of the package: `source` from `at` on; None: the temporary file."""

    start: int
    size_bytes: int
    source: bytes | UserFile | None
    at: int


class PackedBytes:
    """A finished package that doesn't lie in memory as a whole. Owns its temporary file, which goes
    with the last reference to it."""

    def __init__(self, spool: Any, pieces: list[_Piece], sha256: str) -> None:
        self._spool = spool
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]
        self._lock = threading.Lock()
        self.sha256 = sha256
        self.size_bytes = pieces[-1].start + pieces[-1].size_bytes

    def read(self, offset: int, size_bytes: int) -> bytes:
        """At most that range. Blocking; from any thread. Raises PackagingError."""
        end = min(offset + size_bytes, self.size_bytes)
        found = []
        for piece in self._pieces[max(0, bisect.bisect(self._starts, offset) - 1) :]:
            if piece.start >= end:
                break
            skip = offset - piece.start
            size = min(end, piece.start + piece.size_bytes) - offset
            if size > 0:
                found.append(self._of(piece, skip, size))
                offset += size
        return found[0] if len(found) == 1 else b"".join(found)

    def _of(self, piece: _Piece, skip: int, size_bytes: int) -> bytes:
        at = piece.at + skip
        if isinstance(piece.source, UserFile):
            return piece.source.read(at, size_bytes)
        if piece.source is not None:
            return piece.source[at : at + size_bytes]
        try:
            with self._lock:
                self._spool.seek(at)
                data: bytes = self._spool.read(size_bytes)
        except OSError as error:
            raise no_room(error) from error
        return data


class PackageWriter:
    """What `zipfile` writes a package to. It can't be sought, so the hash runs along."""

    def __init__(self) -> None:
        import tempfile  # not before it is needed: importing the client is to be quick

        # Its owner is what `finished` gives, or whoever drops this.
        self._spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115
        self._close = weakref.finalize(self, self._spool.close)
        self._digest = hashlib.sha256()
        self._pieces: list[_Piece] = []
        self._size_bytes = self._spooled_bytes = self._added_bytes = 0
        self._source: bytes | UserFile | None = None
        self._at = 0

    def write(self, data: bytes | memoryview) -> int:
        """All of it. Raises OSError."""
        size = len(data)
        self._digest.update(data)
        if self._source is None:
            self._spool.write(data)
            self._spooled_bytes += size
        else:
            self._add(size, self._source, self._at)
            self._at += size
        return size

    def flush(self) -> None:
        """Nothing waits here."""

    @contextlib.contextmanager
    def taken_from(self, source: bytes | UserFile) -> Iterator[None]:
        """What is written meanwhile is this source's bytes from its first on, and stays there."""
        self._add_spooled()
        self._source, self._at = source, 0
        try:
            yield
        finally:
            self._source = None

    def finished(self) -> bytes | PackedBytes:
        """The package; nothing is written any more."""
        self._add_spooled()
        if self._spooled_bytes == self._size_bytes <= IN_MEMORY_BYTES:
            self._spool.seek(0)
            whole = self._spool.read()
            self._close()
            return whole
        self._close.detach()
        packed = PackedBytes(self._spool, self._pieces, self._digest.hexdigest())
        weakref.finalize(packed, self._spool.close)
        return packed

    def _add_spooled(self) -> None:
        """What was spooled since the last time: zipfile writes it by the few bytes."""
        added, self._added_bytes = self._added_bytes, self._spooled_bytes
        if self._spooled_bytes > added:
            self._add(self._spooled_bytes - added, None, added)

    def _add(self, size_bytes: int, source: bytes | UserFile | None, at: int) -> None:
        start = self._size_bytes
        self._size_bytes += size_bytes
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.source is source and last.at + last.size_bytes == at:
            start, at, size_bytes = last.start, last.at, last.size_bytes + size_bytes
            self._pieces.pop()
        self._pieces.append(_Piece(start, size_bytes, source, at))


def unreadable(path: Path, error: OSError) -> PackagingError:
    """A file of the user's."""
    return PackagingError(
        f"{os.fspath(path)!r} can't be read: {error.strerror or error}",
        hint="it is to be part of the job: make it readable, or leave it out",
    )


def changed(path: Path) -> PackagingError:
    """It isn't what it was when packing began."""
    return PackagingError(
        f"{os.fspath(path)!r} was changed while the job was being submitted",
        hint="submit again when nothing writes to it, or submit a copy",
    )


def no_room(error: OSError) -> PackagingError:
    """The temporary file."""
    import tempfile

    return PackagingError(
        "the package needs a temporary file, which can't be written: "
        f"{error.strerror or error} ({tempfile.gettempdir()})",
        hint="make room there, or name another folder by the environment variable TMPDIR",
    )
