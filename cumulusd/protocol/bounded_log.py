"""A log that peers can't flood: so many lines a minute, then a count of the rest.

A line has a sort (what happened) and a source (whose doing it was). In any minute the first lines
of each sort and source are written; what comes on top is counted, and told in one line at the end
of that minute. Sources are bounded too: those beyond are one, "other addresses".
"""

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

WINDOW_S = 60.0
MAX_SOURCES = 64  #: of one sort that are told apart within a minute
OTHERS = "other addresses"


@attrs.define
class _Minute:
    """One sort's lines since `began_at`."""

    began_at: float
    written: dict[str, int] = attrs.field(factory=dict)  #: by source
    withheld: dict[str, int] = attrs.field(factory=dict)


class BoundedLog:
    """Writes through a logger; never silent about what it withheld."""

    def __init__(self, clock: IReactorTime, log: Logger, *, lines_per_minute: int) -> None:
        """`lines_per_minute` holds for each sort and source."""
        self._clock = clock
        self._log = log
        self._lines_per_minute = lines_per_minute
        self._minutes: dict[str, _Minute] = {}
        self._summing_up: IDelayedCall | None = None

    def info(self, sort: str, source: str, format: str, /, **fields: Any) -> None:
        """A line of the daemon's usual work."""
        self._write(sort, source, lambda: self._log.info(format, **fields))

    def warn(self, sort: str, source: str, format: str, /, **fields: Any) -> None:
        """Something that an operator may want to look into."""
        self._write(sort, source, lambda: self._log.warn(format, **fields))

    def error(self, sort: str, source: str, format: str, /, **fields: Any) -> None:
        """A fault."""
        self._write(sort, source, lambda: self._log.error(format, **fields))

    def failure(self, sort: str, source: str, format: str, /, **fields: Any) -> None:
        """The exception that is being handled, with its traceback."""
        self._write(sort, source, lambda: self._log.failure(format, **fields))

    def close(self) -> None:
        """Tells what was withheld so far, and stops the timer."""
        if self._summing_up is not None:
            self._summing_up.cancel()
            self._summing_up = None
        for sort in list(self._minutes):
            self._sum_up(sort)

    def _write(self, sort: str, source: str, write: Callable[[], None]) -> None:
        now = self._clock.seconds()
        minute = self._minutes.get(sort)
        if minute is None or now - minute.began_at >= WINDOW_S:
            self._sum_up(sort)
            minute = self._minutes[sort] = _Minute(now)
        if source not in minute.written and len(minute.written) >= MAX_SOURCES:
            source = OTHERS
        written = minute.written.get(source, 0)
        if written < self._lines_per_minute:
            minute.written[source] = written + 1
            write()
            return
        minute.withheld[source] = minute.withheld.get(source, 0) + 1
        if self._summing_up is None:
            self._summing_up = self._clock.callLater(WINDOW_S, self._sum_up_all)

    def _sum_up_all(self) -> None:
        self._summing_up = None
        now = self._clock.seconds()
        for sort, minute in list(self._minutes.items()):
            if now - minute.began_at >= WINDOW_S:
                self._sum_up(sort)
        if any(minute.withheld for minute in self._minutes.values()):
            self._summing_up = self._clock.callLater(WINDOW_S, self._sum_up_all)

    def _sum_up(self, sort: str) -> None:
        minute = self._minutes.pop(sort, None)
        if minute is None:
            return
        for source, count in minute.withheld.items():
            self._log.emit(
                LogLevel.warn,
                "{count} more line(s) of the sort {sort!r} from {source} were not written: at most"
                " {limit} a minute are",
                count=count,
                sort=sort,
                source=source,
                limit=self._lines_per_minute,
            )
