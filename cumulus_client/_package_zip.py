"""The zip that is a package: equal contents give equal bytes."""

import contextlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cumulus_client._package_bytes import (
    PackageWriter,
    PackedBytes,
    UserFile,
    changed,
    no_room,
    unreadable,
)
from cumulus_client.exceptions import PackagingError
from cumulus_wire import folder

if TYPE_CHECKING:
    import zipfile

#: The most that a daemon can be told to take; what it takes (`jobs.package_max_bytes`) it says.
MAX_PACKAGE_BYTES = 1 << 36
MAX_PACKAGE_FILES = 20_000
#: The folder in a package whose content is ours.
PRIVATE = ".cumulus/"
_EPOCH = (1980, 1, 1, 0, 0, 0)
#: From this size on a piece is tried first, and what doesn't shrink is stored.
_LARGE_BYTES = 1 << 20
_WORTH_IT = 0.9
_BLOCK_BYTES = 1 << 20
_LARGEST_SHOWN = 5


class Contents:
    """What goes into one package, by its place there. Large files are read when it is written."""

    def __init__(self, name: str) -> None:
        """`name`: of function, script or folder, for messages."""
        self._name = name
        self._entries: dict[str, tuple[bytes | Path, int, bool]] = {}
        self._total_bytes = 0

    def __contains__(self, place: str) -> bool:
        return place in self._entries

    def add(self, place: str, data: bytes) -> None:
        """A file of these bytes. Replaces one that is there."""
        self._put(place, data, len(data), False)

    def add_file(self, place: str, path: Path) -> None:
        """A copy of a file. Raises PackagingError when it can't be read."""
        try:
            found = path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        self._put(place, path, found.st_size, bool(found.st_mode & 0o100))

    def _put(self, place: str, data: bytes | Path, size_bytes: int, executable: bool) -> None:
        before = self._entries.get(place)
        self._total_bytes += size_bytes - (before[1] if before else 0)
        self._entries[place] = (data, size_bytes, executable)
        if len(self._entries) > MAX_PACKAGE_FILES:
            raise self._too_large(f"over {MAX_PACKAGE_FILES} files")

    def _too_large(self, what: str) -> PackagingError:
        largest = sorted(self._entries.items(), key=lambda entry: -entry[1][1])[:_LARGEST_SHOWN]
        named = ", ".join(f"{place} ({size_text(entry[1])})" for place, entry in largest)
        return PackagingError(
            f"what {self._name!r} needs is {what}, which is what a package may hold; the largest "
            f"of it: {named}",
            hint="leave data out (of a folder: by a .cumulusignore in it) and put it where the "
            "job can fetch it",
        )

    def zipped(self, manifest: Mapping[str, Any]) -> bytes | PackedBytes:
        """The package. Raises PackagingError when it is too large, or a file can't be read."""
        if self._total_bytes > MAX_PACKAGE_BYTES:
            raise self._too_large(f"over {MAX_PACKAGE_BYTES >> 20} MiB")
        import zipfile

        told = json.dumps(manifest).encode()
        entries = {**self._entries, folder.MANIFEST: (told, len(told), False)}
        held = {place: data for place, (data, *_) in entries.items() if isinstance(data, bytes)}
        if len(held) == len(entries) and sum(map(len, held.values())) < _LARGE_BYTES:
            return _small_zip(held)
        writer = PackageWriter()
        # What is made goes through `writer`, whatever it is: it has what zipfile writes to.
        target: Any = writer
        try:
            with zipfile.ZipFile(target, "w") as archive:
                for place in sorted(entries):
                    data, _, executable = entries[place]
                    entry = _entry(place, executable)
                    if isinstance(data, Path):
                        _add_file(archive, entry, data, writer)
                    else:
                        _add(archive, entry, _Bytes(data), writer)
        except OSError as error:
            raise no_room(error) from error
        return writer.finished()


def _small_zip(files: Mapping[str, bytes]) -> bytes:
    """As most calls are: at once, and in memory."""
    import zipfile

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for place in sorted(files):
            archive.writestr(_entry(place), files[place], zipfile.ZIP_DEFLATED)
    return held.getvalue()


def _entry(place: str, executable: bool = False) -> "zipfile.ZipInfo":
    import zipfile

    entry = zipfile.ZipInfo(place, _EPOCH)
    entry.create_system = 3
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    return entry


class _Bytes:
    """Data to be packed that is in memory."""

    def __init__(self, data: bytes) -> None:
        self.source = data
        self.size_bytes = len(data)

    def read(self, offset: int, size_bytes: int) -> memoryview:
        return memoryview(self.source)[offset : offset + size_bytes]


class _OpenFile:
    """Data to be packed that is a file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        found = os.fstat(file.fileno())
        self._file = file
        self.source = UserFile.of(path, found)
        self.size_bytes = found.st_size

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Raises PackagingError."""
        path = self.source.path
        try:
            self._file.seek(offset)
            data = self._file.read(size_bytes)
            if offset + size_bytes < self.size_bytes and len(data) == size_bytes:
                return data
            now = UserFile.of(path, os.fstat(self._file.fileno()))
            if now != self.source or len(data) != size_bytes:
                raise changed(path)
        except OSError as error:
            raise unreadable(path, error) from error
        return data


def _add_file(
    archive: "zipfile.ZipFile", entry: "zipfile.ZipInfo", path: Path, writer: PackageWriter
) -> None:
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        _add(archive, entry, _OpenFile(path, file), writer)


def _add(
    archive: "zipfile.ZipFile",
    entry: "zipfile.ZipInfo",
    data: _Bytes | _OpenFile,
    writer: PackageWriter,
) -> None:
    """One file of the package, a block at a time. Raises PackagingError, OSError."""
    import zipfile

    entry.file_size = size = data.size_bytes
    entry.compress_type, level = _compression(data)
    # As `writestr` sets it; `open` has no argument for it.
    entry._compresslevel = level  # type: ignore[attr-defined]
    stays = entry.compress_type == zipfile.ZIP_STORED
    with (
        archive.open(entry, "w") as packed,
        writer.taken_from(data.source) if stays else contextlib.nullcontext(),
    ):
        for offset in range(0, size, _BLOCK_BYTES):
            packed.write(data.read(offset, min(_BLOCK_BYTES, size - offset)))


def _compression(data: _Bytes | _OpenFile) -> tuple[int, int | None]:
    """Method and level: what is large is packed quickly, or not at all when it won't shrink."""
    import zipfile
    import zlib

    if data.size_bytes < _LARGE_BYTES:
        return zipfile.ZIP_DEFLATED, None
    middle = data.size_bytes // 2
    sample = b"".join(data.read(offset, _LARGE_BYTES // 4) for offset in (0, middle))
    if len(zlib.compress(sample, 1)) > _WORTH_IT * len(sample):
        return zipfile.ZIP_STORED, None
    return zipfile.ZIP_DEFLATED, 1


def checked_place(place: str) -> str:
    """A relative path with `/` that stays in the job's working directory, and isn't ours. Raises
    PackagingError."""
    parts = place.split("/")
    odd = "\0" in place or "\\" in place or any(len(part.encode()) > 255 for part in parts)
    if odd or place.startswith("/") or {"", ".", ".."} & set(parts):
        raise PackagingError(
            f"{place!r} is no place inside the job's working directory",
            hint="name it by a relative path, such as data/input.csv",
        )
    if place == folder.MANIFEST or place.startswith(PRIVATE):
        raise PackagingError(
            f"{place!r} is what a package has of its own", hint="give the file another name"
        )
    return place


def size_text(size_bytes: float) -> str:
    """`3.2 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
