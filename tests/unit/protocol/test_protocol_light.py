"""Light messages and quick JSON are what Autobahn's classes and the standard library say."""

import json
import math
from typing import Any

import attrs
import pytest
from autobahn.wamp import message as autobahn
from autobahn.wamp.exception import InvalidUriError
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulusd.protocol import light, wamp_json
from cumulusd.protocol.codec import CODECS, BadUriError, CodecError

HEAVY = {cls.MESSAGE_TYPE: cls.HEAVY for cls in light.CLASSES}
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**80), 2**80),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
        st.sampled_from(["\0", "\0ab", "\ud800", "\x7f", "é", "😀", "null"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
ids = st.one_of(st.integers(0, 2**53), st.sampled_from([-1, 0, 2**53 + 1, True, 1.0, "1", None]))
options = st.one_of(
    st.just({}),
    st.dictionaries(
        st.sampled_from(
            [
                "receive_progress",
                "progress",
                "acknowledge",
                "timeout",
                "disclose_me",
                "x",
                "ppt",
                "callee",
                "exclude_me",
                "exclude",
                "eligible_authid",
                "forward_for",
                "match",
            ]
        ),
        st.one_of(st.booleans(), st.none(), st.integers(-1, 9), st.just("a"), st.just([1])),
        max_size=2,
    ),
    st.sampled_from([None, [], "o", {1: True}]),
)
uris = st.one_of(
    st.sampled_from(["a.b", "a", "", ".", "a..b", "a b", "a.b\n", "a#", "é.ü", "a" * 300]),
    st.sampled_from([None, 7, b"a.b"]),
    st.text(max_size=6),
)
arguments = st.one_of(
    st.lists(values, max_size=2), st.sampled_from([None, "text", b"binary", 7, {}])
)
kwargs = st.one_of(
    st.dictionaries(st.text(max_size=4), values, max_size=2),
    st.sampled_from([None, [], "x", {1: 2}]),
)


def message(kind: int, with_uri: bool) -> st.SearchStrategy[list[Any]]:
    head = st.tuples(st.just(kind), ids, options, *([uris] if with_uri else []))
    tail = st.one_of(
        st.just(()),
        st.tuples(arguments),
        st.tuples(arguments, kwargs),
        st.tuples(arguments, kwargs, values),
    )
    whole = st.builds(lambda head, tail: [*head, *tail], head, tail)
    return st.one_of(whole, whole, st.builds(lambda raw, end: raw[:end], whole, st.integers(1, 4)))


raws = st.one_of(message(48, True), message(16, True), message(70, False))


@given(raw=raws)
@settings(max_examples=400)
def test_what_is_taken_and_what_it_means_is_as_with_autobahn(raw: list[Any]) -> None:
    codec = CODECS["wamp.2.cbor"]
    try:
        payload = codec._dumps(raw)
    except Exception:
        return  # a lone surrogate has no form
    try:
        meant: Any = HEAVY[raw[0]].parse(codec._loads(payload))
    except InvalidUriError as error:
        meant = error
    except Exception:
        meant = None
    if getattr(meant, "payload", None) is not None or getattr(meant, "request", 1) == 0:
        meant = None  # what Autobahn takes and the router doesn't
    if meant is None or isinstance(meant, InvalidUriError):
        with pytest.raises(CodecError) as refused:
            codec.decode(payload, True)
        answerable = isinstance(meant, InvalidUriError) and raw[0] != 70 and type(raw[1]) is int
        assert isinstance(refused.value, BadUriError) is answerable
        return
    taken = codec.decode(payload, True)
    assert type(taken) is light.BY_TYPE[raw[0]]
    assert taken == type(taken).of(meant)
    assert taken.heavy() == meant


@pytest.mark.parametrize("key", [1, b"a", None, 1.5, True])
@pytest.mark.parametrize("head", [[48, 1, {}, "a.b"], [16, 1, {}, "a.b"], [70, 1, {}]])
@pytest.mark.parametrize("name", ["wamp.2.cbor", "wamp.2.msgpack"])
def test_keys_of_keyword_arguments_are_text(name: str, head: list[Any], key: Any) -> None:
    codec = CODECS[name]
    payload = codec._dumps([*head, [], {"a": 1, key: 2}])
    with pytest.raises(CodecError):
        codec.decode(payload, True)


def made(cls: type[light.Light]) -> st.SearchStrategy[Any]:
    """Messages of that class, with one option at most."""
    ids = st.integers(1, 2**53)
    by_type: dict[Any, Any] = {
        "int | None": ids,
        "bool | None": st.booleans(),
        "str | None": st.sampled_from(["a.b", "c"]),
    }
    fields: list[Any] = list(attrs.fields(cls))  # type: ignore[arg-type]
    needed = {
        field.name: ids if "int" in str(field.type) else st.just("a.b")
        for field in fields
        if field.init and field.default is attrs.NOTHING
    }
    rare = {}
    for field in fields:
        kind = str(field.type).replace("<class '", "").replace("'>", "")
        if field.init and field.name not in needed and kind in by_type:
            rare[field.name] = by_type[kind]
    plain = st.fixed_dictionaries(
        needed,
        optional={
            "args": st.one_of(st.none(), st.lists(values, max_size=2)),
            "kwargs": st.one_of(st.none(), st.dictionaries(st.text(max_size=3), values)),
        },
    )
    options = st.one_of(
        st.just({}),
        *(value.map(lambda each, name=name: {name: each}) for name, value in rare.items()),
    )
    return st.builds(lambda plain, options: cls(**plain, **options), plain, options)


@given(light_one=st.one_of(made(light.Invocation), made(light.Result), made(light.Event)))
@settings(max_examples=200)
def test_what_is_sent_is_as_with_autobahn(light_one: light.Light) -> None:
    heavy = light_one.heavy()
    wanted = [[] if field is None else field for field in heavy.marshal()]
    assert light_one.marshal() == wanted
    assert type(light_one).of(heavy) == light_one


def test_an_event_is_written_once_per_codec() -> None:
    event = light.Event(1, 2, args=[1])
    for codec in CODECS.values():
        assert codec.encode(event) is codec.encode(event)
        assert codec._loads(codec.encode(event)) == [36, 1, 2, {}, [1]]


def test_they_have_the_attributes_of_autobahns_constructors() -> None:
    unknown = {"payload", "enc_algo", "enc_key", "enc_serializer", "from_fbs", "self"}
    for cls in light.CLASSES:
        code = cls.HEAVY.__init__.__code__
        theirs = [name for name in code.co_varnames[: code.co_argcount] if name not in unknown]
        ours = [field.name for field in attrs.fields(cls) if field.init]  # type: ignore[arg-type]
        assert sorted(ours) == sorted(theirs), cls
        assert autobahn.Message in cls.HEAVY.__mro__


# JSON


def standard_loads(payload: bytes) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    return wamp_json._restore_binary(json.loads(payload.decode("utf-8"), parse_constant=refuse))


def outcome(call: Any) -> Any:
    try:
        return call()
    except (ValueError, TypeError, RecursionError) as error:
        return "refused", isinstance(error, RecursionError)


def same(one: Any, other: Any) -> bool:
    """Equal, also in the types and signs that `==` doesn't tell apart."""
    return repr(one) == repr(other)


texts = st.one_of(
    values.map(lambda value: json.dumps(value, ensure_ascii=True).encode()),
    values.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")),
    st.text(alphabet='[]{}",:0123456789.eE+-\\u truefalsnNaIinity\x00\x1f é', max_size=12).map(
        lambda text: text.encode()
    ),
    st.from_regex(rb"\[-?[0-9]{1,40}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?\]", fullmatch=True),
    st.sampled_from(
        [
            b'{"a":1,"a":2}',
            b'["\\ud800"]',
            b'["\\udc00\\ud800"]',
            b"[1e400]",
            b"[-0]",
            b"[-0.0]",
            b"\xef\xbb\xbf[1]",
            b'["\xff"]',
            b'["\xed\xa0\x80"]',
            b"[" * 2000 + b"]" * 2000,
            b'["\\u0000YQ=="]',
            b'["\\u0000?"]',
            b'{"\\u0000":1}',
            b"[NaN]",
            b"[1]\x00",
            b"",
            b"[" + b"9" * 5000 + b"]",
        ]
    ),
    st.binary(max_size=12),
)


@given(payload=texts)
@settings(max_examples=400)
def test_json_is_read_as_by_the_standard_library(payload: bytes) -> None:
    ours = outcome(lambda: wamp_json.loads(payload))
    assert same(ours, outcome(lambda: standard_loads(payload)))


@given(value=values)
@settings(max_examples=200)
def test_json_is_written_as_by_the_standard_library(value: Any) -> None:
    try:
        written = wamp_json.dumps([value])
    except ValueError:
        text = json.dumps([value], ensure_ascii=False)
        assert '"\\u0000' in text or "\ud800" in text
        return
    assert same(standard_loads(written), [value])


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, math.nan], {"a": [-math.inf]}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        wamp_json.dumps(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, b"null"),
        ([None, 1.5], b"[null,1.5]"),
        (2**70, str(2**70).encode()),
        ({1: 2, None: 3}, b'{"1":2,"null":3}'),
        ((1, 2), b"[1,2]"),
        (b"ab", b'"\\u0000YWI="'),
        ([b"ab", None], b'["\\u0000YWI=",null]'),
        ("nullus", b'"nullus"'),
    ],
)
def test_json_forms(value: Any, text: bytes) -> None:
    assert wamp_json.dumps(value) == text
