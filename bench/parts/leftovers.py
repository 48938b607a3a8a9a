"""Nothing that a measurement started outlives it, whatever session or parent it has by then."""

import contextlib
import ctypes
import os
import shutil
import signal
import time
from collections.abc import Collection
from pathlib import Path

from bench.parts.daemons import descendants

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_END_S = 15.0
_FOLDERS = "bench-of-"
_LOOK_S = 0.05


def adopt_orphans() -> None:
    """From now on, whatever loses its parent below this process becomes its child, so that it is
    found. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(number: int) -> None:
    """This process gets that signal when its parent ends. Raises OSError."""
    _prctl(_PR_SET_PDEATHSIG, number)


def below() -> list[int]:
    """Processes below this one."""
    return _below(os.getpid())


def end_below(pid: int, spared: Collection[int] = ()) -> list[int]:
    """Kills all processes below a process, but those that are spared and what is below them; those
    it found. What is this process's own is reaped too."""
    kept = {*spared}
    for each in spared:
        kept.update(_below(each))
    ended: set[int] = set()
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        reap(kept)
        left = [each for each in _below(pid) if each not in kept and _lives(each)]
        if not left:
            break
        ended.update(left)
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(_LOOK_S)
    return sorted(ended)


def prefix() -> str:
    """What the names of this process's folders begin with, for `sweep`."""
    return f"{_FOLDERS}{os.getpid()}-"


def sweep(folder: Path) -> None:
    """Removes folders there that a process made which is gone: it was killed."""
    for left in folder.glob(f"{_FOLDERS}*"):
        number = left.name.removeprefix(_FOLDERS).partition("-")[0]
        if number.isdigit() and not _lives(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def reap(spared: Collection[int]) -> None:
    """Takes the exit codes of children that nobody else asks for."""
    for each in _below(os.getpid()):
        if each not in spared and not _lives(each):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(each, os.WNOHANG)


def _below(pid: int) -> list[int]:
    # A process may end while it is looked at.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return descendants(pid)
    return []


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")
