"""What waits to be written to one connection: counted, bounded, and owned here.

The transport gets only as much as it takes without pausing us (Twisted: 64 KiB and one message).
The rest waits in the outbox, so its size is known exactly, whatever the transport (TCP, TLS, unix).

==========================  ====================================================
queued bytes                what happens
==========================  ====================================================
above `high_watermark`      `above_high`: progressive results wait in `drained()`
at or below `low_watermark` they go on
above `hard_cap`            `overrun` is called: the connection must be ended
==========================  ====================================================

A paused transport that takes nothing for `slow_peer_timeout_s` is an overrun too.

Pongs wait here as well, at most one: a peer that pings and doesn't read would fill the transport
with them. WebSocket lets the newest stand for all.
"""

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from cumulusd.protocol.limits import Limits
from cumulusd.protocol.tallies import Traffic


@implementer(IPushProducer)
class Outbox:
    """The push producer of one connection's transport."""

    def __init__(
        self,
        *,
        clock: IReactorTime,
        limits: Limits,
        write: Callable[[bytes], None],
        write_pong: Callable[[bytes], None] = lambda payload: None,
        overrun: Callable[[str], None],
        relieved: Callable[[], None] = lambda: None,
        traffic: Traffic | None = None,
    ) -> None:
        """`write` and `write_pong` hand one message or pong to the transport and never raise;
        `overrun(why)` is called once, when the peer is too slow, after `lose()`; `relieved` each
        time it comes down to the low watermark. What is handed over is counted in `traffic`."""
        self._clock = clock
        self._limits = limits
        self._write = write
        self._write_pong = write_pong
        self._overrun = overrun
        self._relieved = relieved
        self._traffic = traffic or Traffic()
        self._owed_pong: bytes | None = None
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._paused = False
        self._over = False
        self._lost = False
        self._deadline: IDelayedCall | None = None
        self._waiters: list[Deferred[None]] = []
        self._when_empty: Callable[[], None] | None = None

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait here, not counting what the transport has."""
        return self._queued_bytes

    @property
    def waiting(self) -> bool:
        """The transport has enough: what is sent now isn't handed over at once."""
        return self._paused or bool(self._queue)

    @property
    def above_high(self) -> bool:
        """It went above the high watermark and has not yet come down to the low one."""
        return self._over

    @property
    def lost(self) -> bool:
        """Nothing is sent any more."""
        return self._lost

    def send(self, payload: bytes) -> None:
        """Sends one message, now or when the transport takes it. Ignored once lost."""
        if self._lost:
            return
        if not self._paused and not self._queue:
            self._traffic.messages_out += 1
            self._traffic.bytes_out += len(payload)
            self._write(payload)
            return
        self._queue.append(payload)
        self._queued_bytes += len(payload)
        if self._queued_bytes > self._limits.high_watermark_bytes:
            self._over = True
        if self._queued_bytes > self._limits.hard_cap_bytes:
            waiting = self._queued_bytes
            self.lose()
            self._overrun(f"{waiting} bytes wait for it, over the cap")

    def owe_pong(self, payload: bytes) -> None:
        """Answers a ping, now or when the transport takes it; then only the newest."""
        if self._lost:
            return
        if self._paused:
            self._owed_pong = payload
        else:
            self._write_pong(payload)

    async def drained(self) -> None:
        """Returns when the connection takes more. Raises CancelledError when it is lost.

        Bounded: a peer that takes nothing for `slow_peer_timeout_s` is lost.
        """
        if self._lost:
            raise CancelledError()
        if not self._over:
            return
        waiter: Deferred[None] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        await waiter

    def when_empty(self, then: Callable[[], None]) -> None:
        """Calls `then` once everything queued so far is handed over; not at all when lost."""
        if self._lost:
            return
        if self._queue:
            self._when_empty = then
        else:
            then()

    def lose(self) -> None:
        """The connection is over: frees the queue, ends the timer and everybody who waits."""
        if self._lost:
            return
        self._lost = True
        self._queue.clear()
        self._queued_bytes = 0
        self._owed_pong = None
        self._when_empty = None
        self._stop_deadline()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.errback(CancelledError())

    # IPushProducer

    def pauseProducing(self) -> None:
        """The transport has enough."""
        self._paused = True
        if self._deadline is None and not self._lost:
            self._deadline = self._clock.callLater(self._limits.slow_peer_timeout_s, self._too_slow)

    def resumeProducing(self) -> None:
        """The transport has sent all it had."""
        self._paused = False
        self._stop_deadline()
        if self._owed_pong is not None:
            pong, self._owed_pong = self._owed_pong, None
            self._write_pong(pong)
        while self._queue and not self._paused:
            payload = self._queue.popleft()
            self._queued_bytes -= len(payload)
            self._traffic.messages_out += 1
            self._traffic.bytes_out += len(payload)
            self._write(payload)  # may pause us again
        if self._over and self._queued_bytes <= self._limits.low_watermark_bytes:
            self._over = False
            self._relieved()
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)
        if not self._queue and self._when_empty is not None:
            then, self._when_empty = self._when_empty, None
            then()

    def stopProducing(self) -> None:
        """The transport is gone."""
        self.lose()

    def _too_slow(self) -> None:
        self._deadline = None
        self.lose()
        self._overrun(f"it took nothing for {self._limits.slow_peer_timeout_s:g} s")

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
