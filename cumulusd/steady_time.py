"""Time that goes on whoever sets the machine's clock: waits and bounds are measured with it."""

import time
from collections.abc import Callable


def steady_wall_clock(
    wall_s: Callable[[], float] = time.time,
    elapsed_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
) -> Callable[[], float]:
    """Unix seconds, read once and counted on from there, also while the machine sleeps.

    A clock that is set meanwhile is followed at the next start only: a step would otherwise end
    waits early, or hold them up for as long.
    """
    offset_s = wall_s() - elapsed_s()
    return lambda: elapsed_s() + offset_s
