"""A call by the source of what it reaches: reduced modules, whole ones, arguments by name.

The function's own module travels reduced to what the function reaches (`source_slice`), and so does
the script where arguments are of its classes; other local modules travel whole; installed packages
travel by name, in the job's requirements.
"""

import inspect
import linecache
import os
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulus_client._arguments import CALL, CALL_PICKLE, MAIN, encode_call
from cumulus_client._callables import is_plain_function, short_name, told_name, unwrap
from cumulus_client._local_modules import (
    Finder,
    LocalModule,
    collect,
    imports,
    is_local_file,
    module_path,
)
from cumulus_client._module_syntax import imports_of, syntax_of
from cumulus_client._package_zip import Contents
from cumulus_client._remembered_code import Code, Memory, Witness
from cumulus_client._remote_error import MAIN_PREFIX
from cumulus_client.exceptions import PackagingError
from cumulus_client.source_slice import slice_module

_memory = Memory()


@dataclass
class Made:
    """A call in a package's contents."""

    manifest: dict[str, Any]
    #: module names in the job -> here
    aliases: dict[str, str] = field(default_factory=dict)
    needs_python: str | None = None


@dataclass
class _Reduced:
    """A module that travels reduced."""

    name: str
    job_name: str
    place: str
    source: bytes
    needs: list[str]
    origin: str


def add_by_source(
    contents: Contents, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Made:
    """Adds the call. `func` may be anything that pickles by name; a top-level function needs no
    pickle. Raises PackagingError."""
    name = told_name(func)
    by_name = is_plain_function(func)
    function = func if by_name and isinstance(func, types.FunctionType) else None
    module = None if function is None else _module_of(function)
    call = encode_call(name, None if by_name else func, args, kwargs)
    code = _code_of(func, function, module, call.names)
    for place, data in (*code.files.items(), *call.files.items()):
        contents.add(place, data)
    manifest: dict[str, Any] = {"version": 1, "call": CALL}
    if function is not None and module is not None:
        manifest |= {
            "kind": "function",
            "module": code.module or module.__name__,
            "function": function.__name__,
        }
    else:
        manifest["kind"] = "callable"
    if code.aliases and CALL_PICKLE in call.files:
        # What a pickle calls by its name here has another one there.
        manifest["aliases"] = {here: there for there, here in code.aliases.items()}
    manifest["origins"] = dict(code.origins)
    return Made(manifest=manifest, aliases=dict(code.aliases))


def _code_of(
    func: Callable[..., Any],
    function: types.FunctionType | None,
    module: types.ModuleType | None,
    names: Mapping[str, set[str]],
) -> Code:
    """The code for a call of `func`: `function` of `module`, or pickled; `names`: module -> what a
    pickle names of it. Raises PackagingError."""
    roots: dict[str, list[str]] = {}
    if function is not None and module is not None:
        roots[module.__name__] = [function.__name__]
    for module_name, wanted in names.items():
        if module_name in roots or module_name == MAIN:
            known = roots.setdefault(module_name, [])
            known += sorted(one for one in wanted if one and one not in known)
    key = (
        None if function is None else id(function),
        tuple((module_name, *wanted) for module_name, wanted in roots.items()),
        frozenset(names),
    )
    remembered = _memory.recall(key, function)
    if remembered is not None:
        return remembered
    witness = Witness(function)
    reduced = [
        _reduce(sys.modules[module_name], wanted, function if number == 0 else None, witness)
        for number, (module_name, wanted) in enumerate(roots.items())
    ]
    made = [one for one in reduced if one is not None]
    files = {one.place: one.source for one in made}
    origins = {one.place: one.origin for one in made}
    needed = [one for one in names if one not in {each.name for each in made}]
    needed += [need for one in made for need in one.needs]
    # A module that another reduced one imports may be wanted whole.
    lone = [one.name for one in made if not any(one.name in other.needs for other in made)]
    finder = Finder(sys.path, loaded=True)
    locals_ = collect(needed, finder, reduced=lone[0] if lone else None)
    _take_modules(files, short_name(func), locals_, origins)
    called = None if module is None else module.__name__
    code = Code(
        files=files,
        origins=origins,
        aliases={one.job_name: one.name for one in made if one.job_name != one.name},
        module=next((one.job_name for one in made if one.name == called), None),
    )
    if witness.settle(finder, (one.path for one in locals_.values() if one.path is not None)):
        _memory.keep(key, code, witness)
    return code


def add_modules(
    contents: Contents, name: str, modules: Mapping[str, LocalModule], origins: dict[str, str]
) -> None:
    """Adds local modules whole. `name`: of what needs them. Raises PackagingError."""
    files: dict[str, bytes] = {}
    _take_modules(files, name, modules, origins)
    for place, data in files.items():
        contents.add(place, data)


def _take_modules(
    files: dict[str, bytes],
    name: str,
    modules: Mapping[str, LocalModule],
    origins: dict[str, str],
) -> None:
    for local in modules.values():
        if local.path is None:
            continue
        check_shippable(name, local)
        files[local.archive_name] = _read(local)
        origins[local.archive_name] = local.path


def _read(local: LocalModule) -> bytes:
    assert local.path is not None
    try:
        return Path(local.path).read_bytes()
    except OSError as error:
        raise PackagingError(
            f"the local module {local.name!r} ({local.path}) can't be read: {error}"
        ) from error


def check_shippable(function_name: str, local: LocalModule) -> None:
    """Raises PackagingError for a module that a job couldn't import."""
    line = imports(local).client_line
    if line is not None:
        raise PackagingError(
            f"function {function_name!r} imports the local module {local.name!r}, which imports "
            f"cumulus_client ({local.path}, line {line}); a job doesn't have that",
            hint=f"move what the function needs out of {local.name!r} into a module of its own, "
            "or import cumulus_client inside the functions that submit jobs",
        )


def _reduce(
    module: types.ModuleType,
    roots: list[str],
    function: types.FunctionType | None,
    witness: Witness,
) -> _Reduced | None:
    """`function`: the one of it that is to be called. None for an installed module."""
    namespace = witness.namespace(module)
    path = _source_file(module, roots[0], function)
    if path is None:
        return None
    lines = _lines(roots[0], path)
    witness.source(path, lines)
    source = "".join(lines)
    if function is not None:
        _check_current(function, source, path)
    text = slice_module(source, namespace, roots, filename=os.path.basename(path), unwrap=unwrap)
    job_name, parent = _name_in_job(module, path)
    needs = [*imports_of(text).names(parent), *([parent] if parent else [])]
    return _Reduced(
        name=module.__name__,
        job_name=job_name,
        place=module_path(job_name, is_package=_is_package(module)),
        source=text.encode(),
        needs=needs,
        origin=path,
    )


def _module_of(function: types.FunctionType) -> types.ModuleType:
    module = sys.modules.get(function.__module__ or "")
    name = function.__name__
    if module is None:
        raise PackagingError(
            f"function {name!r} can't be shipped: its module {function.__module__!r} is not "
            "imported",
            hint="define it in an importable module or in the script itself",
        )
    found = unwrap(getattr(module, name, None))
    if found is not function:
        is_now = f"is a {type(found).__name__}" if found is not None else "is not there"
        if inspect.isfunction(found):
            is_now = f"is another function (line {found.__code__.co_firstlineno})"
        raise PackagingError(
            f"function {name!r} can't be shipped: {module.__name__}.{name} {is_now} now",
            hint="give each function a name of its own at the top level of its module",
        )
    return module


def _no_source(name: str) -> PackagingError:
    return PackagingError(
        f"function {name!r} can't be shipped: its source is not available",
        hint="write it into a file (or a notebook cell) and run that",
    )


def _source_file(
    module: types.ModuleType, name: str, function: types.FunctionType | None
) -> str | None:
    """Where the module's source is when it travels with the job; None when it is installed."""
    path = getattr(module, "__file__", None)
    if path is None:
        if function is None:
            raise _no_source(name)
        path = inspect.unwrap(function).__code__.co_filename
        if not linecache.getlines(path):
            raise _no_source(name)
        return str(path)
    if module.__name__ != MAIN and not is_local_file(path):
        return None
    if not path.endswith(".py") and module.__name__ != MAIN:
        raise _no_source(name)
    return str(path)


def _lines(name: str, path: str) -> list[str]:
    linecache.checkcache(path)
    lines = linecache.getlines(path)
    if not lines:
        raise _no_source(name)
    return lines


def _check_current(function: types.FunctionType, source: str, path: str) -> None:
    """Refuses when the file is no longer the one this process runs."""
    name, code = function.__name__, inspect.unwrap(function).__code__
    if code.co_name != name:
        return  # another decorator's wrapper
    try:
        current = syntax_of(source, os.path.basename(path)).begins(name, code.co_firstlineno)
    except SyntaxError:
        current = False
    if not current:
        raise PackagingError(
            f"function {name!r} can't be shipped: {path} was edited after this process read it "
            f"(line {code.co_firstlineno} no longer begins {name!r})",
            hint="run the program again",
        )


def _is_package(module: types.ModuleType) -> bool:
    return module.__name__ != MAIN and hasattr(module, "__path__")


def _name_in_job(module: types.ModuleType, path: str) -> tuple[str, str]:
    """The module's name in the job, and the package its relative imports start from."""
    if module.__name__ != MAIN:
        parent = module.__name__ if _is_package(module) else module.__name__.rpartition(".")[0]
        return module.__name__, parent
    stem = re.sub(r"\W", "_", Path(path).stem) or "script"
    parent = getattr(module, "__package__", None) or ""
    name = MAIN_PREFIX + stem
    return (f"{parent}.{name}" if parent else name), parent
