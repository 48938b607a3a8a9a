"""Single messages as bytes, through the router's codec and back: what a router is sent, and what it
sends, in each serialisation.

In the form of wamp-proto's single-message vectors (a message, its bytes, its attributes), of which
no text is copied here: the bytes come from an encoder that shares no code with the codec.
"""

from typing import Any

import pytest

from cumulusd.protocol.codec import CODECS, Codec
from tests.interop import raw_client as wire
from tests.interop.raw_bytes import SERIALIZERS

ROLES = {"roles": {"caller": {"features": {"call_canceling": True}}, "publisher": {}}}
ARGS, KWARGS = ["é", 1, -1, 2.5, None, True, [b"\0\xff"]], {"ü": {"n": 2**53}, "b": b""}

#: (message, attributes that the codec must find in it)
VECTORS: list[tuple[list[Any], dict[str, Any]]] = [
    ([wire.HELLO, "com.a", ROLES], {"realm": "com.a"}),
    (
        [
            wire.HELLO,
            "com.a",
            {**ROLES, "authid": "joe", "authmethods": ["ticket"], "authextra": {"x": 1}},
        ],
        {"authid": "joe", "authmethods": ["ticket"], "authextra": {"x": 1}},
    ),
    ([wire.WELCOME, 2**53, {"roles": {"broker": {}, "dealer": {}}}], {"session": 2**53}),
    ([wire.ABORT, {"message": "no"}, "wamp.error.no_such_realm"], {"message": "no"}),
    ([wire.ABORT, {}, "wamp.error.no_such_realm"], {"reason": "wamp.error.no_such_realm"}),
    ([wire.CHALLENGE, "ticket", {}], {"method": "ticket", "extra": {}}),
    ([wire.CHALLENGE, "cryptosign", {"challenge": "00"}], {"extra": {"challenge": "00"}}),
    ([wire.AUTHENTICATE, "secret", {}], {"signature": "secret", "extra": {}}),
    ([wire.AUTHENTICATE, "s", {"nonce": "x"}], {"extra": {"nonce": "x"}}),
    ([wire.GOODBYE, {}, "wamp.close.goodbye_and_out"], {"reason": "wamp.close.goodbye_and_out"}),
    ([wire.GOODBYE, {"message": "bye"}, "wamp.close.normal"], {"message": "bye"}),
    ([wire.SUBSCRIBE, 1, {}, "com.a.t"], {"request": 1, "topic": "com.a.t"}),
    ([wire.SUBSCRIBE, 2, {"match": "prefix"}, "com.a"], {"match": "prefix"}),
    ([wire.SUBSCRIBE, 3, {"match": "wildcard"}, "com..t"], {"match": "wildcard"}),
    ([wire.SUBSCRIBED, 1, 5512315355], {"request": 1, "subscription": 5512315355}),
    ([wire.UNSUBSCRIBE, 1, 5512315355], {"request": 1, "subscription": 5512315355}),
    ([wire.UNSUBSCRIBED, 1], {"request": 1}),
    ([wire.PUBLISH, 239714735, {}, "com.a.t"], {"topic": "com.a.t", "args": None}),
    ([wire.PUBLISH, 1, {}, "com.a.t", ARGS], {"args": ARGS, "kwargs": None}),
    ([wire.PUBLISH, 1, {}, "com.a.t", [], KWARGS], {"kwargs": KWARGS}),
    ([wire.PUBLISH, 1, {}, "com.a.t", ARGS, KWARGS], {"args": ARGS, "kwargs": KWARGS}),
    (
        [wire.PUBLISH, 1, {"acknowledge": True, "exclude_me": False}, "com.a.t"],
        {"acknowledge": True, "exclude_me": False},
    ),
    (
        [wire.PUBLISH, 1, {"exclude": [1, 2], "eligible_authrole": ["r"]}, "com.a.t"],
        {"exclude": [1, 2], "eligible_authrole": ["r"]},
    ),
    ([wire.PUBLISHED, 1, 4429313566], {"request": 1, "publication": 4429313566}),
    ([wire.EVENT, 1, 2, {}], {"subscription": 1, "publication": 2}),
    ([wire.EVENT, 1, 2, {"publisher": 7, "topic": "com.a"}], {"publisher": 7, "topic": "com.a"}),
    ([wire.EVENT, 1, 2, {}, ARGS, KWARGS], {"args": ARGS, "kwargs": KWARGS}),
    ([wire.CALL, 7814135, {}, "com.a.p"], {"procedure": "com.a.p", "args": None}),
    ([wire.CALL, 1, {}, "com.a.p", ARGS, KWARGS], {"args": ARGS, "kwargs": KWARGS}),
    (
        [wire.CALL, 1, {"receive_progress": True, "timeout": 10_000}, "com.a.p"],
        {"receive_progress": True, "timeout": 10_000},
    ),
    ([wire.CANCEL, 1, {}], {"request": 1, "mode": None}),
    *(
        ([wire.CANCEL, 1, {"mode": mode}], {"mode": mode})
        for mode in ("skip", "kill", "killnowait")
    ),
    ([wire.RESULT, 1, {}], {"request": 1, "args": None, "kwargs": None}),
    ([wire.RESULT, 1, {"progress": True}, ARGS, KWARGS], {"progress": True, "args": ARGS}),
    ([wire.REGISTER, 1, {}, "com.a.p"], {"procedure": "com.a.p"}),
    ([wire.REGISTER, 1, {"match": "prefix"}, "com.a"], {"match": "prefix"}),
    ([wire.REGISTERED, 1, 2103333224], {"registration": 2103333224}),
    ([wire.UNREGISTER, 1, 2103333224], {"registration": 2103333224}),
    ([wire.UNREGISTERED, 1], {"request": 1}),
    ([wire.INVOCATION, 1, 2, {}], {"request": 1, "registration": 2}),
    (
        [wire.INVOCATION, 1, 2, {"receive_progress": True, "caller": 3}, ARGS, KWARGS],
        {"receive_progress": True, "caller": 3, "args": ARGS, "kwargs": KWARGS},
    ),
    ([wire.INTERRUPT, 1, {}], {"request": 1}),
    ([wire.INTERRUPT, 1, {"mode": "kill"}], {"mode": "kill"}),
    ([wire.YIELD, 1, {}], {"request": 1, "args": None}),
    ([wire.YIELD, 1, {"progress": True}, ARGS, KWARGS], {"progress": True, "kwargs": KWARGS}),
    ([wire.ERROR, wire.INVOCATION, 1, {}, "com.a.e"], {"request_type": 68, "error": "com.a.e"}),
    ([wire.ERROR, wire.CALL, 1, {}, "com.a.e", ARGS, KWARGS], {"args": ARGS, "kwargs": KWARGS}),
    ([wire.ERROR, wire.SUBSCRIBE, 1, {}, "com.a.e", ["no"]], {"request": 1, "args": ["no"]}),
]


def named(vector: Any) -> str | None:
    return wire.NAMES[vector[0][0]] if isinstance(vector, tuple) else None


def told(message: list[Any]) -> list[Any]:
    """Without what says nothing: empty payload, and the features of roles."""
    if message[0] in (wire.HELLO, wire.WELCOME):
        details = {key: value for key, value in message[2].items() if key != "roles"}
        return [*message[:2], {**details, "roles": sorted(message[2]["roles"])}]
    kept = list(message)
    while len(kept) > 1 and kept[-1] in ([], {}) and len(kept) > _BARE.get(kept[0], 99):
        kept.pop()
    return kept


#: Elements of a message without payload.
_BARE = {
    wire.PUBLISH: 4,
    wire.EVENT: 4,
    wire.CALL: 4,
    wire.RESULT: 3,
    wire.INVOCATION: 4,
    wire.YIELD: 3,
    wire.ERROR: 5,
}


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.subprotocol)
@pytest.mark.parametrize("vector", VECTORS, ids=named)
def test_a_message_both_ways(vector: tuple[list[Any], dict[str, Any]], codec: Codec) -> None:
    raw, attributes = vector
    serializer = SERIALIZERS[codec.NAME]
    message = codec.decode(serializer.dump(raw), serializer.is_binary)
    assert {name: getattr(message, name) for name in attributes} == attributes
    assert told(serializer.load(codec.encode(message))) == told(raw)


def test_every_kind_of_message_is_there() -> None:
    assert {raw[0] for raw, _ in VECTORS} == set(wire.NAMES)
