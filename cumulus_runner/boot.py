"""This start of the machine: how long ago it was, and which one it is."""

from __future__ import annotations

import time


def boot_time() -> float:
    """Seconds since the machine's start, suspended ones too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Changes when the machine starts. Raises OSError where the kernel doesn't tell."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().decode().strip()
