"""The Engine's log frames: `type(1) 0 0 0 length(4, big endian)`, then the bytes. Pure."""

import struct
from collections.abc import Iterator
from enum import IntEnum

import attrs

_HEADER = struct.Struct(">BxxxI")
#: The engine cuts lines into frames of 16 KiB; far beyond that it is no log stream.
MAX_FRAME_BYTES = 1 << 20


class Stream(IntEnum):
    """Where a frame's bytes come from."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ENGINE = 3  #: the engine's own words on why it can't go on, inside a 200


@attrs.frozen
class Frame:
    """A piece of output; a line may take several."""

    stream: Stream
    data: bytes


class BadFrame(ValueError):
    """What came is no log stream."""


class FrameParser:
    """Takes bytes as they come, gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises BadFrame, and then always."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if kind > max(Stream) or any(self._buffer[1:4]) or length > MAX_FRAME_BYTES:
                raise BadFrame(f"no log frame begins with {bytes(self._buffer[:8])!r}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            data = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield Frame(Stream(kind), data)

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that isn't whole; not 0 at the end means that the stream was cut."""
        return len(self._buffer)


def text_of(data: bytes, *, at_most_bytes: int) -> str:
    """The end of a log as text, both streams in the order they came.

    What the engine itself says is marked, and so is a stream that breaks off.
    """
    parser, parts = FrameParser(), list[bytes]()
    words: list[str] = []
    try:
        for frame in parser.feed(data):
            if frame.stream is Stream.ENGINE:
                words.append(f"[engine: {frame.data.decode(errors='replace').strip()}]")
            else:
                parts.append(frame.data)
    except BadFrame as error:
        words.append(f"[{error}]")
    else:
        if parser.pending_bytes:
            words.append("[the log breaks off here]")
    tail = b"".join(parts)[-at_most_bytes:].decode(errors="replace").strip()
    return "\n".join(part for part in (tail, *words) if part)
