"""Fakes that the parts under test stand on when they run in this process, and a look at the log."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from tests.fuzz.fuzz_engine import Finding


class Wire(StringTransport):
    """A transport in memory, from this machine, as the WebSocket servers use it. As TCP's, it tells
    that it is closed in a turn of its own: at the end of `give` and of `end`."""

    def __init__(self, protocol: Any) -> None:
        here = IPv4Address("TCP", "127.0.0.1", 50051)
        super().__init__(hostAddress=here, peerAddress=IPv4Address("TCP", "127.0.0.1", 40000))
        self.protocol = protocol
        self.open = True
        protocol.makeConnection(self)

    def give(self, data: bytes) -> bool:
        """The peer sends that; False: the connection is closed, also by it."""
        if self.open:
            self.protocol.dataReceived(data)
            self.turn()
        return self.open

    def turn(self) -> None:
        """What was closed is told so."""
        if self.open and self.disconnecting:
            self.open = False
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def end(self) -> None:
        """The peer is gone."""
        self.disconnecting = True
        self.turn()

    def abortConnection(self) -> None:
        """Closes it without what waits."""
        self.disconnecting = True

    def unregisterProducer(self) -> None:
        """As TCP's: also when there is none."""
        self.producer = None

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There is no TCP."""


def left_behind(clock: Clock) -> None:
    """Raises Finding when a timer is still set though all connections are gone."""
    clock.advance(0)  # what was to be done in the next turn
    calls = clock.getDelayedCalls()
    if calls:
        raise Finding(f"left behind: {calls[:3]}")


@contextmanager
def no_failures() -> Iterator[None]:
    """Raises Finding when a failure, or anything critical, was logged meanwhile."""
    seen: list[str] = []

    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure")
        level = getattr(event.get("log_level"), "name", "")
        if (failure is not None or level == "critical") and len(seen) < 3:
            trace = failure.getTraceback()[-1500:] if failure is not None else ""
            seen.append(f"{formatEvent(event)}\n{trace}")

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]
    if seen:
        raise Finding("logged: " + "\n".join(seen))
