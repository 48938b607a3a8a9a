"""A peer on a bare kernel socket, in the process of the router that it speaks to."""

import ssl

from wamp_peers import until

from tests.raw_websocket import HANDSHAKE, HELLO, RawPeer, frame

__all__ = ["Peer", "frame"]


class Peer(RawPeer):
    """Waits by letting the reactor turn."""

    async def secures(self) -> None:
        """The TLS handshake; the certificate isn't looked at."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        secured = context.wrap_socket(self.socket, do_handshake_on_connect=False)
        self.socket = secured

        def shaken() -> bool:
            try:
                secured.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            return True

        await until(shaken)

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
