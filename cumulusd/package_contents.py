"""What a posted package's own files say of the job: its kind, and an old zip's requirements.

Blocking: reads a file that anybody may have made, so everything about it is bounded.
"""

import io
import zipfile
import zlib
from pathlib import Path

import attrs

from cumulus_wire import folder
from cumulusd.errors import InvalidArgument

#: The directory of a zip, which `zipfile` reads whole: some 20,000 files, as workers take.
MAX_DIRECTORY_BYTES = 4 << 20
MAX_REQUIREMENTS_BYTES = 256 << 10
#: What `zipfile` raises of a file that is none, or a hostile one.
_HOSTILE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError, OverflowError)


#: Stored and deflated, as the runner takes them. The others can be made to ask for gigabytes.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@attrs.frozen(kw_only=True)
class PackageContents:
    """What was found."""

    legacy: bool  #: made by the old SDK: `main.py` is run, and says itself how it ended
    requirements: tuple[str, ...] = ()  #: of its requirements.txt, one a line


def look_inside(path: Path) -> PackageContents:
    """Raises InvalidArgument when it is no zip, or none that could be run; OSError."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(_Bounded(file)) as archive:
            names = set(archive.namelist())
            if folder.MANIFEST in names:
                return PackageContents(legacy=False)
            if folder.LEGACY_MAIN not in names:
                raise _invalid(
                    f"holds neither {folder.MANIFEST} nor {folder.LEGACY_MAIN} at its top"
                )
            if folder.LEGACY_REQUIREMENTS not in names:
                return PackageContents(legacy=True)
            entry = archive.getinfo(folder.LEGACY_REQUIREMENTS)
            if entry.compress_type not in _METHODS:
                raise _invalid(f"has a {entry.filename} that is neither stored nor deflated")
            with archive.open(entry) as listing:
                text = listing.read(MAX_REQUIREMENTS_BYTES + 1)
    except InvalidArgument:
        raise
    except _HOSTILE as error:
        raise _invalid(f"is no zip file that can be read: {error}") from error
    if len(text) > MAX_REQUIREMENTS_BYTES:
        raise _invalid(f"has a {folder.LEGACY_REQUIREMENTS} of over {MAX_REQUIREMENTS_BYTES} bytes")
    try:
        return PackageContents(
            legacy=True, requirements=requirement_lines(text.decode("utf-8-sig"))
        )
    except UnicodeDecodeError as error:
        raise _invalid(f"has a {folder.LEGACY_REQUIREMENTS} that is not UTF-8") from error


def requirement_lines(text: str) -> tuple[str, ...]:
    """The lines of a requirements file, without comments and blanks; continued ones joined."""
    lines = []
    for line in text.replace("\r\n", "\n").replace("\\\n", " ").split("\n"):
        bare = line.partition(" #")[0].strip()
        if bare and not bare.startswith("#"):
            lines.append(bare)
    return tuple(lines)


class _Bounded(io.RawIOBase):
    """A file of which no single read is larger than a zip's directory may be."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Raises InvalidArgument."""
        if size < 0:  # to the file's end, where zipfile looks for the directory's place
            size = MAX_DIRECTORY_BYTES
        if size > MAX_DIRECTORY_BYTES:
            raise _invalid(f"names more files than fit into {MAX_DIRECTORY_BYTES} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Raises InvalidArgument."""
        if whence == io.SEEK_SET and offset < 0:
            raise _invalid("is no zip file that can be read: an entry lies before its beginning")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument(
        f"The package (code) {message}", details={"faults": [{"key": "code", "message": message}]}
    )
