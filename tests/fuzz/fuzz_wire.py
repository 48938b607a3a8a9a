"""Bytes to a daemon over loopback, many connections at once, and what came back."""

import base64
import os
import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from tests.fuzz.fuzz_engine import Finding, Tally

HOST = "127.0.0.1"
#: A connection over which nothing came for so long has said all it will.
IDLE_S = 0.5
#: No exchange takes longer, whatever trickles in.
EXCHANGE_S = 20.0
_READ_BYTES = 1 << 16
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


@attrs.define(eq=False)
class Exchange:
    """One connection's."""

    to_send: memoryview
    later: bytes = b""  #: for when the opening handshake is answered
    stalls: bool = False  #: reads nothing behind the handshake until it has sent all
    received: bytearray = attrs.field(factory=bytearray)
    closed: bool = False  #: by the other end

    @property
    def arrived(self) -> bool:
        """The other end read something of it and said so."""
        return bool(self.received) or self.closed


def exchange(
    port: int,
    sendings: Sequence[tuple[bytes, bytes]],
    stalls: Sequence[bool] = (),
    idle_s: float = IDLE_S,
) -> list[Exchange]:
    """Sends each (opening, what follows when that was answered) over a connection of its own; ends
    when all were closed or nothing comes. `stalls`: which of them read nothing while they send.

    Raises Finding when the daemon takes no connections.
    """
    exchanges = [
        Exchange(memoryview(opening), later, stalls=number < len(stalls) and stalls[number])
        for number, (opening, later) in enumerate(sendings)
    ]
    ends = time.monotonic() + EXCHANGE_S
    with selectors.DefaultSelector() as selector:
        try:
            for each in exchanges:
                connection = _connected(port)
                connection.setblocking(False)
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                selector.register(connection, both, each)
            while selector.get_map() and time.monotonic() < ends:
                ready = selector.select(idle_s)
                if not ready:
                    break
                for key, events in ready:
                    _turn(selector, key, events)
        finally:
            for key in list(selector.get_map().values()):
                _end(selector, key.fileobj)
    return exchanges


def _connected(port: int) -> socket.socket:
    try:
        return socket.create_connection((HOST, port), 10)
    except OSError as error:
        raise Finding(f"the daemon takes no connection: {error}") from error


def _turn(selector: selectors.BaseSelector, key: selectors.SelectorKey, events: int) -> None:
    connection: Any = key.fileobj
    each: Exchange = key.data
    try:
        if events & selectors.EVENT_WRITE:
            if each.to_send:
                each.to_send = each.to_send[connection.send(each.to_send[: 1 << 18]) :]
            if not each.to_send:
                selector.modify(connection, selectors.EVENT_READ, each)
        if events & selectors.EVENT_READ:
            data = connection.recv(_READ_BYTES)
            each.received += data
            if not data:
                each.closed = True
            elif each.later and b"\r\n\r\n" in each.received:
                each.to_send, each.later = memoryview(each.later), b""
                reads = 0 if each.stalls else selectors.EVENT_READ
                selector.modify(connection, reads | selectors.EVENT_WRITE, each)
    except OSError:  # reset: what was in its way is refused so
        each.closed = True
    if each.closed:
        _end(selector, connection)


def _end(selector: selectors.BaseSelector, connection: Any) -> None:
    selector.unregister(connection)
    connection.close()


def frame(payload: bytes, opcode: int, *, fin: bool = True) -> bytes:
    """A client's WebSocket frame, masked with zeros."""
    head = bytes([(0x80 if fin else 0) | opcode])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


CLOSING = frame(b"\x03\xe8", CLOSE)


def upgrade(path: str, subprotocol: str, token: str | None = None) -> bytes:
    """The opening handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {subprotocol}",
    ]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join((*lines, "", "")).encode()


def frames_of(received: bytes | bytearray) -> list[tuple[int, bytes]]:
    """(opcode, payload) of a server's frames behind its handshake."""
    data = bytes(received)
    at = data.find(b"\r\n\r\n") + 4
    found: list[tuple[int, bytes]] = []
    if not data.startswith(b"HTTP/1.1 101") or at < 4:
        return found
    while at + 2 <= len(data):
        opcode, size = data[at] & 15, data[at + 1] & 127
        at += 2
        if size >= 126:
            length = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + length], "big")
            at += length
        if at + size > len(data):
            break
        found.append((opcode, data[at : at + size]))
        at += size
    return found


def frames_sent(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """(the frame as it was sent, its opcode, its payload unmasked) of each whole frame."""
    at = 0
    while at + 2 <= len(data):
        begin, opcode, size = at, data[at] & 15, data[at + 1] & 127
        masked = bool(data[at + 1] & 128)
        at += 2
        if size >= 126:
            length = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + length], "big")
            at += length
        mask = data[at : at + 4] if masked else b"\0\0\0\0"
        at += 4 if masked else 0
        payload = data[at : at + size]
        if len(payload) < size:
            return
        at += size
        plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        yield data[begin:at], opcode, plain


def http_request(
    method: str, path: str, token: str | None, body: bytes = b"", content_type: str = ""
) -> bytes:
    """A request as it should be."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogatepass") + body


#: The last of a connection: the daemon closes it behind the answer.
LAST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class HttpBatch:
    """Connections with pipelined requests."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage

    def run(self, connections: Sequence[Sequence[bytes]]) -> Tally:
        """Counts of each connection the requests that were answered, and the one at which it was
        closed. Raises Finding for an answer 500."""
        tally = Tally()
        sendings = [(b"".join((*requests, LAST)), b"") for requests in connections]
        for requests, each in zip(connections, exchange(self._stage.port, sendings), strict=True):
            if not each.arrived:
                continue
            statuses = [int(text) for text in _STATUS.findall(bytes(each.received))]
            if 500 in statuses:
                raise Finding(f"an answer 500: {bytes(each.received)[-600:]!r}")
            tally.inputs += min(len(requests), max(1, len(statuses)))
            refused = sum(status >= 400 for status in statuses)
            tally.refusals += min(len(requests), refused)
        return tally
