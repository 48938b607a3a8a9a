"""The model's classes as JSON-able values, quickly: every checkpoint goes through here.

A function for each class is put together once, of what its fields are. The counterpart of
`cumulusd.jobs.quick_decode`.
"""

import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any

import attrs

Encode = Callable[[Any], Any]


@cache
def encoder(cls: type) -> Encode:
    """For an attrs class of the model: gives its JSON object. Raises TypeError on a mapping's key
    that is no string."""
    hints = typing.get_type_hints(cls)
    fields = [(field.name, _of(hints[field.name])) for field in attrs.fields(cls)]
    names = tuple(name for name, _ in fields)
    others = tuple((name, encode) for name, encode in fields if encode is not None)

    def encode(value: Any) -> dict[str, Any]:
        # All of them first: the order of the fields is the text's.
        found = {name: getattr(value, name) for name in names}
        for name, encode_field in others:
            item = found[name]
            if item is not None:
                found[name] = encode_field(item)
        return found

    return encode


def _of(wanted: Any) -> Encode | None:
    """What encodes a value of that type; None: it is taken as it is."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return _any
    if origin in (types.UnionType, typing.Union):
        (only,) = (each for each in arguments if each is not types.NoneType)
        return _of(only)
    if origin is tuple:
        return _tuple(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(_of(arguments[1]))
    if attrs.has(wanted):
        return encoder(wanted)
    return _member if issubclass(wanted, StrEnum) else None


def _tuple(arguments: tuple[Any, ...]) -> Encode:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        each = _of(arguments[0])
        return list if each is None else lambda value: [each(item) for item in value]
    return list  # the model's others are of plain values


def _mapping(other: Encode | None) -> Encode:
    def encode(value: Mapping[Any, Any]) -> dict[str, Any]:
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string, which JSON needs")
        if other is None:
            return dict(value)
        return {key: other(item) for key, item in value.items()}

    return encode


def _member(value: StrEnum) -> str:
    return value.value


def _any(value: Any) -> Any:
    """Of an open mapping: JSON values, or what is like one."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple | list):
        return [_any(item) for item in value]
    if isinstance(value, Mapping):
        return _mapping(_any)(value)
    return value
