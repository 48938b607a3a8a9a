"""Makes the WebSocket connections of one router: what they share, and Autobahn's options."""

from typing import Any, Protocol

from autobahn.twisted import resource as _resource
from autobahn.twisted import websocket as _websocket
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

from cumulusd.origins import Origins
from cumulusd.protocol.admission import Denial
from cumulusd.protocol.codec import CODECS, Codec
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.remote_session import RemoteSession
from cumulusd.protocol.transport import WampConnection
from cumulusd.protocol.writer import Turn

# Autobahn is half typed: its classes are Any here.
WebSocketResource: Any = _resource.WebSocketResource
ServerFactory: Any = _websocket.WebSocketServerFactory


class Reception(Protocol):
    """The router, as connections see it."""

    def refusal(self, source: str | None) -> Denial | None:
        """Why no connection of that source is taken now; None when one is."""

    def connection_refused(self, source: str | None, peer: str, reason: str, why: str) -> None:
        """A connection was not taken; `reason` is one of `tallies.REFUSALS`."""

    def connected(self, connection: WampConnection, codec: Codec) -> RemoteSession:
        """A connection is open; its session."""


class WampFactory(ServerFactory):  # type: ignore[misc]  # it is Any
    """Builds the connections of one router."""

    protocol: Any = WampConnection

    def __init__(
        self,
        *,
        clock: IReactorTime,
        limits: Limits,
        reception: Reception,
        origins: Origins,
    ) -> None:
        super().__init__(protocols=list(CODECS), server="", reactor=clock)
        self.clock = clock
        self.limits = limits
        self.turn = Turn(clock)
        self.reception = reception
        self.origins = origins
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            utf8validateIncoming=True,
            maxFramePayloadSize=limits.max_message_bytes,
            maxMessagePayloadSize=limits.max_message_bytes,
            # A message too big is answered by a close frame that says so, not by a cut line.
            failByDrop=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            tcpNoDelay=True,
            # Origins are judged in onConnect, which knows the Host header. Setting any option
            # turns this one on unless it is given.
            allowedOrigins=["*"],
            allowNullOrigin=False,
        )
        # As attributes of the class: Autobahn would copy the options to each connection, and
        # format them all for a log line that nobody wants.
        given = {name: getattr(self, name) for name in WampConnection.CONFIG_ATTRS}
        # Those that are functions must not become methods.
        options = {
            name: staticmethod(value) if callable(value) else value for name, value in given.items()
        }
        self.protocol = type("WampConnection", (WampConnection,), {**options, "CONFIG_ATTRS": ()})


def websocket_resource(factory: WampFactory) -> IResource:
    """The factory as a resource of a twisted.web Site."""
    resource: IResource = WebSocketResource(factory)
    return resource
