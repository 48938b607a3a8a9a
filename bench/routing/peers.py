"""A lean WAMP client on bare sockets, the same for every router: it writes prepared frames, and
looks into an answer only as far as it must, so that its own cost stays below the router's.

Everything is one thread and one epoll; whoever waits longer than `WAIT_S` gets a BenchError.
"""

import base64
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import cbor2

from bench.parts.errors import BenchError

WAIT_S = 60.0
REALM = "cumulus"
_MASK = b"\x37\xfa\x21\x3d"  # as real clients mask, but always the same
_READ_BYTES = 1 << 18
_NORMAL_CLOSE = (1000).to_bytes(2, "big")

HELLO, WELCOME, ABORT, CHALLENGE, AUTHENTICATE, GOODBYE, ERROR = 1, 2, 3, 4, 5, 6, 8
PUBLISH, PUBLISHED, SUBSCRIBE, SUBSCRIBED, EVENT = 16, 17, 32, 33, 36
CALL, RESULT, REGISTER, REGISTERED, INVOCATION, YIELD = 48, 50, 64, 65, 68, 70


class Codec:
    """One serialisation, as the client needs it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._binary = name != "json"

    def dumps(self, message: list[Any]) -> bytes:
        if self._binary:
            return cbor2.dumps(message)
        return json.dumps(message, separators=(",", ":")).encode()

    def loads(self, payload: bytes) -> Any:
        return cbor2.loads(payload) if self._binary else json.loads(payload)

    def kind(self, payload: bytes) -> int:
        """The message's type, without reading the rest of it."""
        if self._binary:
            first = payload[1]  # after the list's head, for lists of fewer than 24
            return first if first < 24 else payload[2]
        return int(payload[1 : payload.index(b",")])

    def frame(self, message: list[Any]) -> bytes:
        """The message as a masked WebSocket frame."""
        return frame(self.dumps(message), 2 if self._binary else 1)


def frame(payload: bytes, opcode: int) -> bytes:
    """A masked WebSocket frame."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = int.from_bytes((_MASK * (size // 4 + 1))[:size], "big")
    masked = (int.from_bytes(payload, "big") ^ mask).to_bytes(size, "big")
    return head + _MASK + masked


class Loop:
    """The one epoll."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}

    def add(self, peer: "Peer") -> None:
        self._epoll.register(peer.fileno(), select.EPOLLIN)
        self._peers[peer.fileno()] = peer

    def remove(self, peer: "Peer") -> None:
        if self._peers.pop(peer.fileno(), None) is not None:
            self._epoll.unregister(peer.fileno())

    def run_until(self, done: Callable[[], bool]) -> None:
        """Serves the peers until `done()`."""
        deadline = time.monotonic() + WAIT_S
        while not done():
            ready = self._epoll.poll(1.0, 1024)
            for number, _ in ready:
                peer = self._peers.get(number)
                if peer is not None:
                    peer.readable()
            if not ready and time.monotonic() > deadline:
                raise BenchError(f"nothing more came within {WAIT_S:g} s")


class Peer:
    """One session. `on_message(payload)` gets every message after WELCOME."""

    def __init__(
        self,
        loop: Loop,
        port: int,
        codec: Codec,
        receive_bytes: int = 0,
        ticket: str | None = None,
    ) -> None:
        self.loop = loop
        self.codec = codec
        self.received = 0  #: messages
        self.on_message: Callable[[bytes], None] | None = None
        self._closing = False  #: the router has said so
        self._buffer = b""
        self._last_request = 0
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(WAIT_S)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upgrade(port)
        methods = ["anonymous"] if ticket is None else ["ticket"]
        self.send([HELLO, REALM, {"roles": _ROLES, "authmethods": methods, "authid": "bench"}])
        welcome = self.read_message()
        if ticket is not None and welcome[0] == CHALLENGE:
            self.send([AUTHENTICATE, ticket, {}])
            welcome = self.read_message()
        if welcome[0] != WELCOME:
            raise BenchError(f"not welcome: {welcome}")
        loop.add(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def next_request(self) -> int:
        self._last_request += 1
        return self._last_request

    def send(self, message: list[Any]) -> None:
        self._socket.sendall(self.codec.frame(message))

    def send_frame(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, kind: int, *rest: Any) -> list[Any]:
        """A request and its answer, which must be the next message."""
        request = self.next_request()
        self.send([kind, request, *rest])
        answer: list[Any] = self.read_message()
        if answer[0] == ERROR or answer[1] != request:
            raise BenchError(f"the answer to {kind} {rest} was {answer!r:.500}")
        return answer

    def read_message(self) -> list[Any]:
        """The next message, waited for."""
        found: list[bytes] = []
        while not found:
            more = self._socket.recv(_READ_BYTES)
            if not more or self._closing:
                raise BenchError("the router closed the connection")
            found = self._take(more)
        if len(found) != 1:
            raise BenchError("more messages than asked for")
        message: list[Any] = self.codec.loads(found[0])
        return message

    def readable(self) -> None:
        """Called by the loop."""
        data = self._socket.recv(_READ_BYTES)
        if not data or self._closing:
            raise BenchError("the router closed the connection")
        found = self._take(data)
        self.received += len(found)
        if self.on_message is not None:
            for payload in found:
                self.on_message(payload)

    def stop_reading(self) -> None:
        """From now on nobody takes what comes."""
        self.loop.remove(self)

    def close(self) -> None:
        self.loop.remove(self)
        self._socket.close()

    def leave(self) -> None:
        """GOODBYE both ways, the WebSocket's closing handshake, and the connection's end."""
        self.loop.remove(self)
        self.send([GOODBYE, {}, "wamp.close.close_realm"])
        answer = self.read_message()
        if answer[0] != GOODBYE:
            raise BenchError(f"no GOODBYE but {answer}")
        try:
            self._socket.sendall(frame(_NORMAL_CLOSE, 8))
            while self._socket.recv(_READ_BYTES):
                pass
        except ConnectionError:
            pass  # a router that closes at once doesn't read our close frame any more
        self._socket.close()

    def _take(self, data: bytes) -> list[bytes]:
        """The payloads of the data frames that are complete now."""
        data = self._buffer + data
        found = []
        at, end = 0, len(data)
        while end - at >= 2:
            size = data[at + 1]
            start = at + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                if end - start < width:
                    break
                size = int.from_bytes(data[start : start + width], "big")
                start += width
            if end - start < size:
                break
            opcode = data[at] & 0x0F
            at = start + size
            if opcode in (1, 2):
                found.append(data[start:at])
            elif opcode == 9:
                self._socket.sendall(frame(data[start:at], 10))
            elif opcode == 8:
                self._closing = True
        self._buffer = data[at:]
        return found

    def _upgrade(self, port: int) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: wamp.2.{self.codec.name}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = self._socket.recv(_READ_BYTES)
            if not more:
                raise BenchError(f"no upgrade: {answer!r}")
            answer += more
        if b" 101 " not in answer.split(b"\r\n", 1)[0]:
            raise BenchError(f"no upgrade: {answer!r}")


_ROLES = {
    "caller": {"features": {"progressive_call_results": True, "call_canceling": True}},
    "callee": {"features": {"progressive_call_results": True}},
    "publisher": {},
    "subscriber": {},
}
