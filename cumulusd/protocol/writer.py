"""Writes what one turn of the reactor has for many connections in one piece each.

They are handed to an idle socket at once (`direct_write`).
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from cumulusd.direct_write import DirectWrite

#: More than that is handed over before the turn ends.
_MOST_BYTES = 64 * 1024


class Turn:
    """What is to be written when the present turn ends; one for all connections of a listener."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._writers: list[Writer] = []
        self._inside = 0
        self._scheduled = False

    def run(self, work: Callable[[bytes], None], data: bytes) -> None:
        """Does the work; what it writes goes out when it is done."""
        self._inside += 1
        try:
            work(data)
        finally:
            self._inside -= 1
            if not self._inside:
                self._flush()

    def wants(self, writer: "Writer") -> None:
        """The writer has something."""
        self._writers.append(writer)
        if not self._inside and not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._later)

    def _later(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()


class Writer:
    """What waits for one transport within a turn: at most 64 KiB and one message."""

    def __init__(self, transport: Any, turn: Turn) -> None:
        self._transport = DirectWrite(transport)
        self._turn = turn
        self._pieces: list[bytes] = []
        self._bytes = 0

    def write(self, head: bytes, body: bytes) -> None:
        """Both, at the end of the turn at the latest."""
        if not self._pieces:
            self._turn.wants(self)
        self._pieces += (head, body)
        self._bytes += len(head) + len(body)
        if self._bytes > _MOST_BYTES:
            self.flush()

    def drop(self) -> None:
        """Frees what waits."""
        self._pieces.clear()
        self._bytes = 0

    def flush(self) -> None:
        """Hands over what waits."""
        if not self._pieces:
            return
        data = b"".join(self._pieces)
        self.drop()
        self._transport.write(data)
