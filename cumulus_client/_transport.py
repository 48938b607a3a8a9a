"""Autobahn's WebSocket on asyncio, made to carry a `CallerSession`. Imported when connecting."""

import asyncio
import logging
import ssl
from typing import Any

from autobahn.asyncio.websocket import WampWebSocketClientFactory, WampWebSocketClientProtocol
from autobahn.wamp.exception import ProtocolError, TransportLost
from autobahn.websocket.util import parse_url

from cumulus_client._cbor import CborSerializer
from cumulus_client._tls import speaks_http, trusting
from cumulus_client._wire_session import CallerSession
from cumulus_client.connection import MAX_MESSAGE_BYTES, PING_INTERVAL_S, PING_TIMEOUT_S

#: A TLS handshake that takes longer makes the client look whether the server speaks TLS at all.
TLS_PATIENCE_S = 1.5


class NoTls(Exception):
    """The server speaks HTTP where TLS was wanted."""


# What Autobahn warns of is raised as an exception as well: without logging set up it must not
# appear among a job's output on stderr.
logging.getLogger("autobahn").addHandler(logging.NullHandler())


async def open_transport(
    url: str,
    *,
    api_key: str | None,
    shown_url: str,
    api_key_name: str | None = None,
    ca_file: str | None = None,
) -> tuple[CallerSession, asyncio.Transport]:
    """Connects. The session's `joined` fires when it can be used; the transport is the caller's
    to abort. `ca_file`: as of `_tls.trusting`. Raises OSError, ssl.SSLError, NoTls,
    ConnectionFailed."""
    loop = asyncio.get_running_loop()
    session = CallerSession(loop, url=shown_url, api_key=api_key, api_key_name=api_key_name)
    serializer = CborSerializer()

    class Protocol(WampWebSocketClientProtocol):  # type: ignore[misc, unused-ignore]
        # A job's output and many submits are thousands of messages a second; Autobahn's way makes
        # the text of a log line, in colours, of each, and a message object of what comes.

        def send(self, msg: Any) -> None:
            if self._session is None:
                raise TransportLost
            payload, is_binary = serializer.serialize(msg)
            self.sendMessage(payload, is_binary)  # type: ignore[no-untyped-call, unused-ignore]

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            try:
                taken = session.take(serializer.plain(payload))
            except ProtocolError:
                taken = False  # Autobahn comes to the same, and ends the session
            if taken:
                return
            super().onMessage(payload, isBinary)

        def onClose(self, wasClean: bool, code: int, reason: str | None) -> None:
            # Before the WebSocket is open Autobahn knows no session to tell.
            if self._session is None:
                session.not_a_router(reason)
            super().onClose(wasClean, code, reason)
            session.transport_closed()

    make: Any = WampWebSocketClientFactory  # untyped
    factory = make(lambda: session, url=url, serializers=[serializer], loop=loop)
    factory.protocol = Protocol
    factory.setProtocolOptions(
        maxFramePayloadSize=MAX_MESSAGE_BYTES,
        maxMessagePayloadSize=MAX_MESSAGE_BYTES,
        openHandshakeTimeout=10.0,
        closeHandshakeTimeout=1.0,
        failByDrop=True,
        tcpNoDelay=True,
        autoPingInterval=PING_INTERVAL_S,
        autoPingTimeout=PING_TIMEOUT_S,
        autoPingSize=12,
    )
    secure, host, port, *_ = parse_url(url)
    context = trusting(ca_file) if secure else None
    connecting = asyncio.ensure_future(
        loop.create_connection(
            factory, host, port, ssl=context, server_hostname=host if secure else None
        )
    )
    if secure:
        await _look_for_plain_http(connecting, host, port)
    try:
        transport, _protocol = await connecting
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError:
        if await speaks_http(host, port):
            raise NoTls from None
        raise
    except asyncio.CancelledError:
        # It may have connected in the very moment in which nobody wants it any more.
        if connecting.done() and not connecting.cancelled() and not connecting.exception():
            connecting.result()[0].abort()
        raise
    return session, transport


async def _look_for_plain_http(connecting: "asyncio.Future[Any]", host: str, port: int) -> None:
    """A server without TLS mostly waits for the rest of what it takes for a request line. Returns
    when `connecting` is done or may still succeed; raises NoTls, and cancels it."""
    try:
        await asyncio.wait([connecting], timeout=TLS_PATIENCE_S)
        if not connecting.done() and await speaks_http(host, port):
            raise NoTls
    except BaseException:
        connecting.cancel()
        await asyncio.wait([connecting])
        raise
