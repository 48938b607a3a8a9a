"""Pieces of a journal as its readers get them: whole frames, or a gap."""

import os
from pathlib import Path

import attrs

from cumulus_wire.journal import (
    HEADER,
    MAGIC,
    MAX_PAYLOAD_BYTES,
    FrameParser,
    JournalCorrupt,
    Record,
    gap_record,
)
from cumulusd.jobs import segments
from cumulusd.jobs.segments import Segment


@attrs.frozen(kw_only=True)
class Chunk:
    """A piece of a journal for a reader."""

    kind: str  #: "frames", or "gap" for a range that the size cap dropped
    offset: int
    next_offset: int  #: where to read on
    data: bytes = b""  #: whole frames; empty for a gap and at the journal's end

    def records(self) -> list[Record]:
        """The same as records; a gap is one GAP record. Raises JournalCorrupt."""
        if self.kind == "gap":
            return [gap_record(self.offset, self.next_offset, 0)]
        return FrameParser(self.offset).feed(self.data)


def read_chunk(folder: Path, segment: Segment, offset: int, end: int, max_bytes: int) -> Chunk:
    """Whole frames from `offset` on, which lies in the segment and before `end`: at most
    `max_bytes`, but one frame in any case.

    Raises JournalCorrupt when no frame begins at `offset`, OSError.
    """
    limit = min(segment.end, end) - offset
    fd = os.open(segments.path_of(folder, segment.start), os.O_RDONLY | os.O_CLOEXEC)
    try:
        position = offset - segment.start
        data = os.pread(fd, min(limit, max(max_bytes, HEADER.size)), position)
        first = _frame_bytes(data, 0)
        if first is not None and len(data) < first <= limit:
            data = os.pread(fd, first, position)
    finally:
        os.close(fd)
    # The first frame's checksum proves that this is a boundary; readers check the others.
    if first is None or not FrameParser(offset).feed(data[:first]):
        raise JournalCorrupt(offset, "no frame")
    size = first
    while (more := _frame_bytes(data, size)) is not None and size + more <= len(data):
        size += more
    return Chunk(kind="frames", offset=offset, next_offset=offset + size, data=data[:size])


def record_around(folder: Path, segment: Segment, offset: int) -> int:
    """Where the record of a segment begins that `offset` is inside. Raises OSError."""
    data = segments.path_of(folder, segment.start).read_bytes()
    begin = 0
    while (size := _frame_bytes(data, begin)) is not None:
        if begin + size > offset - segment.start:
            break
        begin += size
    return segment.start + begin


def _frame_bytes(data: bytes, position: int) -> int | None:
    """Size of the frame whose header stands at `position`; None when none does."""
    if len(data) - position < HEADER.size:
        return None
    magic, _, flags, length, _, _ = HEADER.unpack_from(data, position)
    if magic != MAGIC or flags != 0 or length > MAX_PAYLOAD_BYTES:
        return None
    return HEADER.size + int(length)
