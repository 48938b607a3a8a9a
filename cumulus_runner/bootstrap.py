"""Runs the job's code: `python -u bootstrap.py CALL.json`, by the job's own Python (3.9 or newer).

On its own: standard library only, and nothing of Cumulus, for this Python may be another than the
runner's. The call says where things are::

    {"work", "manifest": {...}, "report", "result", "result_max_bytes", "gpu_memory_bytes"}

and the report, written last and at once, how it went; no report: the code left by itself::

    {"state": "returned", "encoding": "json"|"pickle"}           the value is in the file `result`
    {"state": "finished"}                                        a script came to its end
    {"state": "raised", "error": {type, module, message, traceback}, "hint", "disk_full"}
    {"state": "missing"|"unreturnable"|"invalid", "message", "hint"}
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import TracebackException
    from typing import Any, BinaryIO

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_TRACEBACK_CHARS = 256 << 10
MAX_MESSAGE_CHARS = 16 << 10
#: Disk kept back for the report, in case the code fills it.
RESERVE_BYTES = 256 << 10
#: What is told of an error that a full disk leaves little room for.
SHORT_CHARS = 1000
MAX_DEPTH = 200
#: How a variable says no.
FALSE = ("", "0", "false", "no", "off")
#: Python refuses to read longer integers back from text.
MAX_INTEGER_BITS = 10_000


class CallFailed(Exception):
    """What ends the call before or after the user's code; carries the report."""

    def __init__(
        self, state: str, message: str, hint: str | None = None, disk_full: bool = False
    ) -> None:
        super().__init__(message)
        self.report: dict[str, Any] = {"state": state, "message": message, "hint": hint}
        if disk_full:
            self.report["disk_full"] = True


class ResultTooLarge(Exception):
    """The pickled value is over its bound."""


def main(call_path: str) -> int:
    """Runs the call; the exit code."""
    import json

    process = os.getpid()
    with open(call_path, encoding="utf-8") as file:
        call = json.load(file)
    manifest = call["manifest"]
    keep_back(call["report"])
    if call["gpu_memory_bytes"] is not None:
        watch = load_beside("inside", "runtime", "_imports.py").watch
        load_beside("frameworks.py").install(call["gpu_memory_bytes"], watch)
    try:
        watch_training()
        report: dict[str, Any]
        if manifest["kind"] == "script":
            run_script(call["work"], manifest)
            report = {"state": "finished"}
        else:
            value = call_function(call["work"], manifest)
            if os.getpid() != process:
                return 0
            report = save_result(value, call["result"], call["result_max_bytes"])
    except CallFailed as failed:
        report = failed.report
    except SystemExit:
        raise
    except BaseException as error:
        report = {"state": "raised", "error": describe(error), "hint": hint_for(error)}
        if is_disk_full(error):
            report["disk_full"] = True
    if os.getpid() != process:
        return 1  # a child that the code forked: its end isn't the job's
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # the code closed or replaced it
    save_report(report, call["report"])
    return 0 if report["state"] in ("returned", "finished") else 1


def load_beside(*place: str) -> Any:
    """A file beside this one, not to be found by the code as a module of that name."""
    from importlib.util import module_from_spec, spec_from_file_location

    name = "cumulus_" + place[-1].partition(".")[0]
    spec = spec_from_file_location(name, os.path.join(HERE, *place))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def watch_training() -> None:
    """Automatic checkpoints, where the job asks for them. Its own `runtime` is left alone."""
    if os.environ.get("CUMULUS_AUTO_CHECKPOINT", "").strip().lower() in FALSE:
        return
    from importlib.util import find_spec

    spec = find_spec("runtime")
    if spec is None or spec.origin != os.path.join(HERE, "inside", "runtime", "__init__.py"):
        sys.stderr.write(
            "cumulus: no automatic checkpoints (CUMULUS_AUTO_CHECKPOINT): the job's code has a "
            "module `runtime` of its own, which stands in front of Cumulus's; rename it\n"
        )
        return
    from importlib import import_module

    import_module("runtime").get_auto_checkpoint_manager()


def run_script(work: str, manifest: dict[str, Any]) -> None:
    """Runs a script as `__main__`, which it stays, so that what it pickles is found there."""
    import io
    import types

    path = os.path.join(work, manifest["path"])
    sys.argv = [path, *manifest.get("argv", [])]
    if os.path.dirname(path) != work:
        sys.path.insert(1, os.path.dirname(path))
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


def call_function(work: str, manifest: dict[str, Any]) -> object:
    """Imports the function, calls it and gives its value."""
    import importlib

    name, function_name = manifest["module"], manifest["function"]
    sys.argv = [name]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise CallFailed("missing", f"the package has no module {name}") from error
    function = module
    for part in function_name.split("."):
        try:
            function = getattr(function, part)
        except AttributeError as error:
            raise CallFailed(
                "missing", f"the module {name} has no function {function_name}"
            ) from error
    if not callable(function):
        raise CallFailed("missing", f"{name}.{function_name} can't be called")
    args, kwargs = load_arguments(work, manifest["call"])
    return function(*args, **kwargs)


def load_arguments(work: str, call_name: str) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of the call."""
    import json

    try:
        with open(os.path.join(work, call_name), encoding="utf-8") as file:
            call = json.load(file)
        if call["encoding"] == "json":
            args, kwargs = call.get("args", []), call.get("kwargs", {})
        elif call["encoding"] == "pickle":
            import pickle

            with open(os.path.join(work, call["path"]), "rb") as data:
                args, kwargs = pickle.load(data)
        else:
            raise ValueError(f"unknown encoding {call['encoding']!r}")
        return list(args), dict(kwargs)
    except Exception as error:
        raise CallFailed(
            "invalid",
            f"the call's arguments can't be read: {type(error).__name__}: {error}",
            "Types among the arguments must be importable in the job: ship their module with the "
            "code, or name their package in `requirements`.",
        ) from error


def save_result(value: object, path: str, max_bytes: int) -> dict[str, Any]:
    """Writes the value: JSON when that loses nothing, else a pickle. The report of it."""
    import json
    import pickle

    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        plain = is_plain(value, MAX_DEPTH)
    except RuntimeError:  # a container that changes under a thread of the code
        plain = False
    try:
        with open(path, "wb") as file:
            bounded = BoundedFile(file, max_bytes)
            if plain:
                text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
                bounded.write(text.encode())
                return {"state": "returned", "encoding": "json"}
            pickle.dump(value, bounded, protocol=min(5, pickle.HIGHEST_PROTOCOL))
            return {"state": "returned", "encoding": "pickle"}
    except ResultTooLarge:
        raise CallFailed(
            "unreturnable",
            f"the returned value of type {kind} is over {max_bytes} bytes",
            "Return less, or write it where the job may keep files and return the path.",
        ) from None
    except Exception as error:
        raise CallFailed(
            "unreturnable",
            f"the returned value of type {kind} can't be saved: {type(error).__name__}: {error}"
            if is_disk_full(error)
            else f"the returned value of type {kind} can't be pickled: "
            f"{type(error).__name__}: {error}",
            "Return plain data: numbers, text, lists, dicts, arrays.",
            is_disk_full(error),
        ) from error


class BoundedFile:
    """What `pickle` writes to, up to a bound."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._left = max_bytes

    def write(self, data: Any) -> int:
        """Writes or raises ResultTooLarge."""
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise ResultTooLarge
        self._file.write(data)
        return size


def is_plain(value: Any, depth: int) -> bool:
    """JSON gives exactly this value back: exact types, finite numbers, clean text."""
    kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is str:
        return value.isascii() or is_clean(value)
    if kind is int:
        return bool(value.bit_length() <= MAX_INTEGER_BITS)
    if kind is float:
        return bool(value - value == 0.0)  # neither infinite nor NaN
    if depth == 0:
        return False
    if kind is list:
        return all(is_plain(item, depth - 1) for item in value)
    if kind is dict:
        return all(
            type(key) is str and (key.isascii() or is_clean(key)) and is_plain(item, depth - 1)
            for key, item in value.items()
        )
    return False


def is_clean(text: str) -> bool:
    """No lone surrogates: it has a UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe(error: BaseException) -> dict[str, str]:
    """The exception as the ERROR record has it."""
    import traceback

    kind = type(error)
    try:
        message = str(error)
    except Exception as failure:
        message = f"<str() of the exception raised {type(failure).__name__}>"
    try:
        told = traceback.TracebackException(kind, error, error.__traceback__)
        forget_own_frames(told, set())
        text = "".join(told.format())
    except Exception as failure:
        text = f"<the traceback can't be told: {type(failure).__name__}: {failure}>\n"
    return {
        "type": kind.__qualname__,
        "module": kind.__module__,
        "message": shorten(message, MAX_MESSAGE_CHARS),
        "traceback": shorten(text, MAX_TRACEBACK_CHARS),
    }


def forget_own_frames(told: TracebackException | None, seen: set[int]) -> None:
    """Takes this file's frames, and the import system's below them, out of the whole chain."""
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    own = [frame.filename == __file__ for frame in told.stack]
    if any(own):
        last = len(own) - 1 - own[::-1].index(True)
        rest = told.stack[last + 1 :]
        while rest and (
            rest[0].filename.startswith("<frozen importlib")
            or os.path.basename(os.path.dirname(rest[0].filename)) == "importlib"
        ):
            rest = rest[1:]
        told.stack[:] = rest
    forget_own_frames(told.__cause__, seen)
    forget_own_frames(told.__context__, seen)
    for part in getattr(told, "exceptions", None) or ():
        forget_own_frames(part, seen)


def hint_for(error: BaseException) -> str | None:
    """What to do about the commonest errors."""
    if isinstance(error, MemoryError):
        return "The job ran out of memory: ask for more with `memory_bytes`, or use less."
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"If {package} is a package, name it in the job's `requirements`."
    return None


def is_disk_full(error: BaseException | None) -> bool:
    """It, or what it came of, is that a disk or a quota is full."""
    import errno

    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)
    return False


def shorten(text: str, max_chars: int) -> str:
    """The text, or its head and tail when it is longer than that."""
    if len(text) <= max_chars:
        return text
    head = max_chars // 4
    left_out = len(text) - max_chars
    return f"{text[:head]}\n… {left_out} characters left out …\n{text[left_out + head :]}"


def keep_back(path: str) -> None:
    """Some disk for `save_report`, where there is any left."""
    with open(path + ".reserve", "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError:
            return  # full already, or the file system has no such call


def save_report(report: dict[str, Any], path: str) -> None:
    """Whole or not at all; in short where a full disk leaves no room for more."""
    try:
        os.unlink(path + ".reserve")
    except OSError:
        pass  # the code took it
    try:
        write_report(report, path)
    except OSError as error:
        if not is_disk_full(error):
            raise
        told = report.get("error") or {}
        short = {key: shorten(str(text), SHORT_CHARS) for key, text in told.items()}
        write_report({**report, "error": short, "disk_full": True}, path)


def write_report(report: dict[str, Any], path: str) -> None:
    """Raises OSError, and leaves nothing."""
    import json

    try:
        with open(path + ".part", "w", encoding="ascii") as file:
            json.dump(report, file)
        os.replace(path + ".part", path)
    except OSError:
        if os.path.exists(path + ".part"):
            os.unlink(path + ".part")
        raise


if __name__ == "__main__":
    # What we need is imported before the code's own modules can stand in for it.
    WORK = os.getcwd()
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") not in (HERE, WORK)]
    for needed in ("json", "pickle", "traceback"):
        __import__(needed)
    sys.path.insert(0, WORK)
    sys.exit(main(sys.argv[1]))
