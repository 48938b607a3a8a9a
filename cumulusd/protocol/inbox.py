"""What one connection may send: so many messages a second, and no more than others take.

Reading from the connection is held while any of these lasts; its kernel then holds the peer:

- it sent more messages than its allowance: a bucket of `message_burst`, refilled by
  `max_messages_per_s`. What one read of the transport brought is still worked off, so the debt is
  bounded by 64 KiB of messages.
- somebody it sends to (a caller of its procedures, a callee) reads too slowly.

Being held to the rate costs a peer nothing but time, and the daemon next to nothing, so a burst or
a hard-working client is served. But a peer that has not once recovered half its burst within
`message_rate_patience_s` is no client at work: it is in a loop, and its calls, cancels and pings
wait behind one another. It is told so and closed, rather than slowed without a word.
"""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cumulusd.protocol.limits import Limits

_RATE = "rate"


class Inbox:
    """Decides whether a connection is read from."""

    def __init__(
        self,
        *,
        clock: IReactorTime,
        limits: Limits,
        pause: Callable[[], None],
        resume: Callable[[], None],
        flooded: Callable[[str], None],
    ) -> None:
        """`pause` and `resume` stop and start the transport's reading; `flooded(why)` is called
        when the peer has sent too much for too long, and must lead to `lose()`."""
        self._clock = clock
        self._limits = limits
        self._pause = pause
        self._resume = resume
        self._flooded = flooded
        self._rate = limits.max_messages_per_s
        self._allowance = float(limits.message_burst)
        self._filled_at = clock.seconds()
        self._held: set[object] = set()
        self._resumed_at = self._filled_at
        self._in_debt_since: float | None = None
        self._rest: IDelayedCall | None = None
        self._lost = False

    def silent_since(self, heard_at: float) -> float | None:
        """Since when the peer says nothing though it is read from, given when it was last heard;
        None while it isn't read from."""
        return None if self._held else max(heard_at, self._resumed_at)

    def is_held_for(self, why: object) -> bool:
        """Is reading held for that reason already?"""
        return why in self._held

    def take(self) -> None:
        """The peer sent one message, or a piece of one, or a ping."""
        if not self._rate or self._lost:
            return
        now = self._clock.seconds()
        filled = self._allowance + (now - self._filled_at) * self._rate
        burst = self._limits.message_burst
        self._filled_at = now
        self._allowance = (filled if filled < burst else burst) - 1
        if self._allowance < 0:
            self._owe(now)
        elif self._in_debt_since is not None and self._allowance >= burst / 2:
            self._in_debt_since = None

    def hold(self, why: object) -> None:
        """Reading is held until `release` of the same reason."""
        if self._lost:
            return
        if not self._held:
            self._pause()
        self._held.add(why)

    def release(self, why: object) -> None:
        """That reason is gone; unknown ones are ignored."""
        if why not in self._held:
            return
        self._held.remove(why)
        if not self._held and not self._lost:
            self._resumed_at = self._clock.seconds()
            self._resume()

    def lose(self) -> None:
        """The connection is over: no timer is left."""
        self._lost = True
        self._held.clear()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _owe(self, now: float) -> None:
        if self._in_debt_since is None:
            self._in_debt_since = now
        if now - self._in_debt_since > self._limits.message_rate_patience_s:
            self._flooded(
                f"over {self._rate:g} messages a second for "
                f"{self._limits.message_rate_patience_s:g} s (router.max_messages_per_s): send "
                "fewer, or fewer and larger ones"
            )
            return
        if self._rest is None:
            self.hold(_RATE)
            self._rest = self._clock.callLater(-self._allowance / self._rate, self._rested)

    def _rested(self) -> None:
        self._rest = None
        # What else the same read brought has come on top.
        owed_since_s = self._clock.seconds() - self._filled_at
        owed = -(self._allowance + owed_since_s * self._rate)
        if owed > 1e-6:
            self._rest = self._clock.callLater(owed / self._rate, self._rested)
        else:
            self.release(_RATE)
