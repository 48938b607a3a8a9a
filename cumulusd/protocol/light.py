"""The messages of every call and event, as light as they can be; `messages.wamp` offers them in
the place of Autobahn's classes of the same names, whose constructors and properties cost more than
all else a router does with a message.

They take the same arguments (but those of payload passthru) and have the same attributes. The
usual forms are read and written here. Everything else (options that are rare or wrong, URIs not
seen before) goes Autobahn's way, so what is accepted and what it means is Autobahn's to say; tests
compare the two.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar

import attrs
from autobahn.wamp import message as _message

_autobahn: Any = _message
_MAX_ID = 2**53
_MAX_CACHED_CHARS = 255
_TEXT = frozenset({str})
Raw = list[Any]


class Light:
    """What all of them have."""

    __slots__ = ()

    MESSAGE_TYPE: ClassVar[int]
    #: Autobahn's class of the same message.
    HEAVY: ClassVar[Any]

    def marshal(self) -> Raw:
        """The raw message; positional arguments left out before keyword arguments are a list."""
        return [[] if field is None else field for field in self.heavy().marshal()]

    def heavy(self) -> Any:
        """The same as Autobahn's message."""
        return self.HEAVY(**{name: getattr(self, name) for name in _names(type(self))})

    @classmethod
    def of(cls, heavy: Any) -> Any:
        """The same as that message of Autobahn's."""
        return cls(**{name: getattr(heavy, name) for name in _names(cls)})


def _names(cls: Any) -> list[str]:
    return [field.name for field in attrs.fields(cls) if field.init]


def _with_arguments(head: Raw, args: Any, kwargs: Any) -> Raw:
    if kwargs:
        head += ([] if args is None else args, kwargs)
    elif args:
        head.append(args)
    return head


@attrs.define
class Call(Light):
    """CALL, which only clients send."""

    MESSAGE_TYPE = 48
    HEAVY = _autobahn.Call

    request: int
    procedure: str
    args: Any = None
    kwargs: Any = None
    timeout: int | None = None
    receive_progress: bool | None = None
    transaction_hash: str | None = None
    caller: int | None = None
    caller_authid: str | None = None
    caller_authrole: str | None = None
    forward_for: Any = None
    _router_internal: Any = attrs.field(default=None, init=False, eq=False)


@attrs.define
class Invocation(Light):
    """INVOCATION."""

    MESSAGE_TYPE = 68
    HEAVY = _autobahn.Invocation

    request: int
    registration: int
    args: Any = None
    kwargs: Any = None
    timeout: int | None = None
    receive_progress: bool | None = None
    caller: int | None = None
    caller_authid: str | None = None
    caller_authrole: str | None = None
    procedure: str | None = None
    transaction_hash: str | None = None
    forward_for: Any = None

    def marshal(self) -> Raw:
        """The raw message."""
        if not (
            self.timeout is None
            and self.caller is None
            and self.caller_authid is None
            and self.caller_authrole is None
            and self.procedure is None
            and self.transaction_hash is None
            and self.forward_for is None
        ):
            return Light.marshal(self)
        progress = self.receive_progress
        options = {} if progress is None else {"receive_progress": progress}
        return _with_arguments(
            [68, self.request, self.registration, options], self.args, self.kwargs
        )


@attrs.define
class _Answer(Light):
    """What YIELD and RESULT have in common."""

    request: int
    args: Any = None
    kwargs: Any = None
    progress: bool | None = None
    callee: int | None = None
    callee_authid: str | None = None
    callee_authrole: str | None = None
    forward_for: Any = None

    def marshal(self) -> Raw:
        """The raw message."""
        if not (
            self.callee is None
            and self.callee_authid is None
            and self.callee_authrole is None
            and self.forward_for is None
        ):
            return Light.marshal(self)
        options = {} if self.progress is None else {"progress": self.progress}
        return _with_arguments([self.MESSAGE_TYPE, self.request, options], self.args, self.kwargs)


@attrs.define
class Yield(_Answer):
    """YIELD, which only clients send."""

    MESSAGE_TYPE = 70
    HEAVY = _autobahn.Yield


@attrs.define
class Result(_Answer):
    """RESULT."""

    MESSAGE_TYPE = 50
    HEAVY = _autobahn.Result


@attrs.define
class Publish(Light):
    """PUBLISH, which only clients send."""

    MESSAGE_TYPE = 16
    HEAVY = _autobahn.Publish

    request: int
    topic: str
    args: Any = None
    kwargs: Any = None
    acknowledge: bool | None = None
    exclude_me: bool | None = None
    exclude: Any = None
    exclude_authid: Any = None
    exclude_authrole: Any = None
    eligible: Any = None
    eligible_authid: Any = None
    eligible_authrole: Any = None
    retain: bool | None = None
    transaction_hash: str | None = None
    forward_for: Any = None
    _router_internal: Any = attrs.field(default=None, init=False, eq=False)


@attrs.define
class Event(Light):
    """EVENT; one object for all its subscribers."""

    MESSAGE_TYPE = 36
    HEAVY = _autobahn.Event

    subscription: int
    publication: int
    args: Any = None
    kwargs: Any = None
    publisher: int | None = None
    publisher_authid: str | None = None
    publisher_authrole: str | None = None
    topic: str | None = None
    retained: bool | None = None
    transaction_hash: str | None = None
    x_acknowledged_delivery: bool | None = None
    forward_for: Any = None
    #: By codec, the event as written: each writes it once.
    written: dict[str, bytes] = attrs.field(factory=dict, init=False, eq=False)

    def marshal(self) -> Raw:
        """The raw message."""
        if not (
            self.publisher is None
            and self.publisher_authid is None
            and self.publisher_authrole is None
            and self.topic is None
            and self.retained is None
            and self.transaction_hash is None
            and self.x_acknowledged_delivery is None
            and self.forward_for is None
        ):
            return Light.marshal(self)
        return _with_arguments(
            [36, self.subscription, self.publication, {}], self.args, self.kwargs
        )


@lru_cache(maxsize=1024)
def _check_uri(uri: str) -> bool:
    """Raises InvalidUriError, which isn't kept."""
    _autobahn.check_or_raise_uri(uri)
    return True


def _is_usual(raw: Raw, position: int) -> bool:
    """Are the id at 1, and the arguments from `position` on, in their usual form?"""
    size = len(raw)
    request = raw[1]
    return (
        type(request) is int
        and 1 <= request <= _MAX_ID
        and position <= size <= position + 2
        and (size == position or type(raw[position]) is list)
        and (size < position + 2 or _is_kwargs(raw[position + 1]))
    )


def _is_kwargs(value: Any) -> bool:
    """Only CBOR and MessagePack can have keys that are no text."""
    return type(value) is dict and _TEXT.issuperset(map(type, value))


def _flag(options: Any, name: str) -> Any:
    """The only option, if it is that one, and a truth value; None without options; else `_RARE`."""
    if type(options) is not dict:
        return _RARE
    if not options:
        return None
    value = options.get(name)
    return value if len(options) == 1 and type(value) is bool else _RARE


_RARE = object()


def _read_call(raw: Raw) -> Call | None:
    if len(raw) < 4 or not _is_usual(raw, 4):
        return None
    uri, progress = raw[3], _flag(raw[2], "receive_progress")
    if progress is _RARE or type(uri) is not str or len(uri) > _MAX_CACHED_CHARS:
        return None
    _check_uri(uri)
    return Call(
        raw[1],
        uri,
        raw[4] if len(raw) > 4 else None,
        raw[5] if len(raw) > 5 else None,
        None,
        progress,
    )


def _read_publish(raw: Raw) -> Publish | None:
    if len(raw) < 4 or not _is_usual(raw, 4):
        return None
    uri, acknowledge = raw[3], _flag(raw[2], "acknowledge")
    if acknowledge is _RARE or type(uri) is not str or len(uri) > _MAX_CACHED_CHARS:
        return None
    _check_uri(uri)
    return Publish(
        raw[1],
        uri,
        raw[4] if len(raw) > 4 else None,
        raw[5] if len(raw) > 5 else None,
        acknowledge,
    )


def _read_yield(raw: Raw) -> Yield | None:
    if len(raw) < 3 or not _is_usual(raw, 3):
        return None
    progress = _flag(raw[2], "progress")
    if progress is _RARE:
        return None
    return Yield(
        raw[1],
        raw[3] if len(raw) > 3 else None,
        raw[4] if len(raw) > 4 else None,
        progress,
    )


#: By message type, what reads the usual form of a raw message; it gives None for any other, and
#: raises Autobahn's InvalidUriError.
READERS: Mapping[int, Callable[[Raw], Any]] = MappingProxyType(
    {
        Call.MESSAGE_TYPE: _read_call,
        Publish.MESSAGE_TYPE: _read_publish,
        Yield.MESSAGE_TYPE: _read_yield,
    }
)
CLASSES: tuple[type[Light], ...] = (Call, Invocation, Yield, Result, Publish, Event)
BY_TYPE: Mapping[int, type[Light]] = MappingProxyType({cls.MESSAGE_TYPE: cls for cls in CLASSES})
