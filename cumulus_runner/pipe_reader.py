"""Reads pipes into journal frames, in one buffer that is used again: nothing is copied or made anew
for output in bulk, which is most of what it would cost."""

from __future__ import annotations

import os

from cumulus_wire.journal import HEADER, encode_into

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cumulus_wire.journal import Kind

#: What a record holds at most: readers get whole ones, slow readers few at a time.
RECORD_BYTES = (64 << 10) - HEADER.size
_RECORDS = 4
#: What is read at a time at most.
READ_BYTES = _RECORDS * RECORD_BYTES
#: What its frames have beside it.
HEADERS_BYTES = _RECORDS * HEADER.size


class PipeReader:
    """What it gives is good until the next `read`."""

    def __init__(self) -> None:
        self._buffer = bytearray(READ_BYTES + HEADERS_BYTES)
        self._view = memoryview(self._buffer)
        #: Where the payloads stand, each behind the room for its header.
        step = HEADER.size + RECORD_BYTES
        self._places = [
            (at, self._view[at + HEADER.size : at + step])
            for at in range(0, len(self._buffer), step)
        ]

    def read(self, fd: int, limit: int, kind: Kind) -> tuple[memoryview, list[memoryview]]:
        """Whole frames of what is in the pipe, `limit` bytes at most, and their payloads. Both are
        empty at its end. Raises OSError."""
        wanted, left = [], limit
        for _, place in self._places:
            if left <= 0:
                break
            wanted.append(place[:left])
            left -= len(place)
        size = os.readv(fd, wanted)
        payloads: list[memoryview] = []
        end = 0
        for at, place in self._places:
            if size <= 0:
                break
            payload = place[:size]
            encode_into(self._buffer, at, kind, len(payload))
            payloads.append(payload)
            size -= len(payload)
            end = at + HEADER.size + len(payload)
        return self._view[:end], payloads
