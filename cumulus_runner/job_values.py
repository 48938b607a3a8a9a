"""A call's arguments and its value, in the job's own Python (3.9 or newer).

Loaded by `bootstrap` from beside it: standard library only, and nothing of Cumulus.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, BinaryIO

MAX_DEPTH = 200
PROTOCOL = 5
#: Python refuses to read longer integers back from text.
MAX_INTEGER_BITS = 10_000
#: How deep, and in how many parts of one container, a fault is looked for.
MAX_FAULT_DEPTH = 12
MAX_FAULT_PARTS = 10_000


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


def check_python(manifest: Mapping[str, Any]) -> None:
    """Raises CallFailed where the package holds code of another minor version of Python."""
    needed = manifest.get("python")
    here = "{}.{}".format(*sys.version_info[:2])
    if needed is not None and needed != here:
        raise CallFailed(
            "invalid",
            f"the package holds code pickled by Python {needed}, and the job's Python is {here}",
            f"Submit from Python {here}, or send a plain function of a script or module: its "
            "source runs on any Python.",
        )


def load_vendored(work: str, manifest: Mapping[str, Any]) -> Any:
    """cloudpickle as the package brings it, None when it brings none. The code finds it too."""
    vendor = manifest.get("vendor")
    if vendor is None:
        return None
    import importlib

    path = os.path.join(work, vendor)
    # What was pickled by one version is read by it, whatever the requirements installed.
    sys.path.insert(0, path)
    try:
        return importlib.import_module("cloudpickle")
    finally:
        sys.path.remove(path)


def show_lines(work: str, manifest: Mapping[str, Any], codec: Any) -> None:
    """Lets tracebacks show the source of code that came without its file. `codec`: its `loads`."""
    place = manifest.get("lines")
    if place is None:
        return
    import linecache

    with open(os.path.join(work, place), encoding="utf-8") as file:
        known = codec.loads(file.read())
    for filename, numbered in known.items():
        lines = ["\n"] * max(map(int, numbered))
        for number, line in numbered.items():
            lines[int(number) - 1] = line
        linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)


def load_call(
    work: str, manifest: Mapping[str, Any], codec: Any
) -> tuple[Callable[..., Any] | None, list[Any], dict[str, Any]]:
    """What is to be called, where the call has it, and with which arguments. `codec`: its `loads`
    reads the call. Raises CallFailed."""
    try:
        with open(os.path.join(work, manifest["call"]), encoding="utf-8") as file:
            call = codec.loads(file.read())
        function = None
        if call["encoding"] == "json":
            args, kwargs = call.get("args", []), call.get("kwargs", {})
        elif call["encoding"] == "pickle":
            with open(os.path.join(work, call["path"]), "rb") as data:
                reader = unpickler(data, manifest.get("aliases") or {})
                args, kwargs, *rest = reader.load()
                function = rest[0] if rest else None
                if manifest.get("vendor") is not None:
                    put_in_place(reader.load())
        else:
            raise ValueError(f"unknown encoding {call['encoding']!r}")
        return function, list(args), dict(kwargs)
    except Exception as error:
        raise CallFailed(
            "invalid",
            f"the call's arguments can't be read: {type(error).__name__}: {error}",
            "Types among the arguments must be importable in the job: ship their module with the "
            "code, or name their package in `requirements`, in the version that is used here.",
        ) from error


def put_in_place(tops: Mapping[str, Mapping[str, Any]]) -> None:
    """Makes modules of what came by value, as the submitter has it, so that pickles made here find
    it by name. They are no whole modules: none of them could be imported here."""
    import types

    for name, values in tops.items():
        # `__main__` is ours until now; nothing of ours is looked up there.
        module = sys.modules.get(name) if name != "__main__" else None
        if module is None:
            module = sys.modules[name] = types.ModuleType(name)
        for key, value in values.items():
            vars(module).setdefault(key, value)


def unpickler(file: BinaryIO, aliases: Mapping[str, str]) -> Any:
    """`aliases`: module names as the pickle has them -> here."""
    import pickle

    class Unpickler(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str) -> Any:
            return super().find_class(aliases.get(module_name, module_name), global_name)

    return Unpickler(file)


def save_result(
    value: object,
    path: str,
    max_bytes: int,
    cloudpickle: Any,
    codec: Any,
    load_needed: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Writes the value: JSON, by the `dumps` of `codec`, when that loses nothing, else a pickle.
    The report of it.

    `cloudpickle`: the module, where the code itself came by it. `load_needed`: imports what a
    pickle needs of the standard library, should the code's folders stand in for it. Raises
    CallFailed.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        plain = is_plain(value, MAX_DEPTH)
    except RuntimeError:  # a container that changes under a thread of the code
        plain = False
    try:
        with open(path, "wb") as file:
            bounded = BoundedFile(file, max_bytes)
            if plain:
                text = codec.dumps(value, ascii_only=False, compact=True, finite=True)
                bounded.write(text.encode())
                return {"state": "returned", "encoding": "json"}
            if load_needed is not None:
                load_needed()
            pickler, moved = result_pickler(bounded, cloudpickle)
            pickler.dump(value)
    except ResultTooLarge:
        raise CallFailed(
            "unreturnable",
            f"the returned value of type {kind} is over {max_bytes} bytes",
            "Write it to a file in the folder that the variable CUMULUS_OUTPUT_DIR names, and "
            "fetch it with job.download(); or return less.",
        ) from None
    except Exception as error:
        if is_disk_full(error):
            raise CallFailed(
                "unreturnable",
                f"the returned value of type {kind} can't be saved: {told(error)}",
                "Return plain data: numbers, text, lists, dicts, arrays.",
                True,
            ) from error
        raise CallFailed(
            "unreturnable",
            f"the returned value of type {kind} can't be pickled: "
            f"{find_fault(value, cloudpickle) or told(error)}",
            "Return plain data: numbers, text, lists, dicts, arrays. What belongs to the job's "
            "process (generators, files, locks, connections) can't leave it.",
        ) from error
    if moved:
        print(
            f"cumulus: {len(moved)} tensor(s) of the result were on a GPU; they come back on the "
            "CPU",
            file=sys.stderr,
        )
    return {"state": "returned", "encoding": "pickle"}


def result_pickler(file: Any, cloudpickle: Any) -> tuple[Any, list[str]]:
    """A pickler, and the devices from which it brought tensors to the CPU."""
    import io
    import pickle
    import types

    base: Any = pickle.Pickler if cloudpickle is None else cloudpickle.Pickler
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    main = sys.modules.get("__main__")
    moved: list[str] = []
    if tensor is None and cloudpickle is None:
        return pickle.Pickler(file, protocol=PROTOCOL), moved

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if tensor is not None and type(value) is tensor and value.device.type != "cpu":
                moved.append(str(value.device))
                copy = value.detach().cpu()
                return copy.requires_grad_(value.requires_grad).__reduce_ex__(5)
            if cloudpickle is None:
                return NotImplemented
            named = isinstance(value, (type, types.FunctionType)) and value.__module__ == "__main__"
            if named and getattr(main, value.__qualname__, None) is value:
                return NotImplemented  # by its name, under which the submitter has it
            if isinstance(value, (io.TextIOWrapper, io.BufferedReader, io.BufferedRandom)):
                raise TypeError(f"cannot pickle {type(value).__name__!r} object, an open file")
            return super().reducer_override(value)

    return Pickler(file, protocol=PROTOCOL), moved


class BoundedFile:
    """What `pickle` writes to, up to a bound."""

    def __init__(self, file: Any, max_bytes: int) -> None:
        """`file` None: nothing is kept."""
        self._file = file
        self._left = max_bytes

    def write(self, data: Any) -> int:
        """Writes or raises ResultTooLarge."""
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise ResultTooLarge
        if self._file is not None:
            self._file.write(data)
        return size


def find_fault(value: Any, cloudpickle: Any) -> str | None:
    """Which part of the value doesn't pickle, None when none is found that doesn't."""
    where, fault = "", error_of(value, cloudpickle)
    seen: set[int] = set()
    while fault is not None and len(seen) < MAX_FAULT_DEPTH and id(value) not in seen:
        seen.add(id(value))
        for step, part in parts(value):
            inner = error_of(part, cloudpickle)
            if inner is not None:
                where, value, fault = where + step, part, inner
                break
    if fault is None:
        return None
    return f"its {where} is a {type(value).__name__}: {told(fault)}" if where else told(fault)


def error_of(value: Any, cloudpickle: Any) -> Exception | None:
    """What pickling it raises."""
    try:
        result_pickler(BoundedFile(None, sys.maxsize), cloudpickle)[0].dump(value)
    except Exception as error:
        return error
    return None


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, each part with the words that lead to it."""
    from itertools import islice

    if isinstance(value, dict):
        for key, part in islice(list(value.items()), MAX_FAULT_PARTS):
            yield f"[{repr(key)[:60]}]", part
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(islice(value, MAX_FAULT_PARTS)):
            yield f"[{index}]", part
    elif not isinstance(value, type) and hasattr(value, "__dict__"):
        for name, part in islice(list(vars(value).items()), MAX_FAULT_PARTS):
            yield f".{name}", part


def told(error: BaseException) -> str:
    """`TypeError: cannot pickle 'generator' object`."""
    return f"{type(error).__name__}: {error}"


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
