"""Code that was packed before, and whether all that its packing went by is still as it was.

To find out is much less work than to pack it again, as for each of many calls of one function. What
is asked: the values that the source reaches, the modules that its imports find, and the files, by
size and times of change; one that was changed only just now is read again.
"""

import inspect
import linecache
import os
import sys
import threading
import time
import types
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cumulus_client._callables import is_remote, unwrap
from cumulus_client._literals import literal_source
from cumulus_client._local_modules import Finder

#: Calls whose code is remembered.
MAX_REMEMBERED = 64
#: Larger code is made again each time.
MAX_CODE_BYTES = 256 << 10
#: A file may change again without another time than it has, for so long.
UNSETTLED_S = 2.0

_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Code:
    """What a call needs beside itself, as files of its package."""

    files: Mapping[str, bytes]
    #: file of the package -> where it is here
    origins: Mapping[str, str]
    #: module names in the job -> here
    aliases: Mapping[str, str]
    #: the called function's module in the job; None: it is pickled, or called by its name here
    module: str | None

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(map(len, self.files.values()))


class Reads(Mapping[str, Any]):
    """A module's globals, and how those were that were looked at."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.tokens: dict[str, Any] = {}
        self.is_settled = True  #: all of them can be told later

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        self._note(name, value)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping."""
        value = self._values.get(name, _MISSING)
        self._note(name, value)
        return default if value is _MISSING else value

    def _note(self, name: str, value: Any) -> None:
        # Before it is used, the first time: another thread may change it at any moment, and what
        # is packed is then another value, or this one.
        if self.is_settled and name not in self.tokens:
            try:
                self.tokens[name] = _token(value)
            except _NotSettled:
                self.is_settled = False

    def __iter__(self) -> Iterator[str]:
        raise TypeError("what is looked at is not known of one who looks at everything")

    def __len__(self) -> int:
        return len(self._values)


class _NotSettled(Exception):
    """It can't be told later whether something is as it was."""


class Witness:
    """What the packing of one call's code went by. Keeps nothing of the user's alive."""

    def __init__(self, function: types.FunctionType | None) -> None:
        """Made before anything is read."""
        self._began_at = time.time()
        self._function = None if function is None else weakref.ref(function)
        self._code = None if function is None else inspect.unwrap(function).__code__
        self._reads: list[tuple[types.ModuleType, Reads]] = []
        self._sources: list[tuple[str, list[str]]] = []
        self._modules: list[tuple[str, weakref.ref[types.ModuleType], Any, dict[str, Any]]] = []
        self._files: list[tuple[str, tuple[int, ...]]] = []
        self._finder: Finder | None = None

    def namespace(self, module: types.ModuleType) -> Reads:
        """Its globals for whoever reads code of it."""
        reads = Reads(vars(module))
        self._reads.append((module, reads))
        return reads

    def source(self, path: str, lines: list[str]) -> None:
        """Source was read: these very lines, out of `linecache`."""
        self._sources.append((path, lines))

    def settle(self, finder: Finder, paths: Iterable[str]) -> bool:
        """All was read: modules by `finder`, files at `paths`. Can it be told later whether it is
        as it was?"""
        self._finder = finder
        try:
            if not all(reads.is_settled for _, reads in self._reads):
                return False
            self._files = [(path, self._signature(path)) for path in paths]
            self._modules = [
                (
                    module.__name__,
                    weakref.ref(module),
                    _facts(module),
                    reads.tokens,
                )
                for module, reads in self._reads
            ]
        except (_NotSettled, OSError):
            return False
        finally:
            self._reads.clear()
        return True

    def holds(self, function: types.FunctionType | None) -> bool:
        """Is all of it as it was? Raises PackagingError where a module can't travel any more."""
        if function is not None and (
            self._function is None
            or self._function() is not function
            or inspect.unwrap(function).__code__ is not self._code
        ):
            return False
        for path, lines in self._sources:
            linecache.checkcache(path)
            if linecache.getlines(path) is not lines:
                return False
        for name, known, facts, tokens in self._modules:
            module = sys.modules.get(name)
            if module is None or known() is not module or _facts(module) != facts:
                return False
            values = vars(module)
            if not all(_is_still(values.get(one, _MISSING), tokens[one]) for one in tokens):
                return False
        try:
            if any(_stat(path) != signature for path, signature in self._files):
                return False
        except OSError:
            return False
        return self._finder is not None and Finder(sys.path, loaded=True).agrees(self._finder)

    def _signature(self, path: str) -> tuple[int, ...]:
        signature = _stat(path)
        if max(signature[-2:]) / 1e9 > self._began_at - UNSETTLED_S:
            raise _NotSettled
        return signature


def _stat(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _facts(module: types.ModuleType) -> tuple[Any, ...]:
    values = vars(module)
    return values.get("__file__"), values.get("__package__"), "__path__" in values


def _token(value: Any) -> Any:
    """By which `_is_still` tells whether a global is as it was. Raises _NotSettled."""
    if value is _MISSING:
        return _MISSING
    text = literal_source(value)
    if text is not None:
        return text
    inner = unwrap(value) if is_remote(value) else value
    try:
        return weakref.ref(value), weakref.ref(inner)
    except TypeError as error:
        raise _NotSettled from error


def _is_still(value: Any, token: Any) -> bool:
    if token is _MISSING or value is _MISSING:
        return value is token
    if isinstance(token, str):
        return literal_source(value) == token
    outer, inner = token
    return outer() is value and inner() is unwrap(value)


class Memory:
    """The latest code, by what was called. Shared by threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[Hashable, tuple[Code, Witness]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, key: Hashable, function: types.FunctionType | None) -> Code | None:
        """The code, if all that it was made of is as it was. Raises PackagingError."""
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
        if held is None or not held[1].holds(function):
            return None
        return held[0]

    def keep(self, key: Hashable, code: Code, witness: Witness) -> None:
        """Remembers it, unless it is large."""
        with self._lock:
            self._held.pop(key, None)
            if code.size_bytes <= MAX_CODE_BYTES:
                self._held[key] = code, witness
            if len(self._held) > MAX_REMEMBERED:
                self._held.popitem(last=False)
