"""Files and folders of the user's that travel with a job."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from cumulus_client._package_zip import Contents, checked_place
from cumulus_client.exceptions import PackagingError

#: `files=`: paths, or the place in the job's working directory -> a path or the bytes themselves.
Files: TypeAlias = (
    Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str] | bytes] | None
)

IGNORE_FILE = ".cumulusignore"
#: Folders of a project that no job needs, and that may be huge.
_NEVER = frozenset(
    {
        *(".git", ".hg", ".svn", "__pycache__", ".ipynb_checkpoints"),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox"),
    }
)


def add_files(contents: Contents, files: Files) -> None:
    """Adds what `files=` names. Raises PackagingError; TypeError for what names no files."""
    for place, source in _named(files):
        place = checked_place(place)
        if isinstance(source, bytes):
            _add_new(contents, place, source)
            continue
        if not source.exists():
            raise PackagingError(
                f"files: there is no {os.fspath(source)!r}",
                hint=f"paths are looked up from the current directory, {os.getcwd()}",
            )
        if source.is_dir():
            for inner in folder_files(source):
                _add_new(contents, f"{place}/{inner}", source / inner)
        else:
            _check_regular(source)
            _add_new(contents, place, source)


def _add_new(contents: Contents, place: str, source: bytes | Path) -> None:
    if place in contents:
        raise PackagingError(
            f"files: {place!r} is in the package already",
            hint='give it another place: files={"place/in/the/job": path}',
        )
    if isinstance(source, bytes):
        contents.add(place, source)
    else:
        contents.add_file(place, source)


def _named(files: Files) -> Iterator[tuple[str, bytes | Path]]:
    if files is None:
        return
    if isinstance(files, Mapping):
        for place, source in files.items():
            if not isinstance(place, str):
                raise TypeError(f"each key of files must be a str, not {_told(place)}")
            if isinstance(source, bytes | bytearray | memoryview):
                yield place, bytes(source)
            else:
                yield place, _path(source)
    elif isinstance(files, str | bytes | os.PathLike) or not isinstance(files, Sequence):
        raise TypeError(
            "files must be a list of paths, or a dict of the place in the job to a path or bytes, "
            f"not {_told(files)}"
        )
    else:
        for source in files:
            path = _path(source)
            yield _own_place(path), path


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"files: a path or bytes is needed, not {_told(value)}")
    return Path(value)


def _told(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:200]


def _own_place(path: Path) -> str:
    """Where a file goes that was named by its path alone: `data/x` stays that; what lies elsewhere
    comes by its name."""
    normal = PurePath(os.path.normpath(path))
    if normal.is_absolute() or ".." in normal.parts:
        place = path.resolve().name
    else:
        place = normal.as_posix()
    if place in ("", "."):
        raise PackagingError(
            f"files: {os.fspath(path)!r} as a whole has no name in the job",
            hint='name its content, or files={"a_name": path}',
        )
    return place


def folder_files(root: Path) -> list[str]:
    """The files below a folder, sorted, as paths relative to it with `/`.

    Version control, caches, virtual environments and what the folder's `.cumulusignore` names (in
    git's patterns) are left out. Raises PackagingError.
    """
    ignored = _ignored_by(root)
    found: list[str] = []

    def refuse(error: OSError) -> None:
        raise PackagingError(
            f"{error.filename!r} can't be read: {error.strerror or error}",
            hint=f"make it readable, or name it in {IGNORE_FILE}",
        ) from error

    for here, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        relative = Path(here).relative_to(root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        folders[:] = sorted(
            name
            for name in folders
            if name not in _NEVER
            and not os.path.exists(os.path.join(here, name, "pyvenv.cfg"))
            and not _leads_back(here, name)
            and not ignored(f"{prefix}{name}/")
        )
        for name in sorted(names):
            place = prefix + name
            if name.endswith((".pyc", ".pyo")) or place == IGNORE_FILE or ignored(place):
                continue
            path = Path(here, name)
            _check_regular(path)
            found.append(place)
    return sorted(found)


def _leads_back(here: str, name: str) -> bool:
    """Is it a link to a folder that it lies in?"""
    path = os.path.join(here, name)
    if not os.path.islink(path):
        return False
    inside = os.path.join(os.path.realpath(here), "")
    return inside.startswith(os.path.join(os.path.realpath(path), ""))


def _ignored_by(root: Path) -> Any:
    """Does the folder's `.cumulusignore` leave this path out?"""
    try:
        lines = (root / IGNORE_FILE).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return lambda _place: False
    except (OSError, UnicodeDecodeError) as error:
        raise PackagingError(
            f"{root / IGNORE_FILE} can't be read: {error}", hint="mend it, or delete it"
        ) from error
    import pathspec

    try:
        return pathspec.GitIgnoreSpec.from_lines(lines).match_file
    except ValueError as error:
        raise PackagingError(
            f"{root / IGNORE_FILE}: {error}", hint="each line is a pattern as in .gitignore"
        ) from error


def _check_regular(path: Path) -> None:
    """Raises PackagingError for what can't be copied: a pipe, a socket, a link to nothing."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise PackagingError(
            f"{os.fspath(path)!r} can't be read: {error.strerror or error}",
            hint=f"leave it out, in a folder by a {IGNORE_FILE}",
        ) from error
    if not stat.S_ISREG(mode):
        raise PackagingError(
            f"{os.fspath(path)!r} is no plain file and can't travel",
            hint=f"leave it out, in a folder by a {IGNORE_FILE}",
        )
