"""A job's journal as its reader sees it: records in, output and the result out. No I/O."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from cumulus_client.exceptions import ResultError
from cumulus_wire.journal import FrameParser, Kind, Record, gap_record

#: A result larger than this is not gathered in the client's memory.
MAX_RESULT_BYTES = 1 << 30
_OUTPUT = (Kind.STDOUT, Kind.STDERR)


class JournalReader:
    """Progressive results of one following into records, each exactly once, in order.

    It survives being attached anew: `next_offset` says from where. Frames before it are dropped,
    a hole that nobody announced is told from an announced gap.
    """

    def __init__(self, offset: int = 0) -> None:
        """`offset`: where to begin, a frame boundary."""
        self.next_offset = offset

    def frames(self, offset: int, data: bytes) -> list[Record]:
        """The new records in whole frames that begin at `offset`. Raises JournalCorrupt,
        ValueError when the frames don't join what was read before."""
        if offset > self.next_offset:
            raise ValueError(f"journal continues at {offset}, expected {self.next_offset}")
        parser = FrameParser(offset)
        records = parser.feed(data)
        if parser.pending_bytes:
            raise ValueError(f"incomplete frame at journal offset {parser.offset}")
        fresh = records
        if offset < self.next_offset:
            fresh = [record for record in records if record.offset >= self.next_offset]
        self.next_offset = max(self.next_offset, parser.offset)
        return fresh

    def gap(self, offset: int, next_offset: int) -> list[Record]:
        """One GAP record for a range that the size cap dropped, none when it was read before."""
        if offset > self.next_offset or next_offset <= self.next_offset:
            if next_offset <= self.next_offset:
                return []
            raise ValueError(f"journal gap at {offset}, expected {self.next_offset}")
        record = gap_record(self.next_offset, next_offset, 0)
        self.next_offset = next_offset
        return [record]

    def rewind(self, offset: int) -> list[Record]:
        """Goes on from `offset`, before what was read last: the daemon lost that. One GAP record
        that goes backwards says so."""
        record = gap_record(self.next_offset, offset, 0)
        self.next_offset = offset
        return [record]


class ResultCollector:
    """Keeps the RESULT bytes of a job's last attempt, and nothing else of its journal."""

    def __init__(self, max_bytes: int = MAX_RESULT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._sha256 = hashlib.sha256()  # of what is there, as it comes: a result may be large
        self._attempt_over = False

    def feed(self, records: Iterable[Record]) -> None:
        """Takes what belongs to the result. Raises ResultError over the bound."""
        for record in records:
            kind = record.kind
            if kind in _OUTPUT and not self._attempt_over:
                continue  # nearly all of them
            if kind is Kind.EXIT:
                self._attempt_over = True
                continue
            # An attempt that was killed has no EXIT; the next one begins with its set-up.
            begins = kind is Kind.STATUS and record.said().get("phase") == "setup"
            if self._attempt_over or begins:  # what the attempt before left is void
                self._attempt_over = False
                self._data.clear()
                self._sha256 = hashlib.sha256()
            if kind is Kind.RESULT:
                if len(self._data) + len(record.payload) > self._max_bytes:
                    raise ResultError(
                        f"the result is over {self._max_bytes} B, too large to gather in memory",
                        hint="write large data to a file or an object store and return its name",
                    )
                self._data += record.payload
                self._sha256.update(record.payload)

    def verified(self, info: Mapping[str, Any]) -> bytes | bytearray | None:
        """The whole result when size and SHA-256 are those of `info`, else None. No copy: what
        is fed later shows in it."""
        same = len(self._data) == info.get("size_bytes")
        return self._data if same and self._sha256.hexdigest() == info.get("sha256") else None


def result_matches(data: bytes | bytearray, info: Mapping[str, Any]) -> bool:
    """Has `data` the size and SHA-256 of `info` (`{encoding, size_bytes, sha256}`)?"""
    return len(data) == info.get("size_bytes") and (
        hashlib.sha256(data).hexdigest() == info.get("sha256")
    )
