"""The daemon's quick ways of reading and writing WAMP, beside the slow ones they stand for."""

import json
from typing import Any

from autobahn.wamp import message as _messages_of_autobahn

from cumulusd.protocol import wamp_json
from cumulusd.protocol.codec import JSON, CodecError
from tests.fuzz.fuzz_engine import Finding, Tally, Target
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_messages import ANY_MESSAGE, URIS, as_json, valid_messages

_AUTOBAHN: dict[int, Any] = {
    cls.MESSAGE_TYPE: cls
    for cls in vars(_messages_of_autobahn).values()
    if isinstance(cls, type) and getattr(cls, "MESSAGE_TYPE", None)
}


def _outcome(function: Any, value: Any) -> tuple[Any, BaseException | None]:
    try:
        return function(value), None
    except (ValueError, TypeError, RecursionError) as error:
        return None, error


def _plain_json(payload: bytes) -> Any:
    value = json.loads(payload.decode("utf-8"), parse_constant=wamp_json._refuse_constant)
    return wamp_json._restore_binary(value)


def _fields(raw: list[Any]) -> list[Any]:
    """Left-out positional arguments are an empty list, whoever writes it; empty ones at the end
    are none."""
    fields = [[] if field is None else field for field in raw]
    while len(fields) > 3 and fields[-1] in ([], {}) and len(fields) > _LEAST.get(raw[0], 99):
        fields.pop()
    return fields


#: How many fields a message with arguments has beside them.
_LEAST = {48: 4, 16: 4, 70: 3, 8: 5, 36: 4, 50: 3, 68: 4}


def check_meaning(message: Any, raw: list[Any]) -> None:
    """Raises Finding when Autobahn refuses the raw message, or takes it for another."""
    try:
        heavy = _AUTOBAHN[message.MESSAGE_TYPE].parse(raw)
    except Exception as error:
        raise Finding(f"taken for {message!r:.300}, which Autobahn refuses: {error}") from error
    said, meant = _fields(message.marshal()), _fields(heavy.marshal())
    if repr(said) != repr(meant):
        raise Finding(f"taken for {said!r:.300}, by Autobahn for {meant!r:.300}")


class Agreement(Target):
    """JSON as the daemon reads and writes it, beside the standard library and Autobahn: what it
    takes they take too, and it means the same."""

    batch = 600

    def make(self, source: Source, count: int) -> list[bytes]:
        valid = valid_messages(URIS).map(as_json)
        names = ("agreement", "wamp", "wamp-json")
        return source.mixed(ANY_MESSAGE.map(as_json) | valid, names, count)

    def run(self, data: bytes) -> Tally:
        value, refusal = _outcome(wamp_json.loads, data)
        plain, plain_refusal = _outcome(_plain_json, data)
        if repr(value) != repr(plain) or (refusal is None) != (plain_refusal is None):
            raise Finding(
                f"read as {value!r:.300} ({refusal!r:.200}), by the standard library as "
                f"{plain!r:.300} ({plain_refusal!r:.200})"
            )
        if refusal is not None:
            return Tally(1, 1)
        written, refusal = _outcome(wamp_json.dumps, value)
        if refusal is None and repr(_plain_json(written)) != repr(value):
            raise Finding(f"{value!r:.300} is written as {written!r:.300}")
        try:
            message = JSON.decode(data, False)
        except CodecError:
            return Tally(1, 1)
        check_meaning(message, plain)
        return Tally(1)
