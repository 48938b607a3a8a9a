"""A function, a script or a folder as a package: code, arguments and manifest in one zip.

A call travels as source where it can (`_source_route`), else by value (`_by_value`). Equal code and
arguments give an equal zip, so that a known package is not uploaded again.
"""

import functools
import hashlib
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulus_client._callables import is_plain_function, plain_callable, short_name, unwrap
from cumulus_client._package_bytes import PackedBytes
from cumulus_client._package_files import Files, add_files, folder_files
from cumulus_client._package_zip import MAX_PACKAGE_BYTES, Contents, checked_place
from cumulus_client.exceptions import PackagingError

__all__ = [
    "MAX_PACKAGE_BYTES",
    "CodePackager",
    "Files",
    "Package",
    "package_folder",
    "package_function",
    "package_path",
    "package_script",
    "unwrap",
]

ENTRY = "__main__.py"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A finished package."""

    name: str
    #: the zip; large ones lie on disk
    data: bytes | PackedBytes = field(repr=False)
    #: module names in the job -> here, for what comes back pickled or raised
    aliases: Mapping[str, str] = field(default_factory=dict)
    #: "3.11": it holds code pickled for that minor version; None: any Python the source allows
    needs_python: str | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the zip, in hex."""
        if isinstance(self.data, PackedBytes):
            return self.data.sha256
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Size of the zip."""
        if isinstance(self.data, PackedBytes):
            return self.data.size_bytes
        return len(self.data)

    @property
    def in_memory(self) -> bool:
        """Reading it blocks nobody."""
        return isinstance(self.data, bytes)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """At most that range of the zip. Raises PackagingError when a file of it has changed."""
        if isinstance(self.data, PackedBytes):
            return self.data.read(offset, size_bytes)
        return self.data[offset : offset + size_bytes]

    def whole(self) -> bytes:
        """All of the zip."""
        return self.read(0, self.size_bytes)


def package_function(
    func: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    files: Files = None,
) -> Package:
    """Packs a call of `func`, which may be anything that can be called but a generator. `files`:
    paths, or place in the job -> path or bytes.

    Raises PackagingError saying what can't travel and what to do.
    """
    # Not before they are needed: importing the client is to be quick.
    from cumulus_client import _source_route

    function = plain_callable(func)
    name = short_name(function)
    call = (function, list(args), dict(kwargs or {}))
    try:
        contents = Contents(name)
        made = _source_route.add_by_source(contents, *call)
    except PackagingError as refused:
        from cumulus_client import _by_value

        contents = Contents(name)
        try:
            made = _by_value.add_by_value(contents, *call)
        except PackagingError as error:
            # Of a plain function the source says better what is wrong.
            raise (refused if is_plain_function(function) else error) from None
    add_files(contents, files)
    return Package(
        name=name,
        data=contents.zipped(made.manifest),
        aliases=made.aliases,
        needs_python=made.needs_python,
    )


def package_script(
    path: str | os.PathLike[str], argv: Sequence[str] = (), *, files: Files = None
) -> Package:
    """Packs a script and the local modules that it imports. Raises PackagingError."""
    from cumulus_client._local_modules import Finder, collect
    from cumulus_client._module_syntax import imports_of

    script = Path(path)
    try:
        source = script.read_bytes()
        imports = imports_of(source, str(script))
    except SyntaxError as error:
        shown = "".join(traceback.format_exception_only(error)).rstrip()
        raise PackagingError(f"the script {str(script)!r} is no Python:\n{shown}") from error
    except (OSError, ValueError) as error:
        raise PackagingError(f"the script {str(script)!r} can't be read: {error}") from error
    search = [str(script.resolve().parent)]
    search += [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    contents, origins = Contents(script.name), {script.name: str(script)}
    contents.add(script.name, source)
    for local in collect(imports.names(""), Finder(search, loaded=False)).values():
        if local.path is not None and local.archive_name not in contents:
            contents.add_file(local.archive_name, Path(local.path))
            origins[local.archive_name] = local.path
    add_files(contents, files)
    return Package(
        name=script.name, data=contents.zipped(_script_manifest(script.name, argv, origins))
    )


def package_path(
    path: str | os.PathLike[str], argv: Sequence[str] = (), *, files: Files = None
) -> Package:
    """Packs a script, or a folder with a `__main__.py`. Raises PackagingError."""
    if Path(path).is_dir():
        return package_folder(path, None, argv, files=files)
    return package_script(path, argv, files=files)


def package_folder(
    path: str | os.PathLike[str],
    entry: str | None = None,
    argv: Sequence[str] = (),
    *,
    files: Files = None,
) -> Package:
    """Packs a folder as it is, to run its script `entry` (`__main__.py`) with `argv`.

    Left out are version control, caches, virtual environments, and what a `.cumulusignore` in the
    folder names, in git's patterns. Raises PackagingError, for a folder that is too large with its
    largest files.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is a file" if root.exists() else "is not there"
        raise PackagingError(f"the folder {str(root)!r} {what}", hint="name a folder")
    name = root.resolve().name or "folder"
    contents = Contents(name)
    for place in folder_files(root):
        contents.add_file(checked_place(place), root / place)
    start = ENTRY if entry is None else Path(os.path.normpath(entry)).as_posix()
    if start not in contents:
        scripts = sorted(each.name for each in root.glob("*.py"))[:10]
        raise PackagingError(
            f"the folder {str(root)!r} has no script {start!r}, or leaves it out",
            hint="name the script to run as `entry`, relative to the folder"
            + (f"; there are: {', '.join(scripts)}" if scripts else ""),
        )
    add_files(contents, files)
    origins = {"": str(root)}
    return Package(name=name, data=contents.zipped(_script_manifest(start, argv, origins)))


def _script_manifest(path: str, argv: Sequence[str], origins: Mapping[str, str]) -> dict[str, Any]:
    return {
        "version": 1,
        "kind": "script",
        "path": path,
        "argv": list(argv),
        "origins": dict(origins),
    }


class CodePackager:
    """The old SDK's packager: what `client.submit` does by itself, as bytes."""

    def __init__(self) -> None:
        self._extra: dict[str, bytes] = {}

    def add_source_file(self, filename: str, content: str | bytes) -> None:
        """One more file in the job's working directory. `filename`: relative, with `/`. Raises
        PackagingError."""
        place = checked_place(filename)
        self._extra[place] = content.encode() if isinstance(content, str) else content

    def package_function(
        self,
        func: Callable[..., Any],
        requirements: Sequence[str] | None = None,
        job_id: str | None = None,
        args: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> bytes:
        """The zip. `requirements` and `job_id` travel beside it now, in the specification."""
        del requirements, job_id
        return package_function(func, args or (), kwargs, files=self._extra).whole()

    def package_directory(
        self, directory_path: str | os.PathLike[str], requirements: Sequence[str] | None = None
    ) -> bytes:
        """The zip of a folder, whose `__main__.py` or `main.py` is run. `requirements` travel
        beside it now, in the specification. Raises PackagingError."""
        del requirements
        entry = None if (Path(directory_path) / ENTRY).exists() else "main.py"
        return package_folder(directory_path, entry, files=self._extra).whole()
