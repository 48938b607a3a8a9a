"""Pings of WebSocket, read and answered past Autobahn, and sent only to who says nothing.

With a hundred workers that do nothing else, pings are most of what the daemon does: an agent pings
each of its connections, which shows that it lives as well as our own ping would.
"""

from collections.abc import Callable
from typing import Any, Protocol

_PING, _PONG = 0x89, 0x8A  #: first octets of final frames
_MASKED = 0x80
_MASK_BYTES = 4
_MAX_BYTES = 125  #: of a control frame's payload
_HEAD_BYTES = 2 + _MASK_BYTES


class _Timer(Protocol):
    def cancel(self) -> None: ...


class _Clock(Protocol):
    def seconds(self) -> float: ...
    def callLater(self, delay: float, call: Callable[..., None], /, *args: Any) -> _Timer: ...


def ping_of(data: bytes) -> bytes | None:
    """The payload of a client's ping, when `data` is one and nothing else."""
    if not data or data[0] != _PING or len(data) < _HEAD_BYTES:
        return None
    size = data[1] - _MASKED
    if not 0 <= size <= _MAX_BYTES or len(data) != _HEAD_BYTES + size:
        return None
    pad = (data[2:_HEAD_BYTES] * (size // _MASK_BYTES + 1))[:size]
    whole = int.from_bytes(data[_HEAD_BYTES:], "big") ^ int.from_bytes(pad, "big")
    return whole.to_bytes(size, "big")


def pong(payload: bytes) -> bytes:
    """The server's whole frame that answers a ping with that payload."""
    return bytes((_PONG, len(payload))) + payload


#: What is left by rounding alone: a timer of so little might come without the clock's going on.
_ROUNDING_S = 1e-6


class Silence:
    """Of one connection: pings a peer that has said nothing for `ping_s`, and tells when it says
    nothing for as long again."""

    def __init__(
        self, clock: _Clock, ping_s: float, *, ping: Callable[[], None], dead: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._ping_s = ping_s
        self._ping = ping
        self._dead = dead
        self._heard_at = 0.0
        self._timer: _Timer | None = None

    def start(self) -> None:
        """The connection is open."""
        self.heard()
        self._timer = self._clock.callLater(self._ping_s, self._look)

    def heard(self) -> None:
        """Something came."""
        self._heard_at = self._clock.seconds()

    def stop(self) -> None:
        """The connection is over; also where it never was open."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        left_s = self._heard_at + self._ping_s - self._clock.seconds()
        if left_s > _ROUNDING_S:
            self._timer = self._clock.callLater(left_s, self._look)
            return
        self._timer = self._clock.callLater(self._ping_s, self._judge, self._heard_at)
        self._ping()

    def _judge(self, heard_at: float) -> None:
        self._timer = None
        if self._heard_at == heard_at:
            self._dead()
        else:
            self._look()
