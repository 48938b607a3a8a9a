"""Job records as JSON, for the checkpoint: strict, an exact round trip, with a version.

The encoding follows the fields of `cumulusd.jobs.model`, so a field that is added or renamed there
changes the format: `cumulusd.jobs.versions` says what to do then. Tests hold every version against
a golden record.
"""

import json
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any

import attrs

from cumulusd.jobs import versions
from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.quick_decode import Odd, decoder
from cumulusd.jobs.quick_encode import encoder


class RecordUnreadable(ValueError):
    """The text is no job record of a version that this daemon knows. The message says why."""


class RecordNewer(RecordUnreadable):
    """The record is of a version that only a newer daemon knows: nothing is wrong with it."""


def encode(record: JobRecord) -> dict[str, Any]:
    """The record as a JSON-able dict; `version` tells the format.

    Open mappings (`Wait.details`, `End.error`) must themselves hold JSON values.
    """
    return {"version": versions.VERSION, **encoder(JobRecord)(record)}


def decode(value: Mapping[str, Any]) -> JobRecord:
    """The record again. Raises RecordUnreadable, also on missing and unknown keys."""
    version = value.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise RecordUnreadable(f"a job record has the version {version!r}, which is no number")
    if version > versions.VERSION:
        raise RecordNewer(
            f"a job record has version {version}, this daemon reads versions 1 to "
            f"{versions.VERSION}: it was written by a newer version of cumulusd"
        )
    if version < 1:
        raise RecordUnreadable(f"a job record has version {version}, which never was")
    body = {key: item for key, item in value.items() if key != "version"}
    try:
        body = versions.upgraded(body, version)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordUnreadable(
            f"a job record says it has version {version}, but isn't like one: {error!r}"
        ) from error
    record: JobRecord
    try:
        record = decoder(JobRecord)(body)
    except Odd:
        record = _decode_attrs(JobRecord, body, "record")  # which says what is wrong
    return record


def dumps(record: JobRecord) -> str:
    """The record as JSON text, ASCII only. Raises TypeError or ValueError on other values."""
    return json.dumps(encode(record), separators=(",", ":"), allow_nan=False)


def loads(text: str) -> JobRecord:
    """The record from JSON text. Raises RecordUnreadable."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RecordUnreadable(f"a job record is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise RecordUnreadable("a job record is no JSON object")
    return decode(value)


@cache
def _types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in attrs.fields(cls)}


def _decode_attrs(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordUnreadable(f"{where} is {_name(value)}, not an object")
    wanted = _types(cls)
    missing, unknown = wanted.keys() - value.keys(), value.keys() - wanted.keys()
    if missing or unknown:
        raise RecordUnreadable(
            f"{where}: missing keys {sorted(missing)}, unknown keys {sorted(unknown)}"
        )
    return cls(**{key: _decode(wanted[key], item, f"{where}.{key}") for key, item in value.items()})


def _decode(wanted: Any, value: Any, where: str) -> Any:
    """`value` as the type `wanted`: only the kinds of types that the model uses."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (only,) = (each for each in arguments if each is not type(None))
        return _decode(only, value, where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise RecordUnreadable(f"{where} is {_name(value)}, not an object")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if attrs.has(wanted):
        return _decode_attrs(wanted, value, where)
    return _decode_scalar(wanted, value, where)


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise RecordUnreadable(f"{where} is {_name(value)}, not a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise RecordUnreadable(f"{where} has {len(value)} items, not {len(arguments)}")
    return tuple(
        _decode(wanted, item, f"{where}[{index}]")
        for index, (wanted, item) in enumerate(zip(arguments, value, strict=True))
    )


def _decode_scalar(wanted: type, value: Any, where: str) -> Any:
    if issubclass(wanted, StrEnum):
        try:
            return wanted(value)
        except ValueError:
            raise RecordUnreadable(f"{where} is {value!r}, no {wanted.__name__}") from None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    # bool is an int to isinstance, but not here.
    if type(value) is not wanted:
        raise RecordUnreadable(f"{where} is {_name(value)}, not {wanted.__name__}")
    return value


def _name(value: Any) -> str:
    return type(value).__name__
