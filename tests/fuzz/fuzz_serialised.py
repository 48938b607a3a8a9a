"""WAMP messages in each serialisation, in frames, and out of them again."""

import contextlib
import json
from typing import Any

import cbor2
import msgpack  # type: ignore[import-untyped]

from cumulusd.protocol.codec import Codec
from tests.fuzz.fuzz_messages import as_json
from tests.fuzz.fuzz_wire import BINARY, TEXT, frame, frames_of

HELLO = (
    b'[1,"cumulus",{"roles":{"caller":{"features":{"call_canceling":true}},"callee":{"features":'
    b'{"call_canceling":true,"progressive_call_results":true}},"publisher":{},"subscriber":{}}%s}]'
)


def joining(token: bytes) -> list[bytes]:
    """HELLO and AUTHENTICATE."""
    return [HELLO % b',"authmethods":["ticket"]', b'[5,"%s",{}]' % token]


def encoded(message: Any, codec: Codec) -> bytes | None:
    """As that serialisation writes it; None when it has no form there."""
    with contextlib.suppress(Exception):  # whatever the libraries raise for what they can't write
        if codec.NAME == "cbor":
            return bytes(cbor2.dumps(message))
        if codec.NAME == "msgpack":
            return bytes(msgpack.packb(message, use_bin_type=True, unicode_errors="surrogatepass"))
        return as_json(message)
    return None


def framed(line: bytes, codec: Codec) -> bytes:
    """A message given as JSON, in that serialisation; what is no JSON, as it is."""
    payload: bytes | None = line
    if codec.NAME != "json":
        with contextlib.suppress(ValueError, RecursionError):
            payload = encoded(json.loads(line), codec)
    return frame(payload or b"", BINARY if codec.binary else TEXT)


def messages_in(received: bytes, codec: Codec) -> list[Any]:
    """What a server's frames hold."""
    found = []
    for opcode, payload in frames_of(received):
        if opcode in (TEXT, BINARY):
            message = {
                "cbor": cbor2.loads,
                "json": json.loads,
                "msgpack": msgpack.unpackb,
            }[codec.NAME](payload)
            found.append(message)
    return found
