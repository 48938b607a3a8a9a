"""The connector ends when it is told to, at whatever it is."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from zope.interface import implementer

from cumulusd.agent.connection import CONNECT_TIMEOUT_S, Connector


@implementer(IStreamClientEndpoint)
class Endless:
    """Never connects; says that when it is cancelled."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.cancelled = 0

    def connect(self, factory: Any) -> Deferred[Any]:
        def cancel(connecting: Deferred[Any]) -> None:
            self.cancelled += 1
            connecting.errback(self.error)

        return Deferred(cancel)


@pytest.mark.parametrize("error", [DNSLookupError("no such name"), ConnectingCancelledError(None)])
@pytest_twisted.ensureDeferred
async def test_it_ends_in_the_middle_of_connecting(error: Exception) -> None:
    clock, endpoint = Clock(), Endless(error)
    connector = Connector(clock, endpoint, Factory(), what="a link", jitter=lambda: 0.0)
    running = Deferred.fromCoroutine(connector.run())
    running.cancel()
    with pytest.raises(CancelledError):
        await running
    assert endpoint.cancelled == 1
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_connection_that_takes_too_long_is_given_up() -> None:
    clock, endpoint = Clock(), Endless(DNSLookupError("no such name"))
    connector = Connector(clock, endpoint, Factory(), what="a link", jitter=lambda: 0.0)
    running = Deferred.fromCoroutine(connector.run())
    clock.advance(CONNECT_TIMEOUT_S)
    assert endpoint.cancelled == 1
    clock.advance(1.0)
    running.cancel()
    with pytest.raises(CancelledError):
        await running
    assert endpoint.cancelled == 2
