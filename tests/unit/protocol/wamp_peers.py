"""Real peers over loopback sockets: Autobahn's Twisted client, and a bare WebSocket."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from autobahn.twisted.wamp import ApplicationSession
from autobahn.twisted.websocket import (
    WampWebSocketClientFactory,
    WebSocketClientFactory,
    WebSocketClientProtocol,
)
from autobahn.wamp.serializer import CBORSerializer, JsonSerializer, MsgPackSerializer
from autobahn.wamp.types import ComponentConfig
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ClientEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call
from cumulusd.protocol.router import Router

reactor: Any = _reactor

SERIALIZERS = ("cbor", "msgpack", "json")
MIB = 1 << 20

CLIENT = Principal(name="ann", owner="ann", role=Role.CLIENT)
ADMIN = Principal(name="root", owner="root", role=Role.ADMIN)
VIEWER = Principal(name="eye", owner="eye", role=Role.VIEWER)
AGENT = Principal(name="agent-n1", owner="agents", role=Role.AGENT, node_id="n1")
OTHER_AGENT = Principal(name="agent-n2", owner="agents", role=Role.AGENT, node_id="n2")
TOKENS = {
    "client-token": CLIENT,
    "admin-token": ADMIN,
    "viewer-token": VIEWER,
    "agent-token": AGENT,
    "agent2-token": OTHER_AGENT,
}

SERIALIZERS = {"cbor": CBORSerializer, "msgpack": MsgPackSerializer, "json": JsonSerializer}


def with_tokens() -> Authenticator:
    return Authenticator((hash_token(token), who) for token, who in TOKENS.items())


def without_tokens() -> Authenticator:
    return Authenticator(())


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Lets the reactor turn until the condition holds."""
    end = reactor.seconds() + timeout_s
    while not condition():
        assert reactor.seconds() < end, "the condition never held"
        await deferLater(reactor, 0.01, lambda: None)


class Server:
    """A router on a loopback port."""

    def __init__(self, router: Router, port: Any) -> None:
        self.router = router
        self.port_number = port.getHost().port
        self._port = port
        self._clients: list[Any] = []

    async def join(
        self,
        token: str | None = None,
        *,
        serializer: str = "cbor",
        realm: str = "cumulus",
        authmethods: list[str] | None = None,
        tls: Any = None,
    ) -> "Client":
        """A client that has joined. Raises `Refused` when it is not let in."""
        client = Client(ComponentConfig(realm=realm), token, authmethods)
        factory = WampWebSocketClientFactory(
            lambda: client,
            f"ws://127.0.0.1:{self.port_number}/ws",
            serializers=[SERIALIZERS[serializer]()],
            reactor=reactor,
        )
        await self._connect(factory, tls)
        self._clients.append(client)
        await client.ready.addTimeout(5, reactor)
        return client

    async def bare(
        self, subprotocol: str = "wamp.2.json", *, headers: dict[str, str] | None = None
    ) -> "Bare":
        """An open WebSocket without a session. Raises `Refused` when the handshake fails."""
        factory = WebSocketClientFactory(
            f"ws://127.0.0.1:{self.port_number}/ws",
            protocols=[subprotocol],
            headers=headers or {},
            reactor=reactor,
        )
        factory.protocol = Bare
        bare = await self._connect(factory)
        await bare.ready.addTimeout(5, reactor)
        self._clients.append(bare)
        return bare

    async def _connect(self, factory: Any, tls: Any = None) -> Any:
        # Autobahn's own timers outlive the test.
        factory.setProtocolOptions(
            openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0
        )
        factory.noisy = False
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port_number)
        if tls is not None:
            endpoint = SSL4ClientEndpoint(reactor, "127.0.0.1", self.port_number, tls)
        return await endpoint.connect(factory)

    async def close(self) -> None:
        await self.router.stop(0.2)
        for client in self._clients:
            client.drop()
        await self._port.stopListening()
        await until(lambda: all(client.gone for client in self._clients))


@asynccontextmanager
async def serving(
    authenticator: Authenticator | None = None,
    limits: Limits | None = None,
    tls: bool = False,
    **kwargs: Any,
) -> AsyncIterator[Server]:
    router = Router(
        clock=reactor, authenticator=authenticator or without_tokens(), limits=limits, **kwargs
    )
    root = Resource()
    root.putChild(b"ws", router.websocket_resource())
    site = Site(root)
    site.noisy = False
    if tls:
        port = reactor.listenSSL(0, site, SelfSigned(), interface="127.0.0.1")
    else:
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
    server = Server(router, port)
    try:
        yield server
    finally:
        await server.close()


@implementer(IOpenSSLContextFactory)
class SelfSigned:
    """TLS with a certificate made on the spot; Twisted's makers use what pyOpenSSL deprecates."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        lifetime = (now, now + timedelta(days=1))
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, *lifetime)
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.use_privatekey(key)
        self._context.use_certificate(builder.sign(key, hashes.SHA256()))

    def getContext(self) -> SSL.Context:
        return self._context


class Refused(Exception):
    """The session or the connection was not let in; the reason is the argument."""


class Client(ApplicationSession):
    """A WAMP client. `ready` fires when it has joined."""

    def __init__(self, config: Any, token: str | None, authmethods: list[str] | None) -> None:
        super().__init__(config)
        self._token = token
        self._authmethods = authmethods or (["ticket"] if token else ["anonymous"])
        self.ready: Deferred[None] = Deferred()
        self.gone = False
        self.details: Any = None
        self.left: Any = None

    def onConnect(self) -> None:
        self.join(self.config.realm, self._authmethods, "whoever")

    def onChallenge(self, challenge: Any) -> str | None:
        return self._token

    def onJoin(self, details: Any) -> None:
        self.details = details
        self.ready.callback(None)

    def onLeave(self, details: Any) -> None:
        self.left = details
        if not self.ready.called:
            self.ready.errback(Refused(details.reason, details.message))
        self.disconnect()

    def onDisconnect(self) -> None:
        self.gone = True
        if not self.ready.called:
            self.ready.errback(Refused("disconnected", None))

    def onUserError(self, fail: Any, msg: str) -> None:
        pass  # asserted on by the caller's own Deferred

    def drop(self) -> None:
        if self._transport is not None and self._transport.transport is not None:
            self._transport.transport.abortConnection()

    @property
    def tcp(self) -> Any:
        """The client's TCP transport."""
        return self._transport.transport


class Bare(WebSocketClientProtocol):
    """A WebSocket that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: Deferred[None] = Deferred()
        self.received: list[bytes] = []
        self.gone = False
        self.close_code: Any = None
        self.close_reason: Any = None

    def onOpen(self) -> None:
        self.ready.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.received.append(payload)

    def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
        self.gone = True
        self.close_code, self.close_reason = code, reason
        if not self.ready.called:
            self.ready.errback(Refused(reason, None))

    def drop(self) -> None:
        if not self.gone:
            self.transport.abortConnection()


async def ask(client: Client, procedure: str, **kwargs: Any) -> dict[str, Any]:
    """The keyword arguments of the answer."""
    result = await client.call(procedure, **kwargs).addTimeout(10, reactor)
    return dict(result.kwresults) if result is not None else {}


async def nothing(call: Call) -> None:
    return None


def never() -> Deferred[None]:
    return Deferred()


async def joined_bare(server: Server) -> Any:
    """A bare WebSocket with a session, in JSON."""
    bare = await server.bare()
    bare.sendMessage(
        b'[1,"cumulus",{"roles":{"caller":{},"callee":{},"publisher":{},"subscriber":{}}}]'
    )
    await until(lambda: len(bare.received) == 1)
    assert json.loads(bare.received[0])[0] == 2
    return bare
