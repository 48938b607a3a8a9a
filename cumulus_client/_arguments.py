"""A call's arguments and a job's result, as bytes and back."""

import io
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from cumulus_client.exceptions import PackagingError, ResultError
from cumulus_client.source_slice import client_part

PICKLE_PROTOCOL = 4
MAX_DEPTH = 200
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
    """The arguments as files of the package."""

    def __init__(self, files: dict[str, bytes], modules: set[str], names: set[str]) -> None:
        self.files = files
        self.modules = modules  #: modules whose classes the pickle names
        self.names = names  #: of those, what it names in the function's own module


def encode_call(
    function_name: str, module_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> EncodedCall:
    """`call.json`, and `call.pickle` where JSON would change a value.

    Raises PackagingError naming the argument that can't travel.
    """
    positional, keyword = list(args), dict(kwargs)
    if survives_json(positional) and survives_json(keyword):
        body = {"encoding": "json", "args": positional, "kwargs": keyword}
        return EncodedCall({"call.json": json.dumps(body).encode()}, set(), set())
    pickler_seen: dict[str, set[str]] = {}
    try:
        data = _pickle((tuple(positional), keyword), pickler_seen)
    except Exception as error:
        raise _name_the_argument(function_name, positional, keyword, error) from error
    call = {"encoding": "pickle", "path": "call.pickle"}
    return EncodedCall(
        {"call.json": json.dumps(call).encode(), "call.pickle": data},
        set(pickler_seen),
        pickler_seen.get(module_name, set()),
    )


class _CannotTravel(Exception):
    pass


class _Pickler(pickle.Pickler):
    """Notes whose classes and functions are named, and refuses those a job can't have."""

    def __init__(self, file: io.BytesIO, seen: dict[str, set[str]]) -> None:
        super().__init__(file, protocol=PICKLE_PROTOCOL)
        self._seen = seen

    def reducer_override(self, value: Any) -> Any:
        if client_part(value):
            raise _CannotTravel(f"it holds a {_kind(value)} of the Cumulus client")
        if isinstance(value, type) or callable(value):
            module = getattr(value, "__module__", None)
            name = getattr(value, "__qualname__", "")
            if module == "__main__" and name:
                raise _CannotTravel(
                    f"it holds {name!r}, which is defined in the script itself (__main__); pickle "
                    "finds classes and functions by their module, and a job has no such module"
                )
            if isinstance(module, str):
                self._seen.setdefault(module, set()).add(name.partition(".")[0])
        return NotImplemented


def _kind(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _pickle(value: Any, seen: dict[str, set[str]]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, seen).dump(value)
    return file.getvalue()


def _name_the_argument(
    function_name: str, args: Sequence[Any], kwargs: Mapping[str, Any], cause: Exception
) -> PackagingError:
    named = [(f"positional argument {index + 1}", value) for index, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for label, value in named:
        try:
            _pickle(value, {})
        except Exception as error:
            why = str(error) if isinstance(error, _CannotTravel) else f"pickling says: {error}"
            return PackagingError(
                f"function {function_name!r}: its {label}, a {type(value).__name__}, can't "
                f"travel: {why}",
                hint="pass plain values (numbers, strings, lists, dicts), or move the class into "
                "a module of its own beside the script",
            )
    return PackagingError(f"function {function_name!r}: its arguments can't be pickled: {cause}")


def decode_result(
    data: bytes, encoding: str, *, job_id: str, may_unpickle: str | None, aliases: Mapping[str, str]
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
            "dicts) to get JSON instead",
        )
    try:
        return _Unpickler(io.BytesIO(data), aliases).load()
    except Exception as error:
        raise ResultError(
            f"the pickled result can't be opened here: {type(error).__name__}: {error}",
            job_id=job_id,
            hint="is the library that its type comes from installed here, in the same version?",
        ) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, aliases: Mapping[str, str]) -> None:
        super().__init__(file)
        self._aliases = aliases

    def find_class(self, module_name: str, global_name: str) -> Any:
        return super().find_class(self._aliases.get(module_name, module_name), global_name)
