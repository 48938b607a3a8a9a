"""Fakes that the parts under test stand on when they run in this process, and a look at the log."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from tests.fuzz.fuzz_engine import Finding


class Wire(StringTransportWithDisconnection):
    """A transport in memory, from this machine, as the WebSocket servers use it."""

    def __init__(self) -> None:
        here = IPv4Address("TCP", "127.0.0.1", 50051)
        super().__init__(hostAddress=here, peerAddress=IPv4Address("TCP", "127.0.0.1", 40000))

    def unregisterProducer(self) -> None:
        """As TCP's: also when there is none."""
        self.producer = None

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There is no TCP."""

    def abortConnection(self) -> None:
        """Ends it at once; a second time is nothing."""
        if self.connected:
            super().abortConnection()


def receives(protocol: Any, wire: Wire, pieces: list[bytes]) -> int:
    """Gives it these until it closes; how many it took."""
    taken = 0
    for piece in pieces:
        if not wire.connected:
            break
        protocol.dataReceived(piece)
        taken += 1
    return taken


def left_behind(clock: Clock) -> None:
    """Raises Finding when a timer is still set though all connections are gone."""
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
