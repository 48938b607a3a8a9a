"""The end of what each live job printed, for the record of its end. In memory, bounded."""

import codecs

from cumulus_wire.journal import Kind, Record

#: At most so many bytes of a job's output are told with its end.
TAIL_BYTES = 4096
_OUTPUT = (Kind.STDOUT, Kind.STDERR)


class LogTails:
    """Fed with the records of the attempt that runs, in order."""

    def __init__(self) -> None:
        self._tails: dict[str, bytearray] = {}

    def feed(self, job_id: str, entry: Record) -> None:
        """One more record of the job's."""
        if entry.kind not in _OUTPUT:
            return
        tail = self._tails.setdefault(job_id, bytearray())
        tail += entry.payload[-TAIL_BYTES:]
        del tail[:-TAIL_BYTES]

    def text(self, job_id: str) -> str:
        """stdout and stderr as they came, as text. What isn't UTF-8 is replaced; a character that
        the bound cut in two is left out."""
        tail = bytes(self._tails.get(job_id, b""))
        if len(tail) == TAIL_BYTES:
            begin = 0
            while begin < 3 and tail[begin] & 0xC0 == 0x80:
                begin += 1
            tail = tail[begin:]
        # In JSON a leading NUL would mean binary to WAMP.
        return codecs.decode(tail, "utf-8", "replace").replace("\0", "\\0")

    def forget(self, job_id: str) -> None:
        """The attempt is over."""
        self._tails.pop(job_id, None)
