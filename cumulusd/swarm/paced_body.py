"""A large answer of an engine, read at its reader's pace: what isn't read yet stays there."""

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from cumulusd.tasks import Signal, wait_at_most

#: How long it may bring nothing: an engine gathers an image before it sends it.
STALLED_S = 300.0
#: Held for a reader that is behind.
_PACED_BYTES = 1 << 20


class PacedBody(Protocol):
    """A body that is read piece by piece: when the reader is behind, the engine waits."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._over: Failure | None = None
        self._came = Signal()

    def dataReceived(self, data: bytes) -> None:
        """Twisted's."""
        self._pieces.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= _PACED_BYTES:
            self._control("pauseProducing")
        self._came.fire()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's: the body is whole, or the connection was lost."""
        self._over = reason
        self._came.fire()

    async def read(self, clock: Any) -> bytes | None:
        """The next piece; None: that was all. Raises what ended it."""
        while not self._pieces:
            if self._over is not None:
                if self._over.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
                    return None
                self._over.raiseException()
            self._control("resumeProducing")
            if not self._pieces and self._over is None:
                await self._wait(clock)
        data = self._pieces.popleft()
        self._held_bytes -= len(data)
        return data

    def abort(self) -> None:
        """Closes the connection, unless the body is whole."""
        self._pieces.clear()
        if self._over is None:
            self._control("stopProducing")

    async def _wait(self, clock: Any) -> None:
        async def came() -> bool:
            await self._came.wait()
            return True

        if await wait_at_most(clock, STALLED_S, Deferred.fromCoroutine(came())) is None:
            raise ConnectionLost(f"nothing came for {STALLED_S:g} s")

    def _control(self, verb: str) -> None:
        # A response's transport offers a producer's verbs, and nothing else.
        if self.transport is not None and self._over is None:
            getattr(self.transport, verb)()
