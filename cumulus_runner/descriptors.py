"""What the runner's processes have open: nothing that isn't theirs."""

from __future__ import annotations

import fcntl
import os

PIPE_BYTES = 256 << 10


def seal_descriptors() -> None:
    """Makes 0-2 exist and keeps all others, whoever left them open, from the children."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the listing's own descriptor


def close_all_but(*kept: int) -> None:
    """Closes what is open beyond 0-2, but those."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own descriptor


def enlarge(pipe: int) -> None:
    """Lets it hold more, where it may."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        return  # over the user's quota of pipe pages: a small pipe is only slower
