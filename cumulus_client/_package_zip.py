"""The zip that is a package: equal contents give equal bytes."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cumulus_client.exceptions import PackagingError
from cumulus_wire import folder

#: Held in memory here while it is packed; how large it may be as a zip is for the daemon to say.
MAX_PACKAGE_BYTES = 1 << 30
MAX_PACKAGE_FILES = 20_000
#: The folder in a package whose content is ours.
PRIVATE = ".cumulus/"
_EPOCH = (1980, 1, 1, 0, 0, 0)
#: From this size on a piece is tried first, and what doesn't shrink is stored.
_LARGE_BYTES = 1 << 20
_WORTH_IT = 0.9
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
            raise _unreadable(path, error) from error
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

    def zipped(self, manifest: Mapping[str, Any]) -> bytes:
        """The package. Raises PackagingError when it is too large, or a file can't be read."""
        if self._total_bytes > MAX_PACKAGE_BYTES:
            raise self._too_large(f"over {MAX_PACKAGE_BYTES >> 20} MiB")
        import zipfile

        told = json.dumps(manifest).encode()
        entries = {**self._entries, folder.MANIFEST: (told, len(told), False)}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for place in sorted(entries):
                data, _, executable = entries[place]
                if isinstance(data, Path):
                    try:
                        data = data.read_bytes()
                    except OSError as error:
                        raise _unreadable(Path(place), error) from error
                entry = zipfile.ZipInfo(place, _EPOCH)
                method, level = _compression(data)
                entry.compress_type = method
                entry.create_system = 3
                entry.external_attr = (0o100755 if executable else 0o100644) << 16
                archive.writestr(entry, data, compresslevel=level)
        return buffer.getvalue()


def _compression(data: bytes) -> tuple[int, int | None]:
    """Method and level: what is large is packed quickly, or not at all when it won't shrink."""
    import zipfile
    import zlib

    if len(data) < _LARGE_BYTES:
        return zipfile.ZIP_DEFLATED, None
    middle = len(data) // 2
    sample = data[: _LARGE_BYTES // 4] + data[middle : middle + _LARGE_BYTES // 4]
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


def _unreadable(path: Path, error: OSError) -> PackagingError:
    return PackagingError(
        f"{os.fspath(path)!r} can't be read: {error.strerror or error}",
        hint="it is to be part of the job: make it readable, or leave it out",
    )
