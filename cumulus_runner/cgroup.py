"""What the kernel has refused or killed in this container's cgroup, version 2 or 1."""

from __future__ import annotations

import os

_ROOT = "/sys/fs/cgroup"
_OWN = "/proc/self/cgroup"


def oom_kills(root: str = _ROOT, own: str = _OWN) -> int:
    """How many processes were killed for want of memory; 0 where nothing tells it."""
    return _counter(root, own, "memory", "memory.events", "memory.oom_control", "oom_kill")


def processes_refused(root: str = _ROOT, own: str = _OWN) -> int:
    """How often a process or thread was refused at the limit of their number; 0 as above."""
    return _counter(root, own, "pids", "pids.events", "pids.events", "max")


def _counter(root: str, own: str, controller: str, file_2: str, file_1: str, name: str) -> int:
    for path in _candidates(root, own, controller, file_2, file_1):
        try:
            # As bytes, here and elsewhere: the module for a text's encoding is one import more.
            with open(path, "rb") as file:
                for line in file:
                    key, _, count = line.partition(b" ")
                    if key == name.encode():
                        return int(count)
        except OSError:
            continue  # not this version, or not mounted at this path
    return 0


def _candidates(root: str, own: str, controller: str, file_2: str, file_1: str) -> list[str]:
    """Our own cgroup as /proc tells it, then the root: a container is shown its own as the root."""
    paths = []
    try:
        with open(own, "rb") as file:
            for line in file:
                _, controllers, path = line.decode().rstrip("\n").split(":", 2)
                path = path.lstrip("/")
                if controller in controllers.split(","):
                    paths.append(os.path.join(root, controller, path, file_1))
                elif controllers == "":
                    paths.append(os.path.join(root, path, file_2))
                    paths.append(os.path.join(root, "unified", path, file_2))
    except (OSError, ValueError):
        paths = []
    paths.append(os.path.join(root, file_2))
    paths.append(os.path.join(root, controller, file_1))
    return paths
