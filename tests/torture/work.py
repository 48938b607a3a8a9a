"""What a tortured job does. Its output is a sequence that anybody can make again from its seed.

This module travels into the job: it imports nothing but the standard library.
"""

import hashlib
import os
import signal
import sys
import time
from typing import Any

#: How often a second a job writes.
PIECES_PER_S = 8


def sequence(seed: str, stream: str, size_bytes: int, as_lines: bool) -> bytes:
    """What the job of that seed says on `stream`. Binary has no newline at its end."""
    if not as_lines:
        data = hashlib.shake_256(f"{seed} {stream}".encode()).digest(size_bytes)
        return data[:-1] + b"." if data else data
    half = hashlib.shake_256(f"{seed} {stream}".encode()).hexdigest(size_bytes // 2 + 1)
    lines = "\n".join(half[at : at + 79] for at in range(0, size_bytes, 79))
    return (lines[: size_bytes - 1] + "\n").encode() if size_bytes else b""


def result(seed: str, size_bytes: int) -> dict[str, Any]:
    """The value that it returns."""
    return {
        "seed": seed,
        "blob": hashlib.shake_256(f"{seed} result".encode()).hexdigest(size_bytes),
    }


def work(
    seed: str,
    end: str,
    out_bytes: int,
    err_bytes: int,
    as_lines: bool,
    speaks_s: float,
    idles_s: float,
    result_bytes: int,
) -> dict[str, Any]:
    """Says its sequences within about `speaks_s`, is silent for `idles_s`, ends as `end` says."""
    streams = [
        (1, sequence(seed, "stdout", out_bytes, as_lines)),
        (2, sequence(seed, "stderr", err_bytes, False)),
    ]
    pieces = max(1, int(speaks_s * PIECES_PER_S))
    for piece in range(pieces):
        for descriptor, data in streams:
            _write(
                descriptor, data[len(data) * piece // pieces : len(data) * (piece + 1) // pieces]
            )
        time.sleep(speaks_s / pieces)
    time.sleep(idles_s)
    if end == "raise":
        raise ValueError(f"as planned: {seed}")
    if end == "exit":
        sys.exit(7)
    if end == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    return result(seed, result_bytes)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
