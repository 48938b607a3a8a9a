"""A WAMP client down to its bytes: sends whatever a test wants, also what is wrong.

Blocking, every wait bounded. Shares no code with the router or with Autobahn.
"""

import base64
import hashlib
import os
import socket
import struct
import time
from typing import Any
from urllib.parse import urlsplit

from tests.interop.raw_bytes import SERIALIZERS, Serializer

#: For whatever must come. What must not come is asked for by a round trip, not waited for.
PATIENCE_S = 20.0

HELLO, WELCOME, ABORT, CHALLENGE, AUTHENTICATE, GOODBYE, ERROR = 1, 2, 3, 4, 5, 6, 8
PUBLISH, PUBLISHED = 16, 17
SUBSCRIBE, SUBSCRIBED, UNSUBSCRIBE, UNSUBSCRIBED, EVENT = 32, 33, 34, 35, 36
CALL, CANCEL, RESULT = 48, 49, 50
REGISTER, REGISTERED, UNREGISTER, UNREGISTERED = 64, 65, 66, 67
INVOCATION, INTERRUPT, YIELD = 68, 69, 70
NAMES = {
    number: name
    for name, number in list(globals().items())
    if name.isupper() and type(number) is int
}

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Closed(Exception):
    """The router ended the connection; by which WebSocket close code, if it said one."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Refused(Exception):
    """The opening handshake was answered by an HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class WebSocket:
    """One connection, after the opening handshake."""

    def __init__(self, url: str, *subprotocols: str, headers: dict[str, str] | None = None) -> None:
        """Raises Refused when the handshake isn't answered by 101."""
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.pongs: list[bytes] = []
        key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {parts.path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
            *([f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}"] if subprotocols else []),
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        try:
            self.send_bytes("\r\n".join([*lines, "", ""]).encode())
            head = self._read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            if status != 101:
                raise Refused(status)
        except BaseException:
            self._socket.close()
            raise
        answer = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:])
        }
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        assert answer["sec-websocket-accept"] == accept
        self.subprotocol = answer.get("sec-websocket-protocol")

    def send_bytes(self, data: bytes) -> None:
        """Bytes as they are."""
        self._socket.sendall(data)

    def send_frame(
        self, payload: bytes, opcode: int, *, fin: bool = True, masked: bool = True, rsv: int = 0
    ) -> None:
        """One frame."""
        self.send_bytes(frame(payload, opcode, fin=fin, masked=masked, rsv=rsv))

    def send_message(self, payload: bytes, is_binary: bool) -> None:
        """One unfragmented message."""
        self.send_frame(payload, BINARY if is_binary else TEXT)

    def receive(self, timeout_s: float = PATIENCE_S) -> tuple[bytes, bool]:
        """The next message, and whether it is binary. Pings are answered. Raises Closed when the
        connection ends, TimeoutError when nothing comes."""
        self._socket.settimeout(timeout_s)
        whole, kind = b"", 0
        while True:
            first, second = self._read(2)
            assert not second & 0x80, "a server doesn't mask"
            length = second & 0x7F
            if length == 126:
                length = struct.unpack(">H", self._read(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self._read(8))[0]
            payload, opcode = self._read(length), first & 0x0F
            if opcode == CLOSE:
                code = struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005
                try:
                    self.send_frame(payload[:2], CLOSE)
                except OSError:
                    pass  # it is gone already
                raise Closed(code)
            if opcode == PING:
                self.send_frame(payload, PONG)
            elif opcode == PONG:
                self.pongs.append(payload)
            else:
                kind, whole = kind or opcode, whole + payload
                if first & 0x80:
                    return whole, kind == BINARY

    def closing_code(self) -> int | None:
        """Reads on until the connection's end: its close code, None when it was just cut."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                self.receive()
            except Closed as closed:
                return closed.code
        raise TimeoutError("it goes on sending")

    def close(self) -> None:
        """Cuts the connection."""
        self._socket.close()

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._receive_more()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._receive_more()
        taken, _, self._buffer = self._buffer.partition(end)
        return taken

    def _receive_more(self) -> None:
        try:
            more = self._socket.recv(65536)
        except ConnectionError:
            more = b""
        if not more:
            raise Closed(None)
        self._buffer += more


def frame(
    payload: bytes, opcode: int, *, fin: bool = True, masked: bool = True, rsv: int = 0
) -> bytes:
    """A WebSocket frame's bytes, as a client's."""
    length = len(payload)
    bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length < 126:
        head += bytes([bit | length])
    elif length < 2**16:
        head += bytes([bit | 126]) + struct.pack(">H", length)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", length)
    if not masked:
        return head + payload
    key = os.urandom(4)
    stream = (key * (length // 4 + 1))[:length]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + key + mixed.to_bytes(length, "big")


#: What a client can announce, all of it.
ROLES: dict[str, Any] = {
    "caller": {
        "features": {
            "call_canceling": True,
            "call_timeout": True,
            "caller_identification": True,
            "progressive_call_results": True,
        }
    },
    "callee": {
        "features": {
            "call_canceling": True,
            "caller_identification": True,
            "pattern_based_registration": True,
            "progressive_call_results": True,
        }
    },
    "publisher": {
        "features": {
            "publisher_exclusion": True,
            "publisher_identification": True,
            "subscriber_blackwhite_listing": True,
        }
    },
    "subscriber": {
        "features": {"pattern_based_subscription": True, "publisher_identification": True}
    },
}


class Session:
    """A WAMP session over one WebSocket; messages are lists, as on the wire."""

    def __init__(
        self,
        url: str,
        serializer: str = "json",
        realm: str = "cumulus",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.serializer: Serializer = SERIALIZERS[serializer]
        self.realm = realm
        self.socket = WebSocket(url, self.serializer.subprotocol, headers=headers)
        assert self.socket.subprotocol == self.serializer.subprotocol
        self.session_id = 0
        self.welcome: dict[str, Any] = {}
        self._last_request = 0
        self._kept: list[list[Any]] = []

    def next_request(self) -> int:
        """A request id: 1, 2, 3..., as the specification wants it in the scope of a session."""
        self._last_request += 1
        return self._last_request

    def send(self, *message: Any) -> None:
        """One message."""
        self.socket.send_message(self.serializer.dump(list(message)), self.serializer.is_binary)

    def request(self, kind: int, *rest: Any) -> int:
        """A message with the next request id; that id."""
        request = self.next_request()
        self.send(kind, request, *rest)
        return request

    def receive(self, timeout_s: float = PATIENCE_S) -> list[Any]:
        """The next message. Raises Closed, and TimeoutError."""
        if self._kept:
            return self._kept.pop(0)
        payload, is_binary = self.socket.receive(timeout_s)
        assert is_binary == self.serializer.is_binary
        message = self.serializer.load(payload)
        assert isinstance(message, list)
        return message

    def answer(self, request: int) -> list[Any]:
        """The answer to a request; what comes before it is kept for `receive`."""
        before = []
        while True:
            message = self.receive()
            is_error = message[0] == ERROR
            if message[0] in _ANSWERS and message[2 if is_error else 1] == request:
                self._kept = before + self._kept
                return message
            before.append(message)

    def ask(self, kind: int, *rest: Any) -> list[Any]:
        """A request and its answer."""
        return self.answer(self.request(kind, *rest))

    def settled(self) -> list[list[Any]]:
        """All that came before a round trip through the router was over."""
        answer = self.ask(UNSUBSCRIBE, 1)
        assert answer[0] == ERROR
        kept, self._kept = self._kept, []
        return kept

    def hello(self, realm: str | None = None, **details: Any) -> list[Any]:
        """HELLO, and what answers it."""
        self.send(HELLO, realm or self.realm, {"roles": ROLES, **details})
        return self.receive()

    def join(self, **details: Any) -> "Session":
        """HELLO and WELCOME."""
        message = self.hello(**details)
        assert message[0] == WELCOME, message
        self.session_id, self.welcome = message[1], message[2]
        return self

    def close(self) -> None:
        """Cuts the connection."""
        self.socket.close()


_ANSWERS = {ERROR, PUBLISHED, SUBSCRIBED, UNSUBSCRIBED, RESULT, REGISTERED, UNREGISTERED}
