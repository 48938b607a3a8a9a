"""How often the kernel killed a process of this container for want of memory."""

from __future__ import annotations

import os

_ROOT = "/sys/fs/cgroup"


def kills(root: str = _ROOT, own: str = "/proc/self/cgroup") -> int:
    """The `oom_kill` counter of our cgroup, version 2 or 1; 0 where there is none to read."""
    for path in _candidates(root, own):
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        return int(count)
        except OSError:
            continue  # not this version, or not mounted at this path
    return 0


def _candidates(root: str, own: str) -> list[str]:
    """Our own cgroup as /proc tells it, then the root: a container is shown its own as the root."""
    paths = []
    try:
        with open(own, encoding="utf-8") as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                path = path.lstrip("/")
                if "memory" in controllers.split(","):
                    paths.append(os.path.join(root, "memory", path, "memory.oom_control"))
                elif controllers == "":
                    paths.append(os.path.join(root, path, "memory.events"))
                    paths.append(os.path.join(root, "unified", path, "memory.events"))
    except (OSError, ValueError):
        paths = []
    paths.append(os.path.join(root, "memory.events"))
    paths.append(os.path.join(root, "memory", "memory.oom_control"))
    return paths
