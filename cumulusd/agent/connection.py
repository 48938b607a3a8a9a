"""Keeps one connection to the daemon up: connects, waits until it is gone, pauses, repeats."""

import random
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from cumulusd.tasks import Signal, cancellable, sleep, wait_at_most

CONNECT_TIMEOUT_S = 15.0
READY_TIMEOUT_S = 15.0
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 10.0
LASTING_S = 5.0  #: a connection that goes sooner counts as a failure
_GONE_TIMEOUT_S = 5.0


class Connection(Protocol):
    """A protocol instance that `Connector` can keep."""

    life: "Life"

    def drop(self) -> None:
        """Ends it at once."""


class Life:
    """How far a connection has come: made, ready, gone."""

    def __init__(self) -> None:
        self.is_ready = False
        self.why_gone: str | None = None
        self._changed = Signal()

    def ready(self) -> None:
        """It can be used."""
        self.is_ready = True
        self._changed.fire()

    def gone(self, why: str) -> None:
        """Nothing comes after that."""
        if self.why_gone is None:
            self.why_gone = why
            self._changed.fire()

    async def until_ready(self) -> bool:
        """False when it is gone instead."""
        while not self.is_ready and self.why_gone is None:
            await self._changed.wait()
        return self.why_gone is None

    async def until_gone(self) -> str:
        """Why it is gone."""
        while self.why_gone is None:
            await self._changed.wait()
        return self.why_gone


class Connector:
    """`run` never ends by itself; cancelling it closes the connection and frees everything."""

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        endpoint: IStreamClientEndpoint,
        factory: Factory,
        *,
        what: str,
        max_pause_s: float = MAX_PAUSE_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`factory` builds a `Connection`; `what` names it in the log; `jitter`: 0 to 1."""
        self._clock = clock
        self._endpoint = endpoint
        self._factory = factory
        self._what = what
        self._max_pause_s = max_pause_s
        self._jitter = jitter

    async def run(self) -> None:
        """Keeps the connection up until cancelled."""
        failures = 0
        while True:
            began_s = self._clock.seconds()
            was_ready, why = await self._once()
            lasted = was_ready and self._clock.seconds() - began_s >= LASTING_S
            failures = 0 if lasted else failures + 1
            pause_s = min(self._max_pause_s, FIRST_PAUSE_S * 2 ** min(max(0, failures - 1), 16))
            pause_s *= 0.5 + self._jitter() / 2
            self._log.info(
                "{what}: {why}; connecting again in {pause_s:.2f} s",
                what=self._what,
                why=why,
                pause_s=pause_s,
            )
            await sleep(self._clock, pause_s)

    async def _once(self) -> tuple[bool, str]:
        """One connection from beginning to end: (it was of use, why it is gone)."""
        connecting: Deferred[Any] = self._endpoint.connect(self._factory)
        try:
            connection: Connection | None = await wait_at_most(
                self._clock, CONNECT_TIMEOUT_S, Deferred.fromCoroutine(cancellable(connecting))
            )
        except CancelledError:
            raise
        except Exception as error:
            return False, f"no connection: {error}"
        if connection is None:
            return False, f"no connection within {CONNECT_TIMEOUT_S:g} s"
        life = connection.life
        try:
            becoming = Deferred.fromCoroutine(life.until_ready())
            ready = await wait_at_most(self._clock, READY_TIMEOUT_S, becoming)
            if ready is None:
                return False, f"not ready within {READY_TIMEOUT_S:g} s"
            if not ready:
                return False, life.why_gone or ""
            self._log.info("{what} is up", what=self._what)
            return True, await life.until_gone()
        finally:
            if life.why_gone is None:
                connection.drop()
                leaving = Deferred.fromCoroutine(life.until_gone())
                await wait_at_most(self._clock, _GONE_TIMEOUT_S, leaving)
