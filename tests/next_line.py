"""Lines of a process's output one by one, where `communicate` gives the rest."""

import os
import subprocess
from typing import Any


def next_line(process: "subprocess.Popen[Any]") -> str:
    """The next line of its stdout, with its end; empty at the end of output. Takes no byte more:
    `readline` keeps what it read ahead, and `communicate` with a timeout doesn't look there."""
    assert process.stdout is not None
    line = bytearray()
    while not line.endswith(b"\n") and (byte := os.read(process.stdout.fileno(), 1)):
        line += byte
    return line.decode()
