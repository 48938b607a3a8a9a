"""An answer that is written as things happen: server-sent events to one reader."""

from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.server import Request
from zope.interface import implementer

from cumulusd.tasks import Signal
from cumulusd.web.streaming import STALLED_S

#: Something is sent so often, lest anybody between takes the connection for dead.
KEEPALIVE_S = 15.0


@implementer(IPushProducer)
class EventStream:
    """Writes to a request whose head is set; the reader sets the pace."""

    _log = Logger()

    def __init__(self, request: Request, clock: Any, keepalive: bytes = b": \n\n") -> None:
        """`keepalive` is sent when nothing else was for a while; nothing is, when it is empty."""
        self._request = request
        self._channel: Any = request.channel
        self._clock = clock
        self._keepalive = keepalive
        self._paused = False
        self._over = False
        self._more = Signal()
        self._timer: Any = None

    def start(self) -> None:
        """Begins; `end` when all is sent or the reader is gone."""
        self._request.registerProducer(self, True)  # type: ignore[no-untyped-call]
        self._timer = self._clock.callLater(KEEPALIVE_S, self._keep_alive)

    async def send(self, data: bytes) -> None:
        """Fires when the reader can take more; never when it is gone: cancel it then."""
        await self._drained()
        self._request.write(data)  # type: ignore[no-untyped-call]
        await self._drained()

    async def _drained(self) -> None:
        while self._paused:
            await self._more.wait()

    def end(self) -> None:
        """Nothing more is sent."""
        if not self._over:
            self._over = True
            self._stop_timer()
            self._request.unregisterProducer()  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        """The reader doesn't keep up; it has so long."""
        self._paused = True
        self._stop_timer()
        self._timer = self._clock.callLater(STALLED_S, self._give_up)

    def resumeProducing(self) -> None:
        """It has taken what there was."""
        self._paused = False
        self._stop_timer()
        if not self._over:
            self._timer = self._clock.callLater(KEEPALIVE_S, self._keep_alive)
            self._more.fire()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self._over = True
        self._stop_timer()

    def _keep_alive(self) -> None:
        self._timer = self._clock.callLater(KEEPALIVE_S, self._keep_alive)
        if self._keepalive:
            self._request.write(self._keepalive)  # type: ignore[no-untyped-call]

    def _give_up(self) -> None:
        self._log.info("a reader took nothing for {stalled_s} s", stalled_s=STALLED_S)
        self._channel.forceAbortClient()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
