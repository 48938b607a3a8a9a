"""Tells when a module has been imported. On its own: bootstrap loads this file by its path, too."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def watch(name: str, imported: Callable[[Any], None]) -> None:
    """`imported(module)` as soon as the module is there: now, or when the code imports it, before
    the code has it. It must not raise."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and not getattr(spec, "_initializing", False):
        imported(module)
        return
    sys.meta_path.insert(0, Finder(name, imported))


class Finder:
    """Stands on `sys.meta_path`: finds one module as all the others do, and has it reported."""

    def __init__(self, name: str, imported: Callable[[Any], None]) -> None:
        self._name = name
        self._imported = imported
        self._searching = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of the module; None for everything else."""
        # Python imports one module once at a time, so that another thread can't be in here.
        if name != self._name or self._searching:
            return None
        self._searching = True
        try:
            spec = self._search(name, path, target)
        finally:
            self._searching = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = Loader(spec.loader, self._imported)
        return spec

    def _search(self, name: str, path: Any, target: Any) -> Any:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is not self and find is not None:
                spec = find(name, path, target)
                if spec is not None:
                    return spec
        return None


class Loader:
    """Loads as `real` does, which takes its place before the module's code runs."""

    def __init__(self, real: Any, imported: Callable[[Any], None]) -> None:
        self._real = real
        self._imported = imported

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: Any) -> Any:
        """As `real` does."""
        return self._real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As `real` does, then reports the module."""
        module.__spec__.loader = module.__loader__ = self._real
        self._real.exec_module(module)
        self._imported(sys.modules.get(module.__name__, module))
