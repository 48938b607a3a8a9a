"""A job's stdout and stderr out of its journal; what isn't kept is told in its place."""

from collections.abc import Iterator

from cumulus_wire.journal import Kind, Record, is_rest_missing
from cumulusd.jobs.journal import Journal

_CHUNK_BYTES = 64 * 1024
_OUTPUT = (Kind.STDOUT, Kind.STDERR)


def printed(journal: Journal, end: int) -> Iterator[bytes]:
    """The bytes of stdout and stderr up to offset `end`, each piece read when it is asked for."""
    offset = 0
    while offset < end:
        chunk = journal.read(offset, _CHUNK_BYTES)
        if chunk.kind == "gap":
            dropped = chunk.next_offset - chunk.offset
            yield f"\n[{dropped} bytes of the journal are not kept here]\n".encode()
        else:
            records = [each for each in chunk.records() if each.offset < end]
            yield b"".join(map(_printed, records))
        offset = chunk.next_offset


def _printed(entry: Record) -> bytes:
    if is_rest_missing(entry):
        attempt = entry.said().get("attempt")
        return (
            f"\n[more output of attempt {attempt} may be missing here: its worker was given up]\n"
        ).encode()
    return entry.payload if entry.kind in _OUTPUT else b""
