"""A WebSocket peer on a bare kernel socket: it reads only when told, and sends whatever bytes."""

import json
import socket
import struct
from typing import Any, Self

from wamp_peers import until

_HELLO = b'[1,"cumulus",{"roles":{"caller":{},"callee":{},"publisher":{},"subscriber":{}}}]'


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True, length: int | None = None) -> bytes:
    """One frame with a masking key of zeros; `length`: what its header says, if not the truth."""
    size = len(payload) if length is None else length
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += b"\xfe" + struct.pack("!H", size)
    else:
        head += b"\xff" + struct.pack("!Q", size)
    return head + b"\0\0\0\0" + payload


class RawPeer:
    """Not connected to the reactor: only `read` and `send` touch the socket."""

    def __init__(self, port: int, *, receive_buffer_bytes: int = 16_384) -> None:
        self.socket = socket.socket()
        # A small window, so that the kernel takes little of what isn't read.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.received = b""
        self.gone = False

    def send(self, data: bytes) -> int:
        """As much as the kernel takes; how much that was."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.gone = True
            return 0

    def read(self) -> bool:
        """Takes what is there; true when the peer is gone."""
        try:
            while data := self.socket.recv(1 << 20):
                self.received += data
            self.gone = True
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True
        return self.gone

    async def open(self, subprotocol: str = "wamp.2.json") -> None:
        """The WebSocket handshake; what the server says after it stays unread."""
        self.send(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: " + subprotocol.encode() + b"\r\n\r\n"
        )
        await until(self._answered)

    async def join(self) -> None:
        """Handshake and HELLO, in JSON."""
        await self.open()
        self.send(frame(_HELLO))
        await until(lambda: self.read() or b"[2," in self.received)
        assert not self.gone
        self.received = b""

    def _answered(self) -> bool:
        assert not self.read(), self.received
        return b"\r\n\r\n" in self.received

    def messages(self) -> list[Any]:
        """The JSON messages and close frames (code, reason) among what was read after joining."""
        found, data = [], self.received
        while len(data) >= 2:
            size, at = data[1] & 0x7F, 2
            if size == 126:
                size, at = struct.unpack("!H", data[2:4])[0], 4
            elif size == 127:
                size, at = struct.unpack("!Q", data[2:10])[0], 10
            if len(data) < at + size:
                break
            opcode, payload, data = data[0] & 0x0F, data[at : at + size], data[at + size :]
            if opcode == 8:
                found.append((struct.unpack("!H", payload[:2])[0], payload[2:].decode()))
            elif opcode in (1, 2):
                found.append(json.loads(payload))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gone, as by a cut line."""
        self.gone = True
        if self.socket.fileno() != -1:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
