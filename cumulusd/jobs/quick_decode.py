"""Checkpointed values as the model's classes, quickly: a start reads a hundred thousand of them.

A function for each class is put together once, of what its fields are. It takes exactly what
`cumulusd.jobs.codec` takes, but doesn't say what is wrong with the rest.
"""

import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any

import attrs

Decode = Callable[[Any], Any]


class Odd(Exception):
    """The value isn't as its type wants it."""


@cache
def decoder(cls: type) -> Decode:
    """For an attrs class of the model: takes its JSON object. Raises Odd."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in attrs.fields(cls)]
    # What most values are is told by their type alone, without a call.
    fields = [(name, *_of(hints[name])) for name in names]
    count = len(fields)

    def decode(value: Any) -> Any:
        if type(value) is not dict or len(value) != count:
            raise Odd
        try:
            return cls(
                **{
                    name: item if type(item := value[name]) in plain else other(item)
                    for name, plain, other in fields
                }
            )
        except KeyError:
            raise Odd from None

    return decode


def _of(wanted: Any) -> tuple[frozenset[type], Decode]:
    """(types of values that are taken as they are, what takes the others)."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return frozenset(), lambda item: item
    if origin in (types.UnionType, typing.Union):
        (only,) = (each for each in arguments if each is not types.NoneType)
        plain, other = _of(only)
        if types.NoneType in arguments:
            plain |= {types.NoneType}
        return plain, other
    if origin is tuple:
        return frozenset(), _tuple(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return frozenset(), _mapping(arguments[1])
    if attrs.has(wanted):
        return frozenset(), decoder(wanted)
    if issubclass(wanted, StrEnum):
        return frozenset(), _member(wanted)
    return frozenset({wanted, int} if wanted is float else {wanted}), _refuse


def _tuple(arguments: tuple[Any, ...]) -> Decode:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        plain, other = _of(arguments[0])

        def decode_all(value: Any) -> Any:
            if type(value) is not list:
                raise Odd
            return tuple([item if type(item) in plain else other(item) for item in value])

        return decode_all
    each = [_of(argument) for argument in arguments]

    def decode(value: Any) -> Any:
        if type(value) is not list or len(value) != len(each):
            raise Odd
        pairs = zip(value, each, strict=True)
        return tuple(
            [item if type(item) in plain else other(item) for item, (plain, other) in pairs]
        )

    return decode


def _mapping(wanted: Any) -> Decode:
    plain, other = _of(wanted)

    def decode(value: Any) -> Any:
        if type(value) is not dict:
            raise Odd
        return {key: item if type(item) in plain else other(item) for key, item in value.items()}

    return decode


def _member(wanted: type[StrEnum]) -> Decode:
    members = {member.value: member for member in wanted}

    def decode(value: Any) -> Any:
        member = members.get(value) if type(value) is str else None
        if member is None:
            raise Odd
        return member

    return decode


def _refuse(value: Any) -> Any:
    raise Odd
