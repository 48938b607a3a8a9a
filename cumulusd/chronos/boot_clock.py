"""The clock partitions expire on: it goes on in sleep, nobody sets it, and a reboot restarts it."""

import time
from collections.abc import Callable
from pathlib import Path

import attrs

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@attrs.frozen(kw_only=True)
class BootClock:
    """Seconds since the boot that `boot_id` names."""

    boot_id: str
    seconds: Callable[[], float]


def system_boot_clock() -> BootClock:
    """This machine's."""
    return BootClock(
        boot_id=_BOOT_ID.read_text(encoding="ascii").strip(),
        seconds=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    )
