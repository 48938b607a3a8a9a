"""Autobahn's own log, kept still: it has lines for each connection that fails, without bound, so
peers could flood ours. What matters of them our connections tell themselves, within bounds."""

from typing import Any


class StillLog:
    """Takes the place of a logger of txaio's, as `log` of an Autobahn protocol."""

    def _still(self, *args: Any, **fields: Any) -> None:
        """Writes nothing."""

    trace = debug = info = warn = error = critical = failure = _still


STILL = StillLog()
