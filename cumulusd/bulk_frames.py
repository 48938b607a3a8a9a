"""The frames of `/agent` in their usual form, read and written past Autobahn: whole unfragmented
binary messages, from the agent's side with a masking key of zero.

Autobahn takes each through six callbacks, formats log text for nobody, and copies it in 64 KiB
pieces. Everything else (the handshake, control frames, fragments, other masks, whatever is wrong)
stays its own. No I/O here.
"""

from typing import Any

import attrs

_BINARY = 0x82  #: first octet of a final binary frame
_MASKED = 0x80
_NO_MASK = b"\0\0\0\0"
#: Smaller pieces of a frame are put together as they come: whatever a peer sends, no more objects
#: are held than two for each so many bytes.
_SMALL_BYTES = 1024


def header(size_bytes: int, *, masked: bool) -> bytes:
    """What stands before a message's payload."""
    bit, mask = (_MASKED, _NO_MASK) if masked else (0, b"")
    if size_bytes < 126:
        return bytes((_BINARY, bit | size_bytes)) + mask
    if size_bytes < 65536:
        return bytes((_BINARY, bit | 126)) + size_bytes.to_bytes(2, "big") + mask
    return bytes((_BINARY, bit | 127)) + size_bytes.to_bytes(8, "big") + mask


@attrs.frozen
class _Missing:
    """The frame isn't whole."""

    size_bytes: int  #: that it has, or that its header may have


class BulkFrames:
    """Takes one connection's bytes, in order. Memory: one frame, and what `feed` was given."""

    def __init__(self, max_bytes: int, *, masked: bool) -> None:
        """`max_bytes`: of a message; `masked`: as those of a client are."""
        self._max_bytes = max_bytes
        self._masked = masked
        self._pieces: list[bytes | bytearray] = []
        self._held_bytes = 0
        self._wanted_bytes = 0

    @property
    def holds(self) -> bool:
        """A part of a frame is held."""
        return bool(self._pieces)

    def take_back(self) -> bytes:
        """What is held, which is Autobahn's to read from then on."""
        held = b"".join(self._pieces)
        self._pieces.clear()
        self._held_bytes = self._wanted_bytes = 0
        return held

    def feed(self, data: bytes) -> tuple[list[memoryview], bytes]:
        """(the payloads of the messages that `data` completes, what is Autobahn's to read).

        Nothing is held when something is Autobahn's.
        """
        if not self._pieces or len(data) >= _SMALL_BYTES:
            self._pieces.append(data)
        elif isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += data
        else:
            self._pieces.append(bytearray(data))
        self._held_bytes += len(data)
        if self._held_bytes < self._wanted_bytes:
            return [], b""
        buffer, at = self.take_back(), 0
        view = memoryview(buffer)
        messages: list[memoryview] = []
        while at < len(buffer):
            found = self._frame(buffer, at)
            if found is None:
                return messages, buffer[at:]
            if isinstance(found, _Missing):
                self._pieces.append(buffer[at:])
                self._held_bytes, self._wanted_bytes = len(buffer) - at, found.size_bytes
                break
            start, at = found
            messages.append(view[start:at])
        return messages, b""

    def _frame(self, buffer: bytes, at: int) -> tuple[int, int] | _Missing | None:
        """(begin, end) of the payload of the frame at `at`; None when it isn't one for here."""
        available = len(buffer) - at
        if buffer[at] != _BINARY:
            return None
        if available < 2:
            return _Missing(2)
        size = buffer[at + 1] - _MASKED if self._masked else buffer[at + 1]
        if not 0 <= size < _MASKED:
            return None
        width = {126: 2, 127: 8}.get(size, 0)
        start = at + 2 + width + (len(_NO_MASK) if self._masked else 0)
        if start > len(buffer):
            return _Missing(start - at)
        if width:
            size = int.from_bytes(buffer[at + 2 : at + 2 + width], "big")
            if size < (126 if width == 2 else 65536):  # not the shortest form
                return None
        if size > self._max_bytes or (self._masked and buffer[start - 4 : start] != _NO_MASK):
            return None
        return (start, start + size) if start + size <= len(buffer) else _Missing(start + size - at)


class BulkReading:
    """Of an Autobahn protocol: its `dataReceived` calls `read` with what came."""

    def __init__(self, protocol: Any, max_bytes: int, *, masked: bool) -> None:
        """As of `BulkFrames`. The messages go to the protocol's `message_received`."""
        self._protocol = protocol
        self._frames = BulkFrames(max_bytes, masked=masked)

    @property
    def is_between_frames(self) -> bool:
        """The connection is open, and no frame or message has come in part."""
        protocol = self._protocol
        return not (
            protocol.state != protocol.STATE_OPEN
            or protocol.current_frame is not None
            or protocol.inside_message
            or protocol.data
            or self._frames.holds
        )

    def read(self, data: bytes) -> None:
        """Takes whole messages here; leaves everything else to Autobahn, and what follows it."""
        protocol, frames = self._protocol, self._frames
        if protocol.state != protocol.STATE_OPEN:
            protocol._dataReceived(frames.take_back() + data)
            return
        if protocol.current_frame is not None or protocol.inside_message or protocol.data:
            protocol._dataReceived(data)
            return
        messages, rest = frames.feed(data)
        if messages and protocol.autoPingTimeoutCall:
            protocol._cancelAutoPingTimeoutCall()  # it lives, as Autobahn too takes any frame
        for message in messages:
            if protocol.state == protocol.STATE_OPEN:
                protocol.message_received(message)
        if rest:
            protocol._dataReceived(rest)
