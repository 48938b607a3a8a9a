"""A reader's copy of a journal on disk: what it was given, record by record, whatever killed it."""

import struct
from collections.abc import Iterable
from pathlib import Path

from cumulus_wire.journal import Kind, Record

_HEAD = struct.Struct("!QQBQI")  # offset, next offset, kind, time, bytes of payload


def append(path: Path, records: Iterable[Record]) -> None:
    """Adds records, in one write: whoever is killed leaves a torn end at worst."""
    data = b"".join(
        _HEAD.pack(r.offset, r.next_offset, r.kind, r.time_us, len(r.payload)) + r.payload
        for r in records
    )
    with open(path, "ab", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


def load(path: Path) -> list[Record]:
    """The records; a torn end is cut off, on disk too. Empty without a file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    records, at = [], 0
    while at + _HEAD.size <= len(data):
        offset, next_offset, kind, time_us, size = _HEAD.unpack_from(data, at)
        if at + _HEAD.size + size > len(data):
            break
        payload = data[at + _HEAD.size : at + _HEAD.size + size]
        records.append(Record(Kind(kind), payload, time_us, offset, next_offset))
        at += _HEAD.size + size
    if at < len(data):
        with open(path, "r+b") as file:
            file.truncate(at)
    return records
