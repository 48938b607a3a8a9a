"""What jobs print, and the readers' end of it."""

import io
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from bench.parts.errors import BenchError

_READ_BYTES = 256 << 10
_WAIT_S = 120.0


def say(total_bytes: int, line_bytes: int) -> "dict[str, float]":
    """Prints so many bytes of numbered lines, in writes of about 100 KB as a buffered stdout makes
    them; their CRC. Run as a job, and from a file; it stands by itself."""
    import sys
    import zlib

    rest, crc, number = "x" * (line_bytes - 11) + "\n", 0, 0
    lines_a_write = max(1, 100_000 // line_bytes)
    left = total_bytes // line_bytes
    while left > 0:
        count = min(lines_a_write, left)
        text = "".join([f"{number + n:09} {rest}" for n in range(count)])
        crc = zlib.crc32(text.encode(), crc)
        sys.stdout.write(text)
        number, left = number + count, left - count
    sys.stdout.flush()
    return {"crc": crc, "bytes": number * line_bytes}


def tick(lines: int, pause_s: float) -> int:
    """Prints the time, in ns, so often. Run as a job, and from a file."""
    import sys
    import time

    begun = time.monotonic()
    for number in range(lines):
        time.sleep(max(0.0, begun + number * pause_s - time.monotonic()))
        sys.stdout.write(f"{time.time_ns()}\n")
        sys.stdout.flush()
    return lines


class Sink(io.TextIOBase):
    """A user's stdout that takes everything at once: how much, when, and its CRC."""

    def __init__(self) -> None:
        self.bytes = 0
        self.crc = 0
        self.first_at = self.last_at = 0.0  #: unix seconds

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.take(text.encode())
        return len(text)

    def take(self, data: bytes) -> None:
        """The same, for who has bytes."""
        if not data:
            return
        self.last_at = time.time()
        self.first_at = self.first_at or self.last_at
        self.bytes += len(data)
        self.crc = zlib.crc32(data, self.crc)

    def rate_mb_s(self, wanted: Mapping[str, float]) -> float:
        """From the first byte here to the last one. Raises BenchError unless it is all of that."""
        if self.bytes != wanted["bytes"] or self.crc != wanted["crc"]:
            raise BenchError(f"{self.bytes} bytes came, CRC {self.crc}, of {wanted}")
        return self.bytes / 1e6 / max(self.last_at - self.first_at, 1e-6)


class Ticks(Sink):
    """For `tick`: how old each line is when it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.ages_ms: list[float] = []
        self._begun = b""

    def take(self, data: bytes) -> None:
        super().take(data)
        now_ns = time.time_ns()
        *lines, self._begun = (self._begun + data).split(b"\n")
        self.ages_ms += [(now_ns - int(line)) / 1e6 for line in lines]


def file_of(call: str) -> str:
    """The text of a file that runs `call`, of `say` or `tick`, as a bare service runs it."""
    own = Path(__file__).read_text()
    begin = own.index("def say(")
    return f"{own[begin : own.index('class Sink')]}\n{call}\n"


def piped_mb_s(folder: Path, total_bytes: int, line_bytes: int) -> float:
    """The limit: the same function from a file by `python3 -u`, a reader appending what comes to
    another file."""
    path = folder / "said.py"
    path.write_text(file_of(f"say({total_bytes}, {line_bytes})"))
    child = subprocess.Popen(
        [sys.executable, "-u", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    sink = Sink()
    with child.stdout as pipe, open(folder / "said", "wb", buffering=0) as kept:
        while data := os.read(pipe.fileno(), _READ_BYTES):
            kept.write(data)
            sink.take(data)
    if child.wait(_WAIT_S) or sink.bytes != total_bytes // line_bytes * line_bytes:
        raise BenchError(f"the bare pipe gave {sink.bytes} bytes")
    return sink.bytes / 1e6 / max(sink.last_at - sink.first_at, 1e-6)
