"""Processes of this machine, as /proc tells of them."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from cumulus_wire import folder

_PROC = Path("/proc")


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None when there is none (or a zombie).

    Process ids are reused; a pid with its start time is not.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may hold anything; fields count from behind it.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def running(arguments: Sequence[str]) -> int | None:
    """A process that was started with a command line that ends so; None when there is none. A
    runner's copy, which runs a job's code, has its command line: it is told by its name."""
    wanted = "".join(f"\0{argument}" for argument in arguments) + "\0"
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            found = (entry / "cmdline").read_bytes()
            if (entry / "comm").read_text(errors="replace").rstrip("\n") == folder.CODE_NAME:
                continue
        except OSError:
            continue
        if found.endswith(os.fsencode(wanted)) and start_ticks(int(entry.name)) is not None:
            return int(entry.name)
    return None


def holders(path: Path) -> list[int]:
    """The processes that have this very file open: for a `flock`ed file, all that hold the lock."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            for descriptor in (entry / "fd").iterdir():
                status = descriptor.stat()
                if (status.st_ino, status.st_dev) == (wanted.st_ino, wanted.st_dev):
                    found.append(int(entry.name))
                    break
        except OSError:
            # It ended while we looked, or belongs to somebody else: then it isn't a job of ours.
            continue
    return found


def send(pid: int, number: signal.Signals) -> bool:
    """Signals a process. False when there is none."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
