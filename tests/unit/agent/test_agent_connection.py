"""The connector ends when it is told to, at whatever it is."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import endpoints, reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from cumulusd.agent.connection import CONNECT_TIMEOUT_S, Connector
from cumulusd.agent.link import AgentLink, link_factory
from cumulusd.agent.wamp import Calls, session_factory


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


@pytest.mark.parametrize(
    "factory",
    [
        link_factory(reactor, AgentLink(), "token", "localhost"),
        session_factory(reactor, Calls({}), "node", "token", "localhost"),
    ],
    ids=["link", "session"],
)
@pytest_twisted.ensureDeferred
async def test_what_an_agent_says_waits_for_no_acknowledgement_of_tcp(factory: Factory) -> None:
    """Otherwise a line is up to 40 ms older, or 25 where they come by the hundred."""
    port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
        Factory.forProtocol(Protocol)
    )
    try:
        daemon = endpoints.HostnameEndpoint(reactor, "127.0.0.1", port.getHost().port)
        connection: Any = await daemon.connect(factory)
        try:
            assert connection.transport.getTcpNoDelay()
        finally:
            gone = connection.life.until_gone()
            connection.drop()
            await gone
    finally:
        await port.stopListening()
