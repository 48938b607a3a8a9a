"""WebSocket frames, the common case only: whole unfragmented data messages. No I/O.

Autobahn's parser takes its way through six callbacks, a Future and a log call per message. What
isn't common (control frames, fragments, extensions, anything wrong) is left to it: `read` gives
None then.
"""

from typing import Any

import attrs
from autobahn.websocket import xormasker as _xormasker

_xor: Any = _xormasker

_TEXT, _BINARY = 0x81, 0x82  #: first octets of final text and binary frames
_MASKED = 0x80
_MASK_BYTES = 4
#: Below it Python's big integers unmask faster than a call into C with its buffers.
_SHORT_BYTES = 1024
_NO_MASK = b"\0\0\0\0"


#: A message that came in one frame: its payload, whether it is binary, and where in the buffer the
#: next frame begins. A plain tuple: one is made for every message.
Frame = tuple[bytes, bool, int]


@attrs.frozen
class Incomplete:
    """A message in one frame that hasn't come whole."""

    missing_bytes: int


def read(buffer: bytes, at: int, max_bytes: int) -> Frame | Incomplete | None:
    """The message whose frame begins at `at`; None when it isn't one for here: text that isn't
    UTF-8 and payloads over `max_bytes` among them."""
    available = len(buffer) - at
    if available < 2:
        return Incomplete(2 - available)
    first, size = buffer[at], buffer[at + 1] - _MASKED
    if size < 0 or (first != _TEXT and first != _BINARY):
        return None
    start = at + 2 + _MASK_BYTES
    if size > 125:
        width = 2 if size == 126 else 8
        start += width
        if start > len(buffer):
            return Incomplete(start - len(buffer))
        size = int.from_bytes(buffer[at + 2 : at + 2 + width], "big")
        if size < (126 if width == 2 else 65536):  # not the shortest form
            return None
    if size > max_bytes:
        return None
    end = start + size
    if end > len(buffer):
        return Incomplete(end - len(buffer))
    payload = unmask(buffer[start:end], buffer[start - _MASK_BYTES : start])
    if first == _TEXT and not payload.isascii():
        try:
            payload.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return payload, first == _BINARY, end


def unmask(data: bytes, mask: bytes) -> bytes:
    """What a client masked; masking is its own inverse."""
    size = len(data)
    if mask == _NO_MASK:
        return data
    if size > _SHORT_BYTES:
        unmasked: bytes = _xor.create_xor_masker(mask, size).process(data)
        return unmasked
    pad = int.from_bytes((mask * ((size >> 2) + 1))[:size], "big")
    return (int.from_bytes(data, "big") ^ pad).to_bytes(size, "big")


def header(size_bytes: int, is_binary: bool) -> bytes:
    """What stands before an unmasked payload of a whole message."""
    first = _BINARY if is_binary else _TEXT
    if size_bytes < 126:
        return bytes((first, size_bytes))
    if size_bytes < 65536:
        return bytes((first, 126)) + size_bytes.to_bytes(2, "big")
    return bytes((first, 127)) + size_bytes.to_bytes(8, "big")
