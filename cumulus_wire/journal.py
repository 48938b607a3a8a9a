"""Framing of a job's journal: everything a job says, as records at logical byte offsets.

A frame is a 20-byte header and a payload::

    magic u8 = 0xC5 | kind u8 | flags u16 = 0 | payload length u32 | unix time u64 (µs) | crc32 u32

all big-endian; the CRC covers the header before it and the payload, so that a torn write at the
end of a crashed machine's file is told from a whole record. The offset of a frame is the number of
journal bytes before it; offsets never change, also where storage dropped a range (`Kind.GAP`).
"""

from __future__ import annotations

import struct
import time
import zlib

from cumulus_wire.enums import IntEnum
from cumulus_wire.light_json import dumps, loads

# Importing `typing` takes as long as all the rest, and each job waits for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAGIC = 0xC5
HEADER = struct.Struct("!BBHIQI")
_CHECKED = struct.Struct("!BBHIQ")
#: Largest payload of one frame; longer output is cut into several frames.
MAX_PAYLOAD_BYTES = 1 << 20


class Kind(IntEnum):
    """What a record holds. Bytes kinds carry raw bytes, the others a JSON object."""

    STDOUT = 1  #: bytes the user's code wrote to stdout
    STDERR = 2  #: bytes the user's code wrote to stderr
    SETUP = 3  #: bytes that installing the requirements wrote
    STATUS = 4  #: {"phase": "setup"|"running"|"stopping", ...}
    PROGRESS = 5  #: {"fraction": 0..1|null, "message": str}
    RESULT = 6  #: bytes, a part of the result; EXIT names encoding, size and hash of the whole
    ERROR = 7  #: {"type", "module", "message", "traceback"} of an exception of the user's code
    EXIT = 8  #: the last record of an attempt, see `exit_record`
    #: {"from": offset, "to": offset}: a range that is not kept; with "to" null and an "attempt" the
    #: last record of an attempt whose rest was given up, see `rest_missing`
    GAP = 9
    #: {"checkpoints": [...]}: all that there are, at most 20, the newest last; see
    #: `cumulusd.jobs.model.Checkpoint`
    CHECKPOINT = 10


_KINDS = {int(kind): kind for kind in Kind}  # Kind(number) takes longer than the rest of a frame
_CHECKED_BYTES = _CHECKED.size


class JournalCorrupt(ValueError):
    """The bytes at `offset` are no frame."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"journal corrupt at offset {offset}: {why}")
        self.offset = offset


class Record:
    """One frame, decoded. `offset` is where it begins, `next_offset` where the next one does."""

    __slots__ = ("kind", "next_offset", "offset", "payload", "time_us")

    def __init__(
        self, kind: Kind, payload: bytes, time_us: int, offset: int, next_offset: int
    ) -> None:
        self.kind = kind
        self.payload = payload
        self.time_us = time_us
        self.offset = offset
        self.next_offset = next_offset

    def json(self) -> dict[str, Any]:
        """The payload of a JSON kind. Raises ValueError when it is no JSON object."""
        try:
            value = loads(self.payload)
        except RecursionError:
            raise ValueError(f"{self.kind.name} record at {self.offset} nests too deep") from None
        if not isinstance(value, dict):
            raise ValueError(f"{self.kind.name} record at {self.offset} holds no JSON object")
        return value

    def said(self) -> dict[str, Any]:
        """The same for who only shows it: empty when the job, which can write anything there, has
        written no JSON object."""
        try:
            return self.json()
        except ValueError:
            return {}

    def __repr__(self) -> str:
        return f"<Record {self.kind.name} {len(self.payload)} B at {self.offset}>"


def encode(kind: Kind, payload: bytes, time_us: int | None = None) -> bytes:
    """One frame. `time_us` is unix time in microseconds, now when left out."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"payload of {len(payload)} B is over {MAX_PAYLOAD_BYTES} B")
    if time_us is None:
        time_us = time.time_ns() // 1000
    head = _CHECKED.pack(MAGIC, kind, 0, len(payload), time_us)
    return b"".join((head, zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "big"), payload))


def encode_into(buffer: bytearray, at: int, kind: Kind, size_bytes: int) -> None:
    """Makes a frame, of now, of the payload of that size which stands `HEADER.size` behind `at`."""
    _CHECKED.pack_into(buffer, at, MAGIC, kind, 0, size_bytes, time.time_ns() // 1000)
    with memoryview(buffer) as view:
        begin = at + HEADER.size
        crc = zlib.crc32(view[at : at + _CHECKED.size])
        crc = zlib.crc32(view[begin : begin + size_bytes], crc)
    buffer[at + _CHECKED.size : begin] = crc.to_bytes(4, "big")


def encode_json(kind: Kind, value: Mapping[str, Any], time_us: int | None = None) -> bytes:
    """One frame of a JSON kind."""
    return encode(kind, dumps(value, compact=True).encode(), time_us)


class FrameParser:
    """Incremental, without I/O: bytes in, whole records out.

    `offset` is the journal offset of the first byte not yet returned in a record.
    Memory is bounded by one frame (`MAX_PAYLOAD_BYTES`) beyond what `feed` was given.
    """

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self._buffer = bytearray()
        self._wanted_bytes = HEADER.size  #: of what is held back, before it is looked at again

    @property
    def pending_bytes(self) -> int:
        """Bytes of an incomplete frame held back."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Record]:
        """Returns the records completed by `data`. Raises JournalCorrupt."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted_bytes:
                return []  # a large frame comes in many pieces: copied once, not with each
            source: bytes = bytes(self._buffer)
        else:
            source = data
        records: list[Record] = []
        # Once per frame, of which there may be one for each printed line.
        unpack, crc32, kinds, header_bytes = HEADER.unpack_from, zlib.crc32, _KINDS, HEADER.size
        position, size, here = 0, len(source), self.offset
        self._wanted_bytes = header_bytes
        try:
            while size - position >= header_bytes:
                magic, kind, flags, length, time_us, crc = unpack(source, position)
                if magic != MAGIC or flags != 0 or length > MAX_PAYLOAD_BYTES:
                    raise JournalCorrupt(here, "no frame header")
                begin = position + header_bytes
                end = begin + length
                if end > size:
                    self._wanted_bytes = end - position
                    break
                payload = source[begin:end]
                if crc32(payload, crc32(source[position : position + _CHECKED_BYTES])) != crc:
                    raise JournalCorrupt(here, "checksum mismatch")
                known = kinds.get(kind)
                if known is None:
                    raise JournalCorrupt(here, f"unknown kind {kind}")
                next_offset = here + header_bytes + length
                records.append(Record(known, payload, time_us, here, next_offset))
                here, position = next_offset, end
        finally:
            self.offset = here
        self._buffer = bytearray(source[position:])
        return records


def rest_missing(offset: int, attempt: int, time_us: int | None = None) -> bytes:
    """The frame with which the daemon ends the journal of an attempt whose worker was away until
    nothing of it could run any more: from `offset` on more may have been written there, nobody
    knows how much."""
    return encode_json(Kind.GAP, {"from": offset, "to": None, "attempt": attempt}, time_us)


def is_rest_missing(record: Record) -> bool:
    """Whether it is such a frame."""
    return record.kind is Kind.GAP and record.said().get("to", record) is None


def gap_record(start: int, end: int, time_us: int) -> Record:
    """What a reader gets in place of the dropped range [start, end)."""
    payload = dumps({"from": start, "to": end}).encode()
    return Record(Kind.GAP, payload, time_us, start, end)
