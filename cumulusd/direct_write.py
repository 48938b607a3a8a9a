"""Hands bytes to an idle socket at once.

Twisted's transports wait for the reactor to say that a socket takes bytes: two calls of epoll_ctl
and one of epoll_wait beside each send. Only what the socket doesn't take now goes Twisted's way,
with its buffer and its pauses.
"""

from typing import Any

from twisted.internet import tcp


class DirectWrite:
    """Of one transport."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        # TLS wraps its transport, and has buffers of its own.
        self._direct = isinstance(transport, tcp.Connection)

    def write(self, data: bytes) -> None:
        """All of it, in its place behind what was written before."""
        transport, at = self._transport, 0
        if (
            self._direct
            and transport.connected
            and not transport.disconnecting
            and not transport.dataBuffer
            and not transport._tempDataBuffer
        ):
            # A call hands over at most `SEND_LIMIT`; one that hands over less finds it full.
            while at < len(data):
                sent = transport.writeSomeData(memoryview(data)[at:] if at else data)
                if not isinstance(sent, int):
                    break  # an error, which the reactor's way meets again
                at += sent
                if sent < transport.SEND_LIMIT:
                    break
        if at < len(data):
            transport.write(data[at:])
