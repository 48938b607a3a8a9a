"""A WebSocket peer on a bare kernel socket: it reads only when told, and sends whatever bytes."""

import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Self

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: wamp.2.json\r\n\r\n"
)
HELLO = json.dumps(
    [
        1,
        "cumulus",
        {
            "roles": {
                "caller": {"features": {"progressive_call_results": True}},
                "callee": {"features": {"progressive_call_results": True, "call_canceling": True}},
                "publisher": {},
                "subscriber": {},
            }
        },
    ]
).encode()


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
    """Knows no reactor: only `read` and `send` touch the socket."""

    def __init__(self, port: int, *, receive_buffer_bytes: int = 16_384) -> None:
        self.socket: socket.socket = socket.socket()
        # A small window, so that the kernel takes little of what isn't read.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.gone = False
        try:
            self.socket.connect(("127.0.0.1", port))
        except ConnectionResetError:  # cut in the very moment
            self.gone = True
        self.socket.setblocking(False)

    def send(self, data: bytes | memoryview) -> int:
        """As much as the kernel takes; how much that was."""
        try:
            return self.socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0
        except OSError:
            self.gone = True
            return 0

    def hurry(self) -> None:
        """From now on it reads with a large window."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

    def read(self) -> bool:
        """Takes what is there; true when the peer is gone."""
        try:
            while data := self.socket.recv(1 << 20):
                self.received += data
            self.gone = True
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError:
            self.gone = True
        return self.gone

    def open(self) -> None:
        """The WebSocket handshake. Blocks; raises TimeoutError after 10 s."""
        self.send(HANDSHAKE)
        self.wait(lambda: self.opened)

    def join(self) -> None:
        """Handshake and HELLO, in JSON. Blocks."""
        self.open()
        self.tell(json.loads(HELLO))
        self.wait(lambda: b"[2," in self.received)
        self.received = b""

    @property
    def opened(self) -> bool:
        """The handshake has been answered."""
        return b"\r\n\r\n" in self.received

    def wait(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Reads until the condition holds. Blocks."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.read()
            if time.monotonic() > deadline:
                raise TimeoutError(f"it never came; received: {self.received[-200:]!r}")
            time.sleep(0.005)

    def tell(self, message: list[Any], timeout_s: float = 10.0) -> bool:
        """Sends one message whole. Blocks; false when the kernel took nothing for so long."""
        return self.send_all(frame(json.dumps(message).encode()), timeout_s) == 0

    def send_all(self, data: bytes, timeout_s: float = 10.0) -> int:
        """How many bytes the kernel did not take before nothing moved for so long."""
        left = memoryview(data)
        moved_at = time.monotonic()
        while left and not self.gone and time.monotonic() - moved_at < timeout_s:
            taken = self.send(left[: 1 << 20])
            if taken:
                left, moved_at = left[taken:], time.monotonic()
            else:
                time.sleep(0.005)
        return len(left)

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
