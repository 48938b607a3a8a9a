"""Serialisation: what goes in comes out, what can't is refused, garbage raises CodecError only."""

import enum
import json
from typing import Any

import autobahn.twisted  # noqa: F401  (before its serializers, whose clock it gives)
import cbor2
import msgpack
import pytest
from autobahn.wamp.serializer import CBORSerializer, JsonSerializer, MsgPackSerializer
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus_wire.states import JobState
from cumulusd.protocol.codec import CBOR, CODECS, JSON, MSGPACK, BadUriError, Codec, CodecError
from cumulusd.protocol.messages import wamp

ALL = [CBOR, MSGPACK, JSON]
THEIRS = {CBOR: CBORSerializer(), MSGPACK: MsgPackSerializer(), JSON: JsonSerializer()}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


def has_nul_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_nul_text, value.values()))
    if isinstance(value, list):
        return any(map(has_nul_text, value))
    return isinstance(value, str) and value.startswith("\0")


def trip(codec: Codec, value: Any) -> Any:
    message = wamp.Result(1, kwargs={"value": value})
    return codec.decode(codec.encode(message), codec.binary).kwargs["value"]


def test_the_subprotocols() -> None:
    assert list(CODECS) == ["wamp.2.cbor", "wamp.2.msgpack", "wamp.2.json"]


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(ALL))
def test_values_survive_or_are_refused(value: Any, codec: Codec) -> None:
    if codec is JSON and has_nul_text(value):
        with pytest.raises(CodecError, match="begins with NUL"):
            trip(codec, value)
    else:
        assert trip(codec, value) == value


@settings(max_examples=100, deadline=None)
@given(VALUES, st.sampled_from(ALL))
def test_autobahn_reads_the_same(value: Any, codec: Codec) -> None:
    if codec is JSON and has_nul_text(value):
        return
    message = wamp.Result(1, kwargs={"value": value})
    (theirs,) = THEIRS[codec].unserialize(codec.encode(message), codec.binary)
    assert theirs.kwargs == {"value": value}


def test_refused_nul_text_says_where() -> None:
    message = wamp.Result(1, kwargs={"list": [{"out": "\0QUJD"}], "data": b"x"})
    with pytest.raises(CodecError, match=r"list\[0\]\.out is text that begins with NUL"):
        JSON.encode(message)


@pytest.mark.parametrize(
    "value",
    ["a\0b", '"\0x', {"\0key": 1}, [b"", b"\0"], ["\\u0000", '"\\u0000"'], {"k": b"\0" * 3}],
)
def test_nul_that_is_no_trap_passes(value: Any) -> None:
    assert trip(JSON, value) == value


def test_json_binary_is_the_convention_of_wamp() -> None:
    text = JSON.encode(wamp.Result(1, kwargs={"d": b"ABC"}))
    assert json.loads(text) == [50, 1, {}, [], {"d": "\0QUJD"}]
    assert trip(JSON, b"") == b""


def test_enums_of_text_are_text() -> None:
    for codec in ALL:
        got = trip(codec, {"status": JobState.RUNNING})
        assert got == {"status": "running"} and type(got["status"]) is str


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.NAME)
@pytest.mark.parametrize("value", [object(), Colour.RED, "\ud800"], ids=["object", "enum", "half"])
def test_what_has_no_form_is_refused(codec: Codec, value: Any) -> None:
    with pytest.raises(CodecError):
        codec.encode(wamp.Result(1, kwargs={"value": value}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(value: float) -> None:
    with pytest.raises(CodecError):
        JSON.encode(wamp.Result(1, kwargs={"value": value}))


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.NAME)
def test_deep_nesting_is_refused_not_a_crash(codec: Codec) -> None:
    heads = {CBOR: b"\x81", MSGPACK: b"\x91", JSON: b"["}
    for levels in (5_000, 100_000):
        with pytest.raises(CodecError):
            codec.decode(heads[codec] * levels, codec.binary)


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.NAME)
def test_nesting_as_deep_as_can_arrive_is_written_or_refused(codec: Codec) -> None:
    deep: list[Any] = []
    for _ in range(1100):
        deep = [deep]
    try:
        codec.encode(wamp.Result(1, args=[deep]))
    except CodecError:
        pass


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        (CBOR, cbor2.dumps([50, 1, {}, [cbor2.CBORTag(28, [])]])),  # shareable
        (CBOR, cbor2.dumps([50, 1, {}, [2**80]])),
        (CBOR, cbor2.dumps([50, 1, {}, [cbor2.CBORTag(4711, 1)]])),
        (CBOR, cbor2.dumps([50, 1, {}, [], {"a": {1: 2}}])),
        (MSGPACK, msgpack.packb([50, 1, {}, [msgpack.ExtType(5, b"x")]])),
        (MSGPACK, msgpack.packb([50, 1, {}, [], {"a": {1: 2}}])),
        (MSGPACK, b"\xdd\xff\xff\xff\xff"),  # a list of 4 billion
        (CBOR, b"\x9a\xff\xff\xff\xff"),
        (CBOR, b"\x5a\xff\xff\xff\xff"),
    ],
)
def test_tags_extensions_and_lies_are_refused(codec: Codec, payload: bytes) -> None:
    with pytest.raises(CodecError):
        codec.decode(payload, True)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(ALL), st.booleans())
def test_random_bytes_raise_codec_error_only(payload: bytes, codec: Codec, binary: bool) -> None:
    try:
        codec.decode(payload, binary)
    except CodecError:
        pass


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 5, 6, 8, 16, 17, 32, 33, 34, 35, 36, 48, 49, 50, 64, 65, 68, 70]),
    st.lists(VALUES | st.just({}) | st.just("a.b") | st.integers(0, 9), max_size=6),
)
def test_random_fields_raise_codec_error_only(kind: int, fields: list[Any]) -> None:
    try:
        CBOR.decode(cbor2.dumps([kind, *fields]), True)
    except CodecError:
        pass


def test_a_bad_uri_names_the_request() -> None:
    with pytest.raises(BadUriError) as caught:
        JSON.decode(b'[48,9,{},"a..b"]', False)
    assert (caught.value.request_type, caught.value.request) == (48, 9)


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.NAME)
def test_the_kind_of_frame_must_fit(codec: Codec) -> None:
    payload = codec.encode(wamp.Goodbye())
    codec.decode(payload, codec.binary)
    with pytest.raises(CodecError, match="WebSocket messages"):
        codec.decode(payload, not codec.binary)


def test_ids_begin_at_1() -> None:
    for raw in ([48, 0, {}, "a.b"], [70, 0, {}], [32, 0, {}, "a.b"]):
        with pytest.raises(CodecError, match="ids begin at 1"):
            CBOR.decode(cbor2.dumps(raw), True)


def test_undefined_of_javascript_is_as_in_its_json() -> None:
    undefined = {CBOR: cbor2.undefined, MSGPACK: msgpack.ExtType(0, b"\0")}
    for codec, dumps in ((CBOR, cbor2.dumps), (MSGPACK, msgpack.packb)):
        nothing = undefined[codec]
        raw = [48, 1, {"timeout": nothing}, "a.b", [1, nothing], {"x": {"y": nothing}, "z": "\xf7"}]
        message = codec.decode(dumps(raw), True)
        assert (message.timeout, message.args) == (None, [1, None])
        assert message.kwargs == {"x": {}, "z": "\xf7"}


@pytest.mark.parametrize("extension", [(0, b""), (0, b"\1"), (1, b"\0")])
def test_other_extensions_are_refused(extension: tuple[int, bytes]) -> None:
    with pytest.raises(CodecError, match="is not WAMP"):
        MSGPACK.decode(msgpack.packb([48, 1, {}, "a.b", [msgpack.ExtType(*extension)]]), True)
