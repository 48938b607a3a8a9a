"""Finds the user's own modules that a piece of source imports, without importing anything.

Local is what lies neither in the standard library nor in a site-packages folder.
"""

import functools
import importlib.machinery
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cumulus_client._module_syntax import Imports, imports_of
from cumulus_client.exceptions import PackagingError

#: What a job's Python has by itself, or never needs.
_OURS = frozenset({"cumulus_client", "cumulus_wire", "cumulus_runner", "cumulusd"})


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__)}
    return tuple(sorted({os.path.realpath(folder) for folder in folders}))


def is_local_file(path: str) -> bool:
    """Is it a module of the user's own, rather than an installed one or Python's?"""
    # What leads where is looked at once, but for what the working directory decides.
    return _lies_here(path) if os.path.isabs(path) else _lies_here.__wrapped__(path)


@functools.lru_cache(maxsize=4096)
def _lies_here(path: str) -> bool:
    real = os.path.realpath(path)
    if f"{os.sep}cumulus_runner{os.sep}inside{os.sep}" in real:
        return False  # `runtime`, which every job has: on the path here to try a script at home
    if {"site-packages", "dist-packages"} & set(Path(real).parts):
        return False
    return not any(
        real == folder or real.startswith(folder + os.sep) for folder in _library_folders()
    )


@dataclass(frozen=True, kw_only=True)
class LocalModule:
    """A module to be shipped whole."""

    name: str
    path: str | None  #: None: a namespace package, which has no file
    is_package: bool

    @property
    def archive_name(self) -> str:
        """Its place in the package."""
        return module_path(self.name, is_package=self.is_package)

    @property
    def parent(self) -> str:
        """What its relative imports start from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


def module_path(name: str, *, is_package: bool = False) -> str:
    """`a.b` -> `a/b.py`, or `a/b/__init__.py`."""
    path = PurePosixPath(*name.split("."))
    return str(path / "__init__.py" if is_package else path.with_name(path.name + ".py"))


class Finder:
    """Module names to files. `search_path` as `sys.path`."""

    def __init__(self, search_path: Sequence[str], *, loaded: bool) -> None:
        """`loaded`: what this process has imported already says where a module is."""
        self._search_path = list(search_path)
        self._loaded = loaded
        self._known: dict[str, tuple[LocalModule, list[str]] | None] = {}

    def find(self, name: str) -> LocalModule | None:
        """The local module of that name, None when there is none. Raises PackagingError for one
        that can't be shipped."""
        found = self._locate(name)
        return found[0] if found else None

    def agrees(self, other: "Finder") -> bool:
        """Does it find all that `other` has found, and only that? Raises PackagingError."""
        return all(self._locate(name) == found for name, found in other._known.items())

    def _locate(self, name: str) -> tuple[LocalModule, list[str]] | None:
        if name not in self._known:
            self._known[name] = self._search(name)
        return self._known[name]

    def _search(self, name: str) -> tuple[LocalModule, list[str]] | None:
        parent, _, _last = name.rpartition(".")
        if not name or name in _OURS or name in sys.builtin_module_names:
            return None
        if parent:
            outer = self._locate(parent)
            if outer is None or not outer[0].is_package:
                return None
            spec = importlib.machinery.PathFinder.find_spec(name, outer[1])
        elif name in sys.stdlib_module_names:
            return None
        else:
            spec = self._loaded_spec(name) or importlib.machinery.PathFinder.find_spec(
                name, self._search_path
            )
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or ())
        origin = spec.origin if spec.has_location else None
        if origin is None:
            if not folders or not any(is_local_file(folder) for folder in folders):
                return None
            return LocalModule(name=name, path=None, is_package=True), folders
        if not is_local_file(origin):
            return None
        if not origin.endswith(".py"):
            raise PackagingError(
                f"the local module {name!r} is no Python source ({origin}) and can't be shipped",
                hint="build it as a package and name that in requirements",
            )
        return (
            LocalModule(
                name=name, path=origin, is_package=spec.submodule_search_locations is not None
            ),
            folders,
        )

    def _loaded_spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        module = sys.modules.get(name) if self._loaded else None
        spec = getattr(module, "__spec__", None)
        return spec if spec is not None and spec.name == name else None


def collect(
    names: Iterable[str], finder: Finder, *, reduced: str | None = None
) -> dict[str, LocalModule]:
    """The local modules that these names need, transitively, with their packages. By name.

    `reduced`: a module that travels reduced. It is left out, unless one that travels whole
    imports it: whoever imports it so may want all of it.
    """
    names = list(names)
    found = _closure(names, finder, without=reduced)
    if reduced is None:
        return found
    for module in found.values():
        if module.path is not None and reduced in imports(module).names(module.parent):
            return _closure([*names, reduced], finder, without=None)
    return found


def _closure(
    names: Iterable[str], finder: Finder, *, without: str | None
) -> dict[str, LocalModule]:
    found: dict[str, LocalModule] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            module = finder.find(".".join(parts[:length]))
            if module is None:
                break
            if module.name not in found and module.name != without:
                found[module.name] = module
                if module.path is not None:
                    queue += imports(module).names(module.parent)
    return found


def imports(module: LocalModule) -> Imports:
    """What a local module imports. Raises PackagingError."""
    assert module.path is not None
    try:
        return imports_of(Path(module.path).read_bytes(), module.path)
    except SyntaxError as error:
        shown = "".join(traceback.format_exception_only(error)).rstrip()
        raise PackagingError(f"the local module {module.name!r} is no Python:\n{shown}") from error
    except (OSError, ValueError) as error:
        raise PackagingError(
            f"the local module {module.name!r} ({module.path}) can't be read: {error}"
        ) from error
