"""Daemons that are measured: a local one of their own, or one on the kept Swarm."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.harness import Daemon

ROOT = Path(__file__).parents[2]
_KIB = 1024


@contextlib.contextmanager
def started(daemon: Daemon, *, abandon: bool = False) -> Iterator[Daemon]:
    """Serves; in the end no job of it is left, and it is stopped.

    With `abandon`, for a local one with many jobs, those that run are killed behind its back.
    """
    try:
        yield daemon.start()
    finally:
        left: list[int] = []
        try:
            if daemon.process is not None and daemon.process.poll() is None:
                if abandon:
                    left = descendants(daemon.process.pid)
                else:
                    daemon.cancel_all()
        finally:
            daemon.stop()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def pid_of(daemon: Daemon) -> int:
    """The process of a daemon that runs."""
    assert daemon.process is not None
    return daemon.process.pid


def rss_bytes(pid: int) -> int:
    """Memory that a process has now."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most that it had since `forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Begins to look for the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_s(pid: int) -> float:
    """CPU time so far, of all threads that live, in user and kernel."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def descendants(pid: int) -> list[int]:
    """Processes below a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def is_root() -> bool:
    """Swarm's engines need it."""
    return os.geteuid() == 0


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * _KIB
    raise ProcessLookupError(f"no {key} of process {pid}")
