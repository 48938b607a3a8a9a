"""TLS connections that end.

Twisted closes a TLS connection only when its peer answers the end of TLS. A peer that never does,
or reads nothing, would hold it for ever, and nobody needs a token for that: here it is waited for
while it takes what is left, and then no longer.
"""

from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.protocols import tls

# Half typed: its classes are Any here.
_BufferingTLSTransport: Any = tls.BufferingTLSTransport
_TLSMemoryBIOFactory: Any = tls.TLSMemoryBIOFactory

#: How long a peer may take nothing, when all is said.
END_TIMEOUT_S = 10.0


class TlsConnection(_BufferingTLSTransport):  # type: ignore[misc]  # it is Any
    """One connection."""

    factory: "TlsFactory"
    _left_bytes = 0
    _end: IDelayedCall | None = None

    def loseConnection(self) -> None:
        """Ends it when all is sent and the peer has answered, or does neither for too long."""
        super().loseConnection()
        if self._end is None and self.connected:
            self._wait()

    def connectionLost(self, reason: Any) -> None:
        """It is gone."""
        if self._end is not None and self._end.active():
            self._end.cancel()
        super().connectionLost(reason)

    def _wait(self) -> None:
        self._left_bytes = self._count_left()
        self._end = self.factory.clock.callLater(END_TIMEOUT_S, self._look)

    def _look(self) -> None:
        left = self._count_left()
        if not left:
            # What the kernel still has it sends.
            self.transport.loseConnection()
        elif left < self._left_bytes:
            self._wait()
        else:
            self.abortConnection()

    def _count_left(self) -> int:
        """Bytes that the kernel hasn't taken."""
        plain = self.transport
        left = sum(map(len, self._appSendBuffer))
        if isinstance(plain, FileDescriptor):
            left += len(plain.dataBuffer) - plain.offset + plain._tempDataLen
        return left


class TlsFactory(_TLSMemoryBIOFactory):  # type: ignore[misc]  # it is Any
    """A server's connections."""

    protocol = TlsConnection

    def __init__(self, creator: Any, factory: Any, clock: IReactorTime) -> None:
        """`creator`: an IOpenSSLServerConnectionCreator; `factory` makes what speaks over TLS."""
        super().__init__(creator, False, factory, clock)
        self.clock = clock
