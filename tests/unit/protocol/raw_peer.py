"""A peer on a bare kernel socket, in the process of the router that it speaks to."""

from wamp_peers import until

from tests.raw_websocket import HANDSHAKE, HELLO, RawPeer, frame

__all__ = ["Peer", "frame"]


class Peer(RawPeer):
    """Waits by letting the reactor turn."""

    async def opens(self) -> None:
        """The WebSocket handshake; what the server says after it stays unread."""
        self.send(HANDSHAKE)
        await until(lambda: self.read() or self.opened)
        assert not self.gone

    async def joins(self) -> None:
        """Handshake and HELLO, in JSON."""
        await self.opens()
        self.send(frame(HELLO))
        await until(lambda: self.read() or b"[2," in self.received)
        assert not self.gone
        self.received = b""
