"""The daemon's heartbeat for its service manager: the watchdog is fed while the daemon works, and
`systemctl status` says what it does."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.notify import Notifier

#: The longest time between two beats; the watchdog may ask for a shorter one.
BEAT_S = 10.0
_WAITING = (Phase.QUEUED, Phase.RETRYING)
_PAUSED = (Phase.PAUSING, Phase.PAUSED)


class Heartbeat:
    """Beats from the event loop, so only while that turns; and not while the store is stuck."""

    _log = Logger()

    def __init__(
        self,
        notifier: Notifier,
        clock: Any,
        *,
        watchdog_s: float | None,
        stuck_s: Callable[[], float],
        status: Callable[[], str],
    ) -> None:
        """`watchdog_s`: what the manager asks; None: it doesn't watch. `stuck_s`: for how long the
        job store's writer has been at one piece of work. `status`: one line."""
        self._notifier = notifier
        self._clock = clock
        self._watchdog_s = watchdog_s
        self._stuck_s = stuck_s
        self._status = status
        self._told = ""
        self._missed = False
        self._next: IDelayedCall | None = None
        # Three a period: one may be late, and one lost.
        self.period_s = BEAT_S if watchdog_s is None else min(BEAT_S, watchdog_s / 3)

    def start(self) -> None:
        """Beats from now on."""
        if self._notifier.is_heard:
            self._beat()

    def stop(self) -> None:
        """Beats no more."""
        if self._next is not None and self._next.active():
            self._next.cancel()

    def tell(self) -> None:
        """Says how things are when that has changed."""
        status = self._status()
        if status != self._told:
            self._told = status
            self._notifier.status(status)

    def _beat(self) -> None:
        self._next = self._clock.callLater(self.period_s, self._beat)
        if self._watchdog_s is not None:
            stuck_s = self._stuck_s()
            if stuck_s < self._watchdog_s:
                self._notifier.alive()
            elif not self._missed:
                self._log.critical(
                    "the job store's writer has been stuck for {stuck_s:.0f} s: the service manager"
                    " hears nothing any more, and will start this daemon again. Is its disk well?",
                    stuck_s=stuck_s,
                )
            self._missed = stuck_s >= self._watchdog_s
        self.tell()


def status_line(live: Iterable[JobRecord], workers: int, health: Mapping[str, str]) -> str:
    """What the daemon does, in one line. `health`: part -> "ok" or what is wrong. Pure."""
    counts: Counter[str] = Counter()
    for record in live:
        kind = "paused" if record.phase in _PAUSED else "running"
        counts["waiting" if record.phase in _WAITING else kind] += 1
    faults = [f"{part}: {words}" for part, words in health.items() if words != "ok"]
    jobs = ", ".join(f"{counts[kind]} {kind}" for kind in ("running", "waiting", "paused"))
    line = f"Up: jobs {jobs}; {workers} worker(s)"
    return f"{line}; NOT WELL: {'; '.join(faults)}" if faults else line
