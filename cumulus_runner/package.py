"""Unpacks the job's package without trusting it."""

from __future__ import annotations

import errno
import os
import stat

from cumulus_runner import legacy, small_zip
from cumulus_wire import folder
from cumulus_wire.light_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Sequence
    from typing import Any, BinaryIO

VERSION = 1
MAX_MANIFEST_BYTES = 1 << 20
_COPY_BYTES = 256 << 10
_MAX_NAME_BYTES = 1024
_MAX_PART_BYTES = 255
#: What reading at impossible offsets and writing to impossible names gives.
_HOSTILE_ERRORS = (errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ)
#: Stored and deflated. The others can be made to ask for gigabytes of memory.
_METHODS = (0, 8)


class PackageInvalid(ValueError):
    """The package can't be taken; the message says which entry and why."""


class EntryPointMissing(ValueError):
    """The manifest names code that isn't in the package."""


def unpack(
    archive: str, target: str, max_bytes: int, max_files: int, tick: Callable[[], None]
) -> None:
    """Unpacks the zip `archive` into the new folder `target`. Raises PackageInvalid, OSError.

    `max_bytes` bounds the unpacked total, counted while reading; `max_files` the entries. `tick` is
    called every now and then and may raise to end it.
    """
    os.mkdir(target)
    small = small_zip.read(archive)
    try:
        if small is not None:
            _unpack_small(small, target, max_bytes, max_files, tick)
        else:
            _unpack_any(archive, target, max_bytes, max_files, tick)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise PackageInvalid(
            f"the package names {error.filename!r} both as file and as folder"
        ) from error
    except OSError as error:
        if error.errno not in _HOSTILE_ERRORS:
            raise
        raise PackageInvalid(f"the package is no whole zip file: {error.strerror}") from error


def _unpack_small(
    entries: Sequence[small_zip.Entry],
    target: str,
    max_bytes: int,
    max_files: int,
    tick: Callable[[], None],
) -> None:
    for entry, path in zip(entries, _checked(entries, max_bytes, max_files), strict=True):
        tick()
        full = os.path.join(target, path)
        if entry.is_dir():
            os.makedirs(full, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with _new_file(full, entry) as file:
            file.write(entry.data)


def _unpack_any(
    archive: str, target: str, max_bytes: int, max_files: int, tick: Callable[[], None]
) -> None:
    import struct
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(archive) as package:
            entries = package.infolist()
            paths = _checked(entries, max_bytes, max_files)
            left = max_bytes
            for entry, path in zip(entries, paths, strict=True):
                tick()
                full = os.path.join(target, path)
                if entry.is_dir():
                    os.makedirs(full, exist_ok=True)
                    continue
                os.makedirs(os.path.dirname(full), exist_ok=True)
                left -= _copy(package, entry, full, left, tick)
    except PackageInvalid:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise PackageInvalid(f"the package is no whole zip file: {error}") from error
    # What zipfile lets through of a hostile directory: odd text, offsets, flags.
    except (ValueError, EOFError, OverflowError, RuntimeError) as error:
        raise PackageInvalid(f"the package is no whole zip file: {error}") from error


def load_manifest(work: str) -> dict[str, Any]:
    """The unpacked package's manifest, checked. Raises PackageInvalid, EntryPointMissing."""
    path = os.path.join(work, folder.MANIFEST)
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        old = legacy.manifest(work)
        if old is not None:
            return old
        raise PackageInvalid(
            f"the package has no {folder.MANIFEST}, and no {folder.LEGACY_MAIN} either"
        ) from None
    if len(text) > MAX_MANIFEST_BYTES:
        raise PackageInvalid(f"{folder.MANIFEST} is over {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = loads(text)
    except (ValueError, RecursionError) as error:
        raise PackageInvalid(f"{folder.MANIFEST} is no JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise PackageInvalid(f"{folder.MANIFEST} is no manifest of version {VERSION}")
    kind = manifest.get("kind")
    _check_optional(manifest)
    if kind in ("function", "callable"):
        names = ("module", "function", "call") if kind == "function" else ("call",)
        _need_texts(manifest, names)
        call = manifest["call"]
        if not os.path.isfile(_inside(work, call)):
            raise PackageInvalid(f"the package has no {call}, which holds the call's arguments")
    elif kind == "script":
        _need_texts(manifest, ("path",))
        argv = manifest.setdefault("argv", [])
        if not isinstance(argv, list) or not all(isinstance(item, str) for item in argv):
            raise PackageInvalid(f"argv in {folder.MANIFEST} is no list of texts")
        if not os.path.isfile(_inside(work, manifest["path"])):
            raise EntryPointMissing(f"the package has no script {manifest['path']}")
    else:
        raise PackageInvalid(
            f"kind in {folder.MANIFEST} is {kind!r}; this runner knows 'function', 'callable' and "
            "'script'"
        )
    return manifest


def _checked(
    entries: Sequence[zipfile.ZipInfo | small_zip.Entry], max_bytes: int, max_files: int
) -> list[str]:
    """Refuses what the directory of the zip already gives away; the relative path of each entry."""
    if len(entries) > max_files:
        raise PackageInvalid(f"the package has {len(entries)} entries; {max_files} are allowed")
    seen: set[str] = set()
    paths = []
    for entry in entries:
        name = entry.orig_filename
        parts = [part for part in name.split("/") if part not in ("", ".")]
        # Of an empty name `is_dir` asks for the last character.
        if not parts and entry.filename and entry.is_dir():
            parts = ["."]
        path = "/".join(parts)
        mode = entry.external_attr >> 16
        if (
            not parts
            or name.startswith("/")
            or ".." in parts
            or "\0" in name
            or "\\" in name
            or len(name.encode(errors="replace")) > _MAX_NAME_BYTES
            or any(len(part.encode(errors="replace")) > _MAX_PART_BYTES for part in parts)
        ):
            raise PackageInvalid(f"the package has an entry with a forbidden path: {name[:200]!r}")
        kind = stat.S_IFMT(mode)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (
            (kind == stat.S_IFDIR) != entry.is_dir() and kind != 0
        ):
            raise PackageInvalid(f"the package has an entry that is no plain file: {name!r}")
        if entry.compress_type not in _METHODS:
            raise PackageInvalid(
                f"the package has an entry that is neither stored nor deflated: {name!r}"
            )
        if entry.flag_bits & 0x1:
            raise PackageInvalid(f"the package has an encrypted entry: {name!r}")
        if path in seen:
            raise PackageInvalid(f"the package has an entry twice: {name!r}")
        seen.add(path)
        paths.append(path)
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        largest = max(entries, key=lambda entry: entry.file_size)
        raise PackageInvalid(
            f"the package unpacks to {total} bytes; {max_bytes} are allowed; "
            f"the largest entry is {largest.orig_filename[:200]!r} with {largest.file_size}"
        )
    return paths


def _copy(
    package: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    path: str,
    max_bytes: int,
    tick: Callable[[], None],
) -> int:
    """Unpacks one file; its size. Counts what really comes, whatever the entry claims."""
    size = 0
    with package.open(entry) as source, _new_file(path, entry) as file:
        while data := source.read(_COPY_BYTES):
            size += len(data)
            if size > max_bytes:
                raise PackageInvalid(
                    "the package unpacks to more bytes than are allowed, "
                    f"in its entry {entry.orig_filename[:200]!r}"
                )
            file.write(data)
            tick()
    return size


def _new_file(path: str, entry: zipfile.ZipInfo | small_zip.Entry) -> BinaryIO:
    executable = (entry.external_attr >> 16) & 0o111
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o755 if executable else 0o644), "wb")


def _need_texts(manifest: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if not isinstance(manifest.get(key), str) or not manifest[key]:
            raise PackageInvalid(f"{key} in {folder.MANIFEST} is no text")


def _check_optional(manifest: dict[str, Any]) -> None:
    """What a package may say of its code: see docs/protocol.md."""
    for key in ("python", "vendor", "lines"):
        if not isinstance(manifest.get(key, ""), str):
            raise PackageInvalid(f"{key} in {folder.MANIFEST} is no text")
    for key in ("aliases", "origins"):
        value = manifest.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise PackageInvalid(f"{key} in {folder.MANIFEST} is no object of texts")
    for key in ("vendor", "lines"):
        _inside("", manifest.get(key, ""))


def _inside(work: str, path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise PackageInvalid(f"{folder.MANIFEST} names a path outside the package: {path!r}")
    return os.path.join(work, path)
