"""When Python's garbage collector of cycles runs in the daemon.

It walks all objects that it knows, in the reactor's thread: with a hundred thousand jobs of history
that is a pause of 50 ms each time. What a start makes stays, so it is taken out of its sight.
"""

import gc
from typing import Any


def hold_until_started(reactor: Any) -> None:
    """No collection while the daemon starts, when there is only ever more to walk; none of what is
    there then by the time the reactor runs. For a process that is the daemon's alone."""
    gc.disable()
    reactor.callWhenRunning(_started)


def _started() -> None:
    gc.freeze()
    gc.enable()
