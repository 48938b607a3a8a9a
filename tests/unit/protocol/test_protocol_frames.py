"""Whole messages are taken past Autobahn's parser: nothing a peer sends may tell the difference."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from cumulusd.origins import Origins
from cumulusd.protocol import frames
from cumulusd.protocol.codec import Codec
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.listener import WampFactory
from cumulusd.protocol.transport import WampConnection

MAX_BYTES = 70_000


class Session:
    """What a connection needs of its session; keeps what comes."""

    def __init__(self, connection: WampConnection) -> None:
        self.outbox = self.inbox = self
        self.seen: list[Any] = []
        self._connection = connection

    def message_received(self, payload: bytes, is_binary: bool) -> None:
        self.seen.append((payload, is_binary))

    def ping_received(self, payload: bytes) -> None:
        self._connection.write_pong(payload)

    def take(self) -> None:
        self.seen.append("more to count")

    def broken(self, *why: str) -> None:
        self.seen.append(why)

    def failed(self) -> None:
        raise AssertionError

    def connection_lost(self) -> None:
        self.seen.append("lost")


class Transport(StringTransport):
    """Registers as real transports do: leaving twice is no fault."""

    def unregisterProducer(self) -> None:
        self.producer = None


class Reception:
    def refusal(self, *_: Any) -> None:
        return None

    def handshake_refused(self, *_: Any) -> None:
        raise AssertionError

    def connected(self, connection: WampConnection, codec: Codec) -> Any:
        return Session(connection)


class Plain(WampConnection):
    """Autobahn's parser for everything."""

    def _read(self, data: bytes) -> None:
        self._dataReceived(data)


def opened(cls: type[WampConnection], subprotocol: str = "wamp.2.json") -> Any:
    factory = WampFactory(
        clock=Clock(),
        limits=Limits(max_message_bytes=MAX_BYTES),
        reception=Reception(),
        origins=Origins(is_open=lambda: True),
    )
    factory.protocol = cls
    connection = factory.buildProtocol(None)
    connection.makeConnection(Transport())
    key = base64.b64encode(b"0123456789abcdef").decode()
    connection.dataReceived(
        f"GET /ws HTTP/1.1\r\nHost: localhost:1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode()
    )
    assert connection.state == connection.STATE_OPEN
    connection._is_known = True  # as one whose session has joined
    connection._take_at_most(MAX_BYTES)
    connection.transport.clear()
    return connection


def client_frame(first: int, payload: bytes, mask: bytes | None, width: int | None = None) -> bytes:
    """A frame as a client sends it; `width` forces a longer form of the size."""
    size = len(payload)
    least = 0 if size < 126 else 2 if size < 65536 else 8
    width = max(width or 0, least)
    second = {0: size & 0x7F, 2: 126, 8: 127}[width]
    head = bytes((first, second | (0x80 if mask is not None else 0)))
    head += size.to_bytes(width, "big") if width else b""
    if mask is None:
        return head + payload
    return head + mask + frames.unmask(payload, mask)


payloads = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers(1000, 1100).map(lambda size: b"z" * size),
    st.sampled_from([65535, 65536, MAX_BYTES, MAX_BYTES + 1]).map(lambda size: b"y" * size),
)
masks = st.one_of(st.none(), st.just(b"\0\0\0\0"), st.binary(min_size=4, max_size=4))
usual = st.builds(
    client_frame,
    st.sampled_from([0x81, 0x82]),
    payloads,
    st.binary(min_size=4, max_size=4),
)
any_frame = st.builds(
    client_frame,
    st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0x83, 0x09]),
    payloads,
    masks,
    st.sampled_from([None, None, None, 2, 8]),
)


@given(
    stream=st.lists(st.one_of(usual, usual, any_frame), max_size=6).map(b"".join),
    # Autobahn judges text as it comes, here it is judged when it is whole.
    tail=st.binary(max_size=12).filter(lambda tail: tail[:1] != b"\x81"),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
)
def test_any_stream_cut_anywhere_is_taken_as_autobahn_takes_it(
    stream: bytes, tail: bytes, cuts: list[int]
) -> None:
    quick, plain = opened(WampConnection), opened(Plain)
    stream += tail
    for connection in (quick, plain):
        rest = stream
        for cut in cuts:
            connection.dataReceived(rest[:cut])
            rest = rest[cut:]
        connection.dataReceived(rest)
        connection.factory.clock.advance(0)
    assert quick._session.seen == plain._session.seen
    assert quick.transport.value() == plain.transport.value()
    assert quick.state == plain.state


@given(data=st.binary(max_size=3000), mask=st.binary(min_size=4, max_size=4))
def test_unmasking_is_its_own_inverse_and_xor(data: bytes, mask: bytes) -> None:
    masked = frames.unmask(data, mask)
    assert masked == bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    assert frames.unmask(masked, mask) == data


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, MAX_BYTES])
def test_headers_are_autobahns(size: int, is_binary: bool) -> None:
    connection = opened(WampConnection, "wamp.2.cbor" if is_binary else "wamp.2.json")
    connection.sendMessage(b"x" * size, is_binary)
    connection.factory.clock.advance(0)
    written = connection.transport.value()
    assert written == frames.header(size, is_binary) + b"x" * size


def test_a_turns_messages_go_out_in_order_and_before_autobahns_own_frames() -> None:
    connection = opened(WampConnection)
    clock = connection.factory.clock
    for number in range(3):
        connection.write_message(b"[%d]" % number, False)
    assert connection.transport.value() == b""
    clock.advance(0)
    one = b"".join(b"\x81\x03[%d]" % number for number in range(3))
    assert connection.transport.value() == one
    connection.write_message(b"[3]", False)
    connection.sendPing(b"p")
    clock.advance(0)
    assert connection.transport.value() == one + b"\x81\x03[3]" + b"\x89\x01p"
    connection.write_message(b"[4]", False)
    connection.close()
    clock.advance(0)
    assert connection.transport.value().startswith(
        one + b"\x81\x03[3]\x89\x01p\x81\x03[4]" + b"\x88"
    )
    connection.write_message(b"[5]", False)
    clock.advance(0)
    assert b"[5]" not in connection.transport.value()


def test_what_waits_within_a_turn_is_bounded() -> None:
    connection = opened(WampConnection)
    connection.write_message(b"x" * 60_000, False)
    assert connection.transport.value() == b""
    connection.write_message(b"x" * 60_000, False)
    assert len(connection.transport.value()) == 2 * (4 + 60_000)


def test_nothing_is_written_after_an_abort() -> None:
    connection = opened(WampConnection)
    connection.write_message(b"[1]", False)
    connection.abort()
    connection.factory.clock.advance(0)
    assert connection.transport.value() == b""
