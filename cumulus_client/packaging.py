"""A function or a script as a package: source, arguments and manifest in one zip.

The function's own module travels reduced to what the function reaches (`source_slice`); other
local modules travel whole; installed packages travel by name, in the job's requirements. Equal
code and arguments give an equal zip, so that a known package is not uploaded again.
"""

import ast
import functools
import hashlib
import inspect
import io
import json
import linecache
import os
import re
import sys
import traceback
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulus_client._arguments import encode_call
from cumulus_client._local_modules import (
    Finder,
    LocalModule,
    client_import_line,
    collect,
    imported_names,
    is_local_file,
    module_path,
    parse,
)
from cumulus_client._parsing import parse_module
from cumulus_client.exceptions import PackagingError
from cumulus_client.source_slice import slice_module
from cumulus_wire import folder

MAIN_PREFIX = "cumulus_main_"
MAX_PACKAGE_BYTES = 1 << 30
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Package:
    """A finished package. `aliases`: module names in the job -> here, for pickled results."""

    name: str
    data: bytes = field(repr=False)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the zip, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Size of the zip."""
        return len(self.data)


def unwrap(value: Any) -> Any:
    """The plain function of what `@remote` or `@gpu` made of it; anything else as it is."""
    if getattr(type(value), "__cumulus_remote__", False):
        return value.func
    return value


def package_function(
    func: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Package:
    """Packs a call of `func`. Raises PackagingError saying what can't travel and what to do."""
    function = _plain_function(unwrap(func))
    name = function.__name__
    module = _module_of(function)
    source_file = _source_file(function, module)
    shipped = source_file is not None
    call_module = module.__name__
    if call_module == "__main__" and not shipped:
        raise _no_source(name)
    call = encode_call(name, call_module, list(args), dict(kwargs or {}))
    files = dict(call.files)
    finder = Finder(sys.path, loaded=True)
    needed: list[str] = list(call.modules)
    aliases: dict[str, str] = {}
    if source_file is not None:
        source = _source(name, source_file)
        _check_current(function, source, source_file)
        roots = [name, *sorted(n for n in call.names if n and n != name)]
        reduced = slice_module(
            source, vars(module), roots, filename=os.path.basename(source_file), unwrap=unwrap
        )
        job_name, parent = _name_in_job(module, source_file)
        tree = parse_module(reduced)
        needed = [n for n in needed if n != call_module]
        needed += imported_names(tree, parent)
        if parent:
            needed.append(parent)
        files[module_path(job_name, is_package=_is_package(module))] = reduced.encode()
        if job_name != call_module:
            aliases[job_name] = call_module
        call_module = job_name
    for local in collect(needed, finder, reduced=module.__name__ if shipped else None).values():
        if local.path is None:
            continue
        _check_shippable(name, local)
        files[local.archive_name] = Path(local.path).read_bytes()
    manifest = {
        "version": 1,
        "kind": "function",
        "module": call_module,
        "function": name,
        "call": "call.json",
    }
    return Package(name=name, data=_zip(name, manifest, files), aliases=aliases)


def package_script(path: str | os.PathLike[str], argv: Sequence[str] = ()) -> Package:
    """Packs a script and the local modules that it imports. Raises PackagingError."""
    script = Path(path)
    try:
        source = script.read_bytes()
        tree = parse_module(source, str(script))
    except SyntaxError as error:
        shown = "".join(traceback.format_exception_only(error)).rstrip()
        raise PackagingError(f"the script {str(script)!r} is no Python:\n{shown}") from error
    except (OSError, ValueError) as error:
        raise PackagingError(f"the script {str(script)!r} can't be read: {error}") from error
    search = [str(script.resolve().parent)]
    search += [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    finder = Finder(search, loaded=False)
    files = {script.name: source}
    for local in collect(imported_names(tree, ""), finder).values():
        if local.path is not None:
            files.setdefault(local.archive_name, Path(local.path).read_bytes())
    manifest = {"version": 1, "kind": "script", "path": script.name, "argv": list(argv)}
    return Package(name=script.name, data=_zip(script.name, manifest, files))


class CodePackager:
    """The old SDK's packager: what `client.submit` does by itself, as bytes."""

    def __init__(self) -> None:
        self._extra: dict[str, bytes] = {}

    def add_source_file(self, filename: str, content: str | bytes) -> None:
        """One more file in the job's working directory. `filename`: relative, with `/`."""
        if filename.startswith("/") or ".." in filename.split("/"):
            raise PackagingError(f"{filename!r} is outside of the job's working directory")
        self._extra[filename] = content.encode() if isinstance(content, str) else content

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
        package = package_function(func, args or (), kwargs)
        if not self._extra:
            return package.data
        with zipfile.ZipFile(io.BytesIO(package.data)) as made:
            files = {name: made.read(name) for name in made.namelist()}
        manifest = json.loads(files.pop(folder.MANIFEST))
        return _zip(package.name, manifest, {**self._extra, **files})


# --- the function -----------------------------------------------------------------------------


def _plain_function(func: Any) -> types.FunctionType:
    def refuse(what: str, remedy: str) -> PackagingError:
        name = getattr(func, "__qualname__", None) or type(func).__name__
        return PackagingError(f"{name!r} can't be shipped: {what}", hint=remedy)

    wrap = "define a function at the top level of the module that does it, and pass that"
    if isinstance(func, functools.partial):
        raise refuse("it is a functools.partial", "pass the function and args=[...] or keywords")
    if inspect.ismethod(func):
        raise refuse(f"it is a method bound to a {type(func.__self__).__name__}", wrap)
    if inspect.isbuiltin(func) or (inspect.isroutine(func) and not inspect.isfunction(func)):
        raise refuse("it is built in and has no source", wrap)
    if isinstance(func, type):
        raise refuse("it is a class", wrap)
    if not inspect.isfunction(func):
        if callable(func):
            raise refuse(f"it is an instance of {type(func).__name__}, no function", wrap)
        raise PackagingError(
            f"can't ship a {type(func).__name__}: a function is needed", hint="pass a function"
        )
    if func.__name__ == "<lambda>":
        raise refuse("it is a lambda; a later version will take them", "write it as a def")
    if "<locals>" in func.__qualname__:
        outer = func.__qualname__.split(".<locals>")[0]
        raise refuse(
            f"it is nested in {outer!r}; a later version will take such functions",
            "move it to the top level of its module and pass what it needs as arguments",
        )
    if "." in func.__qualname__:
        raise refuse("it is defined in a class", wrap)
    if inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func):
        raise refuse(
            "it is an async function, which isn't supported",
            "wrap it: def main(): return asyncio.run(f())",
        )
    if inspect.isgeneratorfunction(func):
        raise refuse("it is a generator, which can't come back", "return a list instead")
    return func


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


def _source_file(function: types.FunctionType, module: types.ModuleType) -> str | None:
    """Where the module's source is when it travels with the job; None when it is installed."""
    path = getattr(module, "__file__", None)
    if path is None:
        path = inspect.unwrap(function).__code__.co_filename
        if not linecache.getlines(path):
            raise _no_source(function.__name__)
        return str(path)
    if module.__name__ != "__main__" and not is_local_file(path):
        return None
    if not path.endswith(".py") and module.__name__ != "__main__":
        raise _no_source(function.__name__)
    return str(path)


def _source(name: str, path: str) -> str:
    linecache.checkcache(path)
    lines = linecache.getlines(path)
    if not lines:
        raise _no_source(name)
    return "".join(lines)


def _check_current(function: types.FunctionType, source: str, path: str) -> None:
    """Refuses when the file is no longer the one this process runs."""
    name, code = function.__name__, inspect.unwrap(function).__code__
    if code.co_name != name:
        return  # another decorator's wrapper
    starts = set()
    try:
        tree = parse_module(source)
    except SyntaxError:
        starts = {-1}
    else:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                starts |= {d.lineno for d in node.decorator_list[:1]} or {node.lineno}
    if code.co_firstlineno not in starts:
        raise PackagingError(
            f"function {name!r} can't be shipped: {path} was edited after this process read it "
            f"(line {code.co_firstlineno} no longer begins {name!r})",
            hint="run the program again",
        )


def _is_package(module: types.ModuleType) -> bool:
    return module.__name__ != "__main__" and hasattr(module, "__path__")


def _name_in_job(module: types.ModuleType, path: str) -> tuple[str, str]:
    """The module's name in the job, and the package its relative imports start from."""
    if module.__name__ != "__main__":
        parent = module.__name__ if _is_package(module) else module.__name__.rpartition(".")[0]
        return module.__name__, parent
    stem = re.sub(r"\W", "_", Path(path).stem) or "script"
    parent = getattr(module, "__package__", None) or ""
    name = MAIN_PREFIX + stem
    return (f"{parent}.{name}" if parent else name), parent


def _check_shippable(function_name: str, local: LocalModule) -> None:
    line = client_import_line(parse(local))
    if line is not None:
        raise PackagingError(
            f"function {function_name!r} imports the local module {local.name!r}, which imports "
            f"cumulus_client ({local.path}, line {line}); a job doesn't have that",
            hint=f"move what the function needs out of {local.name!r} into a module of its own, "
            "or import cumulus_client inside the functions that submit jobs",
        )


# --- the zip ----------------------------------------------------------------------------------


def _zip(name: str, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    total = sum(len(data) for data in files.values())
    if total > MAX_PACKAGE_BYTES:
        raise PackagingError(
            f"{name!r} and its arguments are {total} B, over the {MAX_PACKAGE_BYTES} B of a "
            "package",
            hint="put large data where the job can fetch it, and pass its address",
        )
    contents = {folder.MANIFEST: json.dumps(manifest).encode(), **files}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(contents):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, contents[path])
    return buffer.getvalue()
