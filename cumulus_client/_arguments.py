"""A call's arguments and a job's result, as bytes and back."""

import io
import json
import math
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cumulus_client._callables import client_part
from cumulus_client._faults import find_fault, told_fault
from cumulus_client.exceptions import PackagingError, ResultError

#: The script, as Python calls it.
MAIN = "__main__"
#: A call's files in the package.
CALL, CALL_PICKLE = "call.json", "call.pickle"
PICKLED_CALL = json.dumps({"encoding": "pickle", "path": CALL_PICKLE}).encode()
#: Of arguments that name things only: any Python of a job reads it.
PICKLE_PROTOCOL = 5
MAX_DEPTH = 200
#: Of pickled arguments, which are made in memory. Files of any size go by `files=`.
MAX_CALL_BYTES = 1 << 30
#: Above this Python refuses to read a decimal integer.
_MAX_INT = 10**4000


def survives_json(value: Any, depth: int = 0) -> bool:
    """Does JSON give back exactly this value, types included?"""
    if depth > MAX_DEPTH:
        return False
    kind = type(value)
    if value is None or kind in (bool, str):
        return True
    if kind is int:
        return bool(-_MAX_INT < value < _MAX_INT)
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(survives_json(item, depth + 1) for item in value)
    if kind is dict:
        return all(
            type(key) is str and survives_json(item, depth + 1) for key, item in value.items()
        )
    return False


class EncodedCall:
    """A call as files of the package."""

    def __init__(self, files: dict[str, bytes], names: dict[str, set[str]]) -> None:
        self.files = files
        self.names = names  #: module -> what the pickle names of it


def encode_call(
    function_name: str,
    func: Callable[..., Any] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> EncodedCall:
    """`call.json`, and `call.pickle` where JSON would change a value or `func` is to go with them.

    `func`: what is to be called, where the package doesn't name it otherwise. Raises
    PackagingError naming the argument that can't travel.
    """
    positional, keyword = list(args), dict(kwargs)
    if func is None and survives_json(positional) and survives_json(keyword):
        body = {"encoding": "json", "args": positional, "kwargs": keyword}
        return EncodedCall({CALL: json.dumps(body).encode()}, {})
    names: dict[str, set[str]] = {}
    try:
        data = _pickle(call_value(func, positional, keyword), names)
    except Exception as error:
        raise refusal(function_name, func, positional, keyword, error, _pickle_alone) from error
    return EncodedCall({CALL: PICKLED_CALL, CALL_PICKLE: data}, names)


def call_value(
    func: Callable[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """What `call.pickle` holds."""
    value = (tuple(args), dict(kwargs))
    return value if func is None else (*value, func)


class CannotTravel(Exception):
    """Raised inside a pickler: the message says why."""


class BoundedBuffer(io.BytesIO):
    """A pickle's bytes, up to what is held in memory."""

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > MAX_CALL_BYTES:
            raise CannotTravel(
                f"pickled it is over the {MAX_CALL_BYTES >> 20} MiB that a call may be; put large "
                "data into files (files=...), or where the job can fetch it"
            )
        return super().write(data)


class _Pickler(pickle.Pickler):
    """Notes whose classes and functions are named, and refuses those a job can't have."""

    def __init__(self, file: io.BytesIO, names: dict[str, set[str]]) -> None:
        super().__init__(file, protocol=PICKLE_PROTOCOL)
        self._names = names

    def reducer_override(self, value: Any) -> Any:
        if client_part(value):
            raise CannotTravel(of_client(value))
        note_name(self._names, value)
        return NotImplemented


def of_client(value: Any) -> str:
    """Why something of the client's can't travel."""
    kind = value.__name__ if isinstance(value, type) else type(value).__name__
    return f"a job has no {kind}, nor anything else of the Cumulus client"


def note_name(names: dict[str, set[str]], value: Any) -> None:
    """Notes the module that a pickle finds `value` in, if it is found by name."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if isinstance(module, str):
        known = names.setdefault(module, set())
        if isinstance(name, str) and (isinstance(value, type) or callable(value)):
            known.add(name.partition(".")[0])


def _pickle(value: Any, names: dict[str, set[str]]) -> bytes:
    file = BoundedBuffer()
    _Pickler(file, names).dump(value)
    return file.getvalue()


def _pickle_alone(value: Any) -> None:
    _pickle(value, {})


def refusal(
    function_name: str,
    func: Callable[..., Any] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    cause: Exception,
    pickle_alone: Callable[[Any], None],
) -> PackagingError:
    """What to raise when a call doesn't pickle: names what of it doesn't. `pickle_alone` raises for
    a value that doesn't."""
    named = [(f"positional argument {index + 1}", value) for index, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for label, value in named:
        found = find_fault(value, pickle_alone)
        if found is not None:
            return PackagingError(
                f"function {function_name!r}: its {label}, a {type(value).__name__}, can't "
                f"travel: {found}",
                hint="pass plain values (numbers, strings, lists, dicts), and make what belongs "
                "to this process or machine (files, locks, connections) inside the function",
            )
    found = None if func is None else find_fault(func, pickle_alone)
    return PackagingError(
        f"function {function_name!r} can't be shipped: {found or told_fault(cause)}",
        hint="pass what it needs as arguments, and make what belongs to this process or machine "
        "(files, locks, connections) inside it",
    )


def decode_result(
    data: bytes | bytearray,
    encoding: str,
    *,
    job_id: str,
    may_unpickle: str | None,
    aliases: Mapping[str, str],
) -> Any:
    """The value of a job's verified result.

    `may_unpickle`: None when pickles may be opened, else why not. `aliases`: module names in the
    job -> here (a script is `__main__` here). Raises ResultError.
    """
    if encoding == "json":
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ResultError(f"the result is no JSON: {error}", job_id=job_id) from error
    if encoding != "pickle":
        raise ResultError(
            f"the result has the unknown encoding {encoding!r}",
            job_id=job_id,
            hint="is the daemon newer than this client?",
        )
    if may_unpickle is not None:
        raise ResultError(
            f"the result is pickled and was not opened: {may_unpickle}",
            job_id=job_id,
            hint="opening a pickle runs code; return plain values (numbers, strings, lists, "
            "dicts) to get JSON instead, or write the rest to a file below CUMULUS_OUTPUT_DIR and "
            "download it",
        )
    try:
        return _Unpickler(_Reader(data), aliases).load()
    except (Exception, SystemExit) as error:  # a script that it imports may leave
        raise ResultError(
            f"the pickled result can't be opened here: {type(error).__name__}: {error}",
            job_id=job_id,
            hint="is the library that its type comes from installed here, in the same version?",
        ) from error


class _Reader:
    """Bytes as `pickle` reads them, without a second copy of all: results may be large."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data
        self._view = memoryview(data)
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """At most so many bytes."""
        begin, self._at = self._at, min(self._at + size, len(self._view))
        return bytes(self._view[begin : self._at])

    def readinto(self, buffer: Any, /) -> int:
        """Fills the buffer as far as there is something; how far."""
        target = memoryview(buffer).cast("B")
        begin, self._at = self._at, min(self._at + len(target), len(self._view))
        target[: self._at - begin] = self._view[begin : self._at]
        return self._at - begin

    def readline(self) -> bytes:
        """To the next newline."""
        end = self._data.find(b"\n", self._at) + 1
        return self.read((end or len(self._view)) - self._at)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: _Reader, aliases: Mapping[str, str]) -> None:
        super().__init__(file)
        self._aliases = aliases

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = self._aliases.get(module_name, module_name)
        found: Any = sys.modules.get(name)
        if found is None:
            return super().find_class(name, global_name)
        # Not by an import: a module that waits for this very result while it is being imported
        # holds its lock, and this may be another thread.
        for part in global_name.split("."):
            found = getattr(found, part)
        return found
