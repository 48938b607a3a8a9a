"""The client's serializer beside Autobahn's own, which the daemon's peers use."""

import subprocess
import sys
from typing import Any

import cbor2
import pytest
from autobahn.wamp import message as wamp_message
from autobahn.wamp.exception import ProtocolError
from autobahn.wamp.serializer import CBORObjectSerializer

from cumulus_client._cbor import CborSerializer

message: Any = wamp_message  # untyped
OURS: Any = CborSerializer()
_untyped: Any = CBORObjectSerializer
THEIRS = _untyped()


@pytest.mark.parametrize(
    "msg",
    [
        message.Call(1, "a.b", kwargs={"data": b"\x00\xff", "n": 1}, receive_progress=True),
        message.Cancel(1, mode="killnowait"),
        message.Authenticate("secret", {"nonce": "x"}),
        message.Goodbye("wamp.close.normal"),
        message.Abort("wamp.error.authentication_failed"),
    ],
    ids=lambda msg: type(msg).__name__,
)
def test_what_is_said(msg: Any) -> None:
    assert OURS.serialize(msg) == (THEIRS.serialize(msg.marshal()), True)


@pytest.mark.parametrize(
    "msg",
    [
        message.Result(1, kwargs={"frames": b"\x00\xff"}, progress=True),
        message.Error(48, 1, "cumulus.error.not_found", kwargs={"job_id": "a"}),
        message.Challenge("ticket", {"a": 1}),
        message.Goodbye("wamp.close.normal"),
        message.Abort("wamp.error.no_such_realm"),
    ],
    ids=lambda msg: type(msg).__name__,
)
def test_what_is_heard(msg: Any) -> None:
    (heard,) = OURS.unserialize(THEIRS.serialize(msg.marshal()), True)
    assert type(heard) is type(msg) and heard.marshal() == msg.marshal()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        cbor2.dumps([]),
        cbor2.dumps({"a": 1}),
        cbor2.dumps([[1]]),
        cbor2.dumps([36, 1, 2, {}]),
        cbor2.dumps([50, "x", {}]),
    ],
    ids=["nothing", "torn", "empty", "map", "nested", "event", "malformed"],
)
def test_what_no_router_says(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        OURS.unserialize(payload, True)


def test_connecting_loads_no_more_than_it_needs() -> None:
    code = "import sys, cumulus_client._transport as _; print('numpy' in sys.modules, end='')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False"
