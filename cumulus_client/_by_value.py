"""A call by value: code and data in one pickle, made by cloudpickle.

For what has no source that could travel: lambdas, closures, notebook cells, the REPL's functions.
Local modules still travel as source and are named in the pickle, but for those that a job couldn't
import, such as one that makes a client: what the call reaches of them goes by value too. Code is
bound to the minor version of Python, so the package says which it needs. The job finds cloudpickle
in the package.
"""

import functools
import importlib.util
import io
import json
import linecache
import operator
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cumulus_client._arguments import (
    CALL,
    CALL_PICKLE,
    MAIN,
    PICKLED_CALL,
    BoundedBuffer,
    CannotTravel,
    call_value,
    note_name,
    of_client,
    refusal,
)
from cumulus_client._callables import client_part, is_remote, short_name, told_name
from cumulus_client._local_modules import Finder, LocalModule, collect, imports
from cumulus_client._package_zip import PRIVATE, Contents
from cumulus_client._source_route import Made, add_modules
from cumulus_client.exceptions import PackagingError

VENDOR = f"{PRIVATE}vendor"
LINES = f"{PRIVATE}lines.json"
MAX_LINES_CHARS = 4 << 20
_FILES = (
    *(io.TextIOWrapper, io.FileIO),
    *(io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair),
)
#: cloudpickle keeps what goes by value in a table of the process.
_REGISTRY = threading.RLock()  # what is pickled may pack a call of its own


def add_by_value(
    contents: Contents, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Made:
    """Adds the call. Raises PackagingError naming what can't travel."""
    name = told_name(func)
    value = call_value(func, list(args), dict(kwargs))
    by_value: set[str] = set()
    while True:
        seen = _Seen()
        try:
            data = _pickle(value, seen, by_value)
        except Exception as error:
            alone = functools.partial(_pickle_alone, by_value=frozenset(by_value))
            raise refusal(name, func, args, kwargs, error, alone) from error
        needed = [one for one in seen.names if one != MAIN]
        modules = collect(needed, Finder(sys.path, loaded=True))
        more = _unimportable(modules.values()) - by_value
        if not more:
            break
        by_value |= more
    origins: dict[str, str] = {}
    whole = {key: each for key, each in modules.items() if key not in by_value}
    add_modules(contents, short_name(func), whole, origins)
    contents.add(CALL, PICKLED_CALL)
    contents.add(CALL_PICKLE, data)
    contents.add(LINES, json.dumps(_lines_of(seen.codes)).encode())
    for path in _cloudpickle_files():
        contents.add_file(f"{VENDOR}/cloudpickle/{path.name}", path)
    needs_python = "{}.{}".format(*sys.version_info[:2])
    manifest = {
        "version": 1,
        "kind": "callable",
        "call": CALL,
        "python": needs_python,
        "vendor": VENDOR,
        "lines": LINES,
        "origins": origins,
    }
    return Made(manifest=manifest, needs_python=needs_python)


class _Seen:
    """What a pickle names, and the code that is in it."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}
        self.codes: list[types.CodeType] = []
        #: module -> name -> class or function that travels by value and has that name here
        self.tops: dict[str, dict[str, Any]] = {}

    def note_value(self, value: Any) -> None:
        """A class or function travels by value."""
        if isinstance(value, types.FunctionType):
            self.codes.append(value.__code__)
        module = sys.modules.get(value.__module__ or "")
        name = value.__qualname__
        if module is not None and getattr(module, name, None) is value:
            self.tops.setdefault(module.__name__, {})[name] = value


def _pickle(value: Any, seen: _Seen, by_value: Iterable[str]) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if is_remote(value):
                return operator.getitem, ((value.func,), 0)  # in the job it is the plain function
            if client_part(value):
                raise CannotTravel(of_client(value))
            if isinstance(value, _FILES) and value not in (sys.stdout, sys.stderr):
                # cloudpickle would send a copy of its content as if it were the file.
                raise CannotTravel(f"it holds an open file, {getattr(value, 'name', '')!r}")
            if isinstance(value, functools._lru_cache_wrapper) and not _found_by_name(
                value, by_value
            ):
                return _with_cache(value)
            if type(value) is weakref.WeakKeyDictionary:
                return weakref.WeakKeyDictionary, (dict(value),)  # a singledispatch has one
            if isinstance(value, types.CodeType):
                return _with_filename(self.dispatch_table[types.CodeType](value), value)
            reduced = super().reducer_override(value)
            if isinstance(value, types.ModuleType):
                seen.names.setdefault(value.__name__, set())
            elif reduced is NotImplemented:
                note_name(seen.names, value)
            elif isinstance(value, types.FunctionType | type):
                seen.note_value(value)
            if isinstance(value, type) and "__slots__" in vars(value):
                return _with_slots(reduced, value)
            return reduced

    file = BoundedBuffer()
    with _REGISTRY:
        registered: list[types.ModuleType] = []
        try:
            for name in by_value:
                module = sys.modules[name]
                if name not in cloudpickle.list_registry_pickle_by_value():
                    cloudpickle.register_pickle_by_value(module)
                    registered.append(module)
            pickler = Pickler(file)
            pickler.dump(value)
            # Read by the same unpickler these are the very same objects: the job puts them where
            # they are here, so that what it pickles of them is found here by name again.
            pickler.dump(seen.tops)
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)
    return file.getvalue()


def _found_by_name(value: Any, by_value: Iterable[str]) -> bool:
    """Can a job import it?"""
    name = str(value.__module__)
    module = sys.modules.get(name)
    return (
        name != MAIN
        and name not in by_value
        and getattr(module, str(value.__qualname__), None) is value
    )


def _with_cache(value: Any) -> tuple[Any, ...]:
    """What `@functools.lru_cache` made, which by itself pickles by name only; its cache is empty in
    the job."""
    told = value.cache_parameters()
    arguments = (value.__wrapped__, told["maxsize"], told["typed"], functools._CacheInfo)
    return type(value), arguments, dict(vars(value))


def _with_slots(reduced: Any, cls: type) -> Any:
    """cloudpickle makes the class without its slots, so that instances would have other state."""
    if reduced is NotImplemented or reduced[0].__name__ != "_make_skeleton_class":
        return reduced
    kind, name, bases, body, *rest = reduced[1]
    arguments = (kind, name, bases, {**body, "__slots__": vars(cls)["__slots__"]}, *rest)
    return reduced[0], arguments, *reduced[2:]


def _with_filename(reduced: tuple[Any, ...], code: types.CodeType) -> tuple[Any, ...]:
    """cloudpickle calls all code's file `<dynamic-code>`; tracebacks shall show where it stands."""
    make, arguments = reduced[:2]
    named = tuple(
        code.co_filename if type(each) is str and each == "<dynamic-code>" else each
        for each in arguments
    )
    return make, named, *reduced[2:]


def _pickle_alone(value: Any, by_value: Iterable[str]) -> None:
    _pickle(value, _Seen(), by_value)


def _unimportable(modules: Iterable[LocalModule]) -> set[str]:
    """Those that this process has and a job couldn't import."""
    return {
        local.name
        for local in modules
        if local.path is not None
        and local.name in sys.modules
        and imports(local).client_line is not None
    }


def _lines_of(codes: Iterable[types.CodeType]) -> dict[str, dict[int, str]]:
    """The source lines of that code, by file, for tracebacks: there is no file in the job."""
    wanted: dict[str, set[int]] = {}
    for code in codes:
        _note_lines(code, wanted)
    found: dict[str, dict[int, str]] = {}
    left_chars = MAX_LINES_CHARS
    for filename, numbers in sorted(wanted.items()):
        lines = linecache.getlines(filename)
        for number in sorted(numbers):
            if 0 < number <= len(lines) and left_chars > 0:
                left_chars -= len(lines[number - 1])
                found.setdefault(filename, {})[number] = lines[number - 1]
    return found


def _note_lines(code: types.CodeType, wanted: dict[str, set[int]]) -> None:
    numbers = {line for _, _, line in code.co_lines() if line is not None}
    numbers.add(code.co_firstlineno)
    wanted.setdefault(code.co_filename, set()).update(range(min(numbers), max(numbers) + 1))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _note_lines(constant, wanted)


def _cloudpickle_files() -> list[Path]:
    """The library's own files, as they are installed here."""
    spec = importlib.util.find_spec("cloudpickle")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = sorted(path for folder in folders for path in Path(folder).glob("*.py"))
    if not files:
        raise PackagingError(
            "cloudpickle's files are not to be found, and the job needs them",
            hint="install it in a folder rather than in an archive: pip install cloudpickle",
        )
    return files
