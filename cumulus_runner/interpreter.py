"""The interpreter of a job, and the one beneath its environment: what it is, what it has."""

from __future__ import annotations

import os
import sys

from cumulus_runner.light_sha256 import sha256
from cumulus_wire.environments import BASE_PREFIX
from cumulus_wire.light_json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Says what an interpreter is, into the file named by its argument.
PROBE = (
    "import json, platform, sys; "
    "json.dump([platform.python_version(), sys.path], open(sys.argv[1], 'w'))"
)
_MAX_NOTE_BYTES = 1 << 20


class Environment:
    """Where the job's Python is."""

    __slots__ = ("build_s", "folder", "held", "python")

    def __init__(
        self,
        python: str,
        folder: str | None = None,
        *,
        held: int | None = None,
        build_s: float | None = None,
    ) -> None:
        self.python = python
        self.folder = folder  #: None: no environment of its own
        #: descriptor that keeps it from being evicted, for all processes that use it
        self.held = held
        self.build_s = build_s  #: how long it took to make; None: nothing was made

    @property
    def cached(self) -> bool:
        """It was there already."""
        return self.folder is not None and self.build_s is None


class Base:
    """The interpreter beneath: what the job has without requirements."""

    __slots__ = ("executable", "site_directories", "version")

    def __init__(self, version: str, executable: str, path: Sequence[str]) -> None:
        self.version = version
        self.executable = executable
        self.site_directories = [
            entry for entry in path if os.path.basename(entry) in ("site-packages", "dist-packages")
        ]

    @classmethod
    def own(cls) -> Base:
        """The runner's own interpreter."""
        number = sys.version_info
        return cls(f"{number[0]}.{number[1]}.{number[2]}", sys.executable, sys.path)

    def fingerprint(self) -> list[str]:
        """What is installed in it: another image gives another one."""
        return sorted(
            name
            for directory in self.site_directories
            for name in _names_in(directory)
            if name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth"))
        )


class BaseNotes:
    """What interpreters said of themselves, kept in an owner's folder of environments, so that
    they aren't started for it again. A note counts as long as nothing of theirs has changed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def read(self, python: str) -> Base | None:
        """None: it must be asked (anew)."""
        try:
            with open(self._path(python), encoding="utf-8") as file:
                note = loads(file.read(_MAX_NOTE_BYTES))
            base = Base(str(note["version"]), python, [str(entry) for entry in note["path"]])
            return base if note["stamp"] == _stamp(base) else None
        except (OSError, ValueError, TypeError, KeyError):
            return None  # none, or none of ours

    def write(self, base: Base) -> None:
        """Raises OSError."""
        path = self._path(base.executable)
        note = {"version": base.version, "path": base.site_directories, "stamp": _stamp(base)}
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            file.write(dumps(note))
        os.replace(f"{path}.{os.getpid()}", path)

    def _path(self, python: str) -> str:
        name = os.fsencode(python)
        digest = sha256(len(name))
        digest.update(name)
        return os.path.join(self._folder, f"{BASE_PREFIX}{digest.hexdigest()[:16]}")


def _stamp(base: Base) -> list[Any]:
    """Changes with the interpreter, with its environment's configuration, and with the packages
    and paths that are in it."""
    home = os.path.dirname(os.path.dirname(base.executable))
    paths = [
        os.path.join(directory, name)
        for directory in base.site_directories
        for name in sorted(_names_in(directory))
        if name.endswith(".pth")
    ]
    stamp: list[Any] = [base.fingerprint()]
    for path in (base.executable, os.path.join(home, "pyvenv.cfg"), *paths):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue  # then it is no virtual environment, or one was removed just now
        stamp.append([path, found.st_ino, found.st_size, found.st_mtime_ns])
    return stamp


def _names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []  # an entry of sys.path needs not be there
