"""Bytes to WAMP messages and back, guarded: nothing a peer sends raises anything but CodecError.

CBOR tags and MessagePack extensions are refused (but JavaScript's `undefined`): WAMP has no use for
them, and shared references would make a small message a huge value. Readers bound nesting (CBOR
here, the others by themselves at about 1000 levels), so what is passed on stays far below the depth
at which cbor2's writer would overflow the stack.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import cbor2
import msgpack  # type: ignore[import-untyped]
from autobahn.wamp.exception import InvalidUriError

from cumulusd.protocol import light, wamp_json
from cumulusd.protocol.messages import DISCLOSING, Message, keep_disclosure, wamp
from cumulusd.protocol.wamp_json import CodecError

__all__ = ["CBOR", "CODECS", "JSON", "MSGPACK", "BadUriError", "Codec", "CodecError"]

_MAX_DEPTH = 64
_CBOR_TAGS = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004),
    *(43000, 55799),
)
_CLASSES: Mapping[int, Any] = MappingProxyType(
    {
        cls.MESSAGE_TYPE: getattr(cls, "HEAVY", cls)
        for cls in (
            wamp.Hello,
            wamp.Welcome,
            wamp.Abort,
            wamp.Challenge,
            wamp.Authenticate,
            wamp.Goodbye,
            wamp.Error,
            wamp.Publish,
            wamp.Published,
            wamp.Subscribe,
            wamp.Subscribed,
            wamp.Unsubscribe,
            wamp.Unsubscribed,
            wamp.Event,
            wamp.Call,
            wamp.Cancel,
            wamp.Result,
            wamp.Register,
            wamp.Registered,
            wamp.Unregister,
            wamp.Unregistered,
            wamp.Invocation,
            wamp.Interrupt,
            wamp.Yield,
        )
    }
)
_FIRST_WITH_ID = wamp.Publish.MESSAGE_TYPE  #: of those that begin with a request's or other id
#: Requests that name a URI and can be answered by ERROR.
_ANSWERABLE = frozenset(
    cls.MESSAGE_TYPE for cls in (wamp.Call, wamp.Register, wamp.Subscribe, wamp.Publish)
)


class BadUriError(CodecError):
    """A request names no valid URI. It is answered if `wants_answer`: a publisher that asked for
    no acknowledgement expects none, and may take it for a fault."""

    def __init__(
        self, text: str, request_type: int, request: int, *, wants_answer: bool = True
    ) -> None:
        super().__init__(text)
        self.request_type = request_type
        self.request = request
        self.wants_answer = wants_answer


class Codec:
    """One serialisation. Stateless but for the cache that each message carries itself: a message
    sent to many sessions is serialised once per codec."""

    def __init__(
        self,
        name: str,
        *,
        binary: bool,
        dumps: Callable[[Any], bytes],
        loads: Callable[[bytes], Any],
    ) -> None:
        self.subprotocol = f"wamp.2.{name}"
        self.binary = binary
        #: What Autobahn's Message.serialize looks for.
        self.NAME = name
        self._dumps = dumps
        self._loads = loads

    def decode(self, payload: bytes, is_binary: bool) -> Message:
        """The message. Raises CodecError, and BadUriError for a request that can be answered."""
        if is_binary != self.binary:
            kind = "binary" if self.binary else "text"
            raise CodecError(f"{self.subprotocol} goes in {kind} WebSocket messages")
        try:
            raw = self._loads(payload)
        except Exception as error:  # the three libraries' own trees, and RecursionError
            raise CodecError(f"no valid {self.NAME}: {error}") from error
        if not isinstance(raw, list) or not raw:
            raise CodecError("a WAMP message is a list that begins with its type")
        kind_id = raw[0]
        if type(kind_id) is int and (read := light.READERS.get(kind_id)) is not None:
            try:
                usual = read(raw)
            except InvalidUriError:  # met again below
                usual = None
            if usual is not None:
                return usual
        cls = _CLASSES.get(kind_id) if type(kind_id) is int else None
        if cls is None:
            raise CodecError(f"there is no WAMP message type {kind_id!r:.40}")
        try:
            message = cls.parse(raw)
        except InvalidUriError as error:
            if kind_id in _ANSWERABLE and len(raw) > 1 and type(raw[1]) is int:
                wants_answer = (
                    kind_id != wamp.Publish.MESSAGE_TYPE or raw[2].get("acknowledge") is True
                )
                raise BadUriError(str(error), kind_id, raw[1], wants_answer=wants_answer) from error
            raise CodecError(str(error)) from error
        except Exception as error:  # AssertionError, TypeError, KeyError...: seen in Autobahn
            text = str(error) or "malformed"
            raise CodecError(f"invalid {cls.__name__.upper()}: {text}") from error
        if getattr(message, "payload", None) is not None:
            raise CodecError("payload passthru mode is not spoken here")
        if kind_id >= _FIRST_WITH_ID and raw[1] == 0:  # Autobahn lets it pass
            raise CodecError(f"invalid {cls.__name__.upper()}: ids begin at 1")
        if (its_class := light.BY_TYPE.get(kind_id)) is not None:
            message = its_class.of(message)
        if kind_id in DISCLOSING and raw[2]:
            keep_disclosure(message, raw[2])
        return message

    def encode(self, message: Message) -> bytes:
        """The bytes. Raises CodecError when a value in it has no form in this serialisation."""
        if isinstance(message, light.Event):
            event = message.written.get(self.NAME)
            if event is None:
                event = message.written[self.NAME] = self._write(message.marshal())
            return event
        if isinstance(message, light.Light):
            return self._write(message.marshal())
        payload: bytes = message.serialize(self)
        return payload

    def serialize(self, raw: Any) -> bytes:
        """Called back by Autobahn's Message.serialize, which keeps the result."""
        # Autobahn writes left-out positional arguments as null; WAMP wants a list there.
        return self._write([[] if field is None else field for field in raw])

    def _write(self, fields: list[Any]) -> bytes:
        try:
            return self._dumps(fields)
        except CodecError:
            raise
        except Exception as error:  # the three libraries' own trees, and RecursionError
            raise CodecError(f"it can't be written as {self.NAME}: {error}") from error


def _refuse_tag(*_: Any) -> NoReturn:
    raise CodecError("CBOR tags are not WAMP")


_SEMANTIC_DECODERS = dict.fromkeys(_CBOR_TAGS, _refuse_tag)


#: What JavaScript's MessagePack writers make of `undefined`: extension 0 with one zero byte.
_MSGPACK_UNDEFINED = b"\xd4\x00\x00"
_CBOR_UNDEFINED = b"\xf7"


def _without_undefined(value: Any) -> Any:
    """JavaScript's `undefined` as its JSON has it: left out of objects, null in lists. Its clients
    write it for options that nobody gave."""
    if value is cbor2.undefined:
        return None
    if isinstance(value, list):
        return [_without_undefined(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _without_undefined(item)
            for key, item in value.items()
            if item is not cbor2.undefined
        }
    return value


def _load_cbor(payload: bytes) -> Any:
    value = cbor2.loads(
        payload,
        tag_hook=_refuse_tag,
        semantic_decoders=_SEMANTIC_DECODERS,
        max_depth=_MAX_DEPTH,
        strict_hashable_types=True,
    )
    return _without_undefined(value) if _CBOR_UNDEFINED in payload else value


def _take_extension(code: int, data: bytes) -> Any:
    if code == 0 and data == b"\0":
        return cbor2.undefined
    raise CodecError(f"MessagePack extension {code} is not WAMP")


def _load_msgpack(payload: bytes) -> Any:
    value = msgpack.unpackb(payload, raw=False, ext_hook=_take_extension)
    return _without_undefined(value) if _MSGPACK_UNDEFINED in payload else value


def _dump_msgpack(raw: Any) -> bytes:
    packed: bytes = msgpack.packb(raw, use_bin_type=True)
    return packed


CBOR = Codec("cbor", binary=True, dumps=cbor2.dumps, loads=_load_cbor)
MSGPACK = Codec("msgpack", binary=True, dumps=_dump_msgpack, loads=_load_msgpack)
JSON = Codec("json", binary=False, dumps=wamp_json.dumps, loads=wamp_json.loads)

#: By WebSocket sub-protocol, in our order of preference.
CODECS: Mapping[str, Codec] = MappingProxyType(
    {codec.subprotocol: codec for codec in (CBOR, MSGPACK, JSON)}
)
