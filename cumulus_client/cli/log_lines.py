"""A job's output as lines with their times, for `cumulus logs`. No I/O."""

import datetime
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from cumulus_wire.journal import Kind, Record

#: A line without an end is taken for one when it is this long.
MAX_LINE_BYTES = 16384
#: Most lines that `--tail` can hold.
MAX_TAIL = 10_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the job's stdout or stderr. `time_us`: unix microseconds of its first byte.
    `data`: with its newline, where it has one."""

    kind: Kind
    time_us: int
    data: bytes


class LineSplitter:
    """Makes lines of records, for each stream its own."""

    def __init__(self) -> None:
        self._begun: dict[Kind, tuple[int, bytes]] = {}

    def feed(self, record: Record) -> Iterator[Line]:
        """The lines that this record ends."""
        if record.kind not in (Kind.STDOUT, Kind.STDERR):
            return
        time_us, held = self._begun.pop(record.kind, (record.time_us, b""))
        *lines, rest = (held + record.payload).split(b"\n")
        for line in lines:
            yield Line(record.kind, time_us, line + b"\n")
            time_us = record.time_us
        while len(rest) > MAX_LINE_BYTES:
            yield Line(record.kind, time_us, rest[:MAX_LINE_BYTES])
            rest, time_us = rest[MAX_LINE_BYTES:], record.time_us
        if rest:
            self._begun[record.kind] = (time_us, rest)

    def finish(self) -> Iterator[Line]:
        """What has no newline."""
        begun, self._begun = self._begun, {}
        for kind, (time_us, rest) in begun.items():
            yield Line(kind, time_us, rest)


class Tail:
    """Keeps the last lines only, until it is opened."""

    def __init__(self, lines: int) -> None:
        self._lines: deque[Line] = deque(maxlen=lines)

    def put(self, line: Line) -> None:
        """The oldest goes where it is one too many."""
        self._lines.append(line)

    def taken(self) -> list[Line]:
        """What it kept; it is empty then."""
        lines = list(self._lines)
        self._lines.clear()
        return lines


def stamp(time_us: int) -> str:
    """`2026-11-26T12:00:00.123456Z`."""
    moment = datetime.datetime.fromtimestamp(time_us / 1e6, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stamped(line: Line) -> bytes:
    """The line with its time before it, and an end."""
    end = b"" if line.data.endswith(b"\n") else b"\n"
    return stamp(line.time_us).encode() + b" " + line.data + end


def as_json(line: Line) -> str:
    """The line as a JSON object; what is no UTF-8 becomes U+FFFD."""
    return json.dumps(
        {
            "time": line.time_us / 1e6,
            "stream": "stdout" if line.kind is Kind.STDOUT else "stderr",
            "text": line.data.decode("utf-8", "replace"),
        }
    )
