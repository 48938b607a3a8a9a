"""WebSocket connections of the router: Autobahn's server protocol, bounded and under our clock.

Autobahn's own timers run on a process-global clock, so all of them are switched off and pings, the
opening and the closing are timed here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autobahn.twisted import websocket as _websocket
from autobahn.util import encode_truncate
from autobahn.websocket import types as _types
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from cumulusd.autobahn_log import STILL
from cumulusd.peers import is_secure
from cumulusd.pings import ping_of, pong
from cumulusd.protocol import frames, messages
from cumulusd.protocol.admission import source_of
from cumulusd.protocol.codec import CODECS, Codec
from cumulusd.protocol.remote_session import RemoteSession
from cumulusd.protocol.writer import Writer

if TYPE_CHECKING:  # it makes connections
    from cumulusd.protocol.listener import WampFactory

#: Of the module: a class's own would hang the connection on every event it logs.
_log = Logger()

# Autobahn is half typed and partly wrong: its classes are Any here.
ConnectionDeny: Any = _types.ConnectionDeny
ServerProtocol: Any = _websocket.WebSocketServerProtocol

#: A message may come in pieces; each costs memory beside its bytes, even an empty one.
_MAX_FRAMES = 4096
#: So many pieces of a message that isn't whole are joined: each costs more than its bytes.
_MAX_PIECES = 1024
#: A message of which more is missing goes to Autobahn, which keeps its pieces apart and joins them
#: once; of shorter ones the beginning is kept here.
_MOST_WAITED_BYTES = 16 * 1024
#: A message of who hasn't joined: thousands may come at a time.
MOST_UNKNOWN_BYTES = 64 * 1024


def _free_buffers(transport: Any) -> None:
    """A dead transport lives until the garbage collector finds its cycle; its buffers need not."""
    while isinstance(transport, ProtocolWrapper):  # TLS
        getattr(transport, "_appSendBuffer", []).clear()
        transport = transport.transport
    if isinstance(transport, FileDescriptor):
        transport.dataBuffer = b""
        transport._tempDataBuffer.clear()
        transport._tempDataLen = 0


class WampConnection(ServerProtocol):  # type: ignore[misc]  # it is Any
    """One WebSocket connection that speaks WAMP."""

    factory: "WampFactory"
    log = STILL

    def __init__(self) -> None:
        super().__init__()
        self._codec: Codec | None = None
        self._writer: Writer | None = None
        self._session: RemoteSession | None = None
        self._handshake_deadline: IDelayedCall | None = None
        self._close_deadline: IDelayedCall | None = None
        self._ping: IDelayedCall | None = None
        self._heard_at = 0.0
        self._frames = 0
        self._refused_as = "handshake"
        self._gone = self._is_known = False  #: `_is_known`: it has joined
        self._partial_since: float | None = None  #: a message that isn't whole yet
        self.frame_data: list[bytes] | None = None
        self.message_data: list[bytes] | None = None
        self.data = b""

    # What remote_session.Connection asks for

    @property
    def peer_name(self) -> str:
        """Who is there, for logs."""
        return str(self.peer)

    @property
    def secure(self) -> bool:
        """Nobody on a network reads along: TLS, loopback, a unix socket."""
        return is_secure(self.transport)

    @property
    def source(self) -> str | None:
        """What counts as its address (`admission.source_of`)."""
        return source_of(getattr(self.transport.getPeer(), "host", None))

    def pause_reading(self) -> None:
        """Reads no more until `resume_reading`; the kernel then holds the peer."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Reads on."""
        self.transport.resumeProducing()

    def write_message(self, payload: bytes, is_binary: bool) -> None:
        """Hands one message to the transport; dropped when the connection is closing."""
        writer = self._writer
        if self.state != self.STATE_OPEN or writer is None:
            _log.debug("not sent, {peer} is closing", peer=self.peer_name)
            return
        writer.write(frames.header(len(payload), is_binary), payload)

    def write_pong(self, payload: bytes) -> None:
        """Hands one pong to the transport; dropped when the connection is closing."""
        if self.state == self.STATE_OPEN and self._writer is not None:
            self._writer.write(pong(payload), b"")

    def close(self) -> None:
        """Says good-bye by WebSocket's own closing handshake; bounded."""
        self.sendClose(self.CLOSE_STATUS_CODE_NORMAL)

    def abort(self) -> None:
        """Ends the TCP connection now; what waits in it is lost."""
        if self._writer is not None:
            self._writer.drop()
        self.wasClean = False
        self.wasNotCleanReason = "aborted by the router"
        if self.state == self.STATE_CLOSED:
            # Gone for Autobahn; but it waits for a peer that doesn't read or answer TLS's end.
            self._closeConnection(abort=True)
        else:
            self.dropConnection(abort=True)

    # Called by Twisted and Autobahn

    def connectionMade(self) -> None:
        """Twisted Web has handed over a connection; the opening handshake must follow."""
        super().connectionMade()
        self._take_at_most(min(MOST_UNKNOWN_BYTES, self.factory.limits.max_message_bytes))
        self._handshake_deadline = self.factory.clock.callLater(
            self.factory.limits.hello_timeout_s, self._handshake_overdue
        )

    def dataReceived(self, data: bytes) -> None:
        """Any byte shows that the peer lives."""
        self._heard_at = self.factory.clock.seconds()
        self.factory.turn.run(self._read, data)
        if self.state != self.STATE_OPEN or not (
            self.inside_message or self.current_frame is not None or self.data
        ):
            self._partial_since = None
            return
        if self._partial_since is None:
            self._partial_since = self._heard_at
        if self.frame_data is not None and len(self.frame_data) > _MAX_PIECES:
            self.frame_data = [b"".join(self.frame_data)]
        if self.message_data is not None and len(self.message_data) > _MAX_PIECES:
            self.message_data = [b"".join(self.message_data)]

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn's own frames (close, ping, pong) keep their place after what was written."""
        if self._writer is None:
            super().sendData(data, sync, chopsize)
        else:
            self._writer.write(data, b"")

    def onConnect(self, request: Any) -> str:
        """Chooses the serialisation, or refuses."""
        try:
            return self._choose(request)
        except ConnectionDeny:
            raise
        except Exception:
            # Autobahn would tell the peer what it was.
            self._refused_as = "internal"
            _log.failure("the handshake of {peer} failed", peer=self.peer_name)
            raise ConnectionDeny(
                ConnectionDeny.INTERNAL_SERVER_ERROR, "an internal error of the router"
            ) from None

    def _choose(self, request: Any) -> str:
        """The client's order of preference counts."""
        refusal = self.factory.reception.refusal(self.source)
        if refusal is not None:
            self._refused_as = refusal.reason
            raise ConnectionDeny(ConnectionDeny.SERVICE_UNAVAILABLE, refusal.text)
        headers: Mapping[str, str] = request.headers
        if request.origin and not self.factory.origins.may_use(request.origin, headers.get("host")):
            raise ConnectionDeny(
                ConnectionDeny.FORBIDDEN, "pages of another origin may not connect"
            )
        for subprotocol in request.protocols:
            self._codec = CODECS.get(subprotocol)
            if self._codec is not None:
                return str(subprotocol)
        raise ConnectionDeny(
            ConnectionDeny.BAD_REQUEST, f"speak one of the sub-protocols {', '.join(CODECS)}"
        )

    def onOpen(self) -> None:
        """The opening handshake is done: makes the session and takes the transport over."""
        assert self._codec is not None, "onConnect chose it"
        self._stop(self._handshake_deadline)
        self._handshake_deadline = None
        self._writer = Writer(self.transport, self.factory.turn)
        self._session = self.factory.reception.connected(self, self._codec)
        # HTTPChannel is still the transport's producer: without this our pauses would be its.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self._session.outbox, True)
        self._ping = self.factory.clock.callLater(
            self.factory.limits.ping_interval_s, self._send_ping
        )

    def onMessageBegin(self, is_binary: bool) -> None:
        """The first piece of a message is coming."""
        self._frames = 0
        super().onMessageBegin(is_binary)

    def onMessageFrameBegin(self, length: int) -> None:
        """A piece of a message is coming."""
        self._frames += 1
        super().onMessageFrameBegin(length)
        if self._frames == 1 or self.failedByMe:
            return
        if self._session is not None:
            self._session.inbox.take()
        if self._frames > _MAX_FRAMES:
            text = f"a message in more than {_MAX_FRAMES} frames: send fewer, larger ones"
            self._fail("message_fragments", self.CLOSE_STATUS_CODE_MESSAGE_TOO_BIG, text)

    def onMessage(self, payload: bytes, is_binary: bool) -> None:
        """One WAMP message. Whatever goes wrong ends this connection, never the daemon's work."""
        self._partial_since = None
        session = self._session
        if session is None:
            return
        try:
            session.message_received(payload, is_binary)
        except Exception:
            session.failed()
        if not self._is_known and session.principal:
            self._is_known = True
            self._take_at_most(self.factory.limits.max_message_bytes)

    def onPing(self, payload: bytes) -> None:
        """Answered through the outbox, which bounds what a peer that doesn't read costs."""
        if self._session is not None:
            self._session.ping_received(payload)

    def onPong(self, payload: bytes) -> None:
        """`dataReceived` has noted it; unasked ones count as messages do."""
        if self._session is not None:
            self._session.inbox.take()

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """Answers a handshake that isn't taken; Autobahn's own would log without bound."""
        self.wasNotCleanReason = reason
        self.factory.reception.connection_refused(
            self.source, self.peer_name, self._refused_as, reason
        )
        self.sendHttpErrorResponse(code, reason, responseHeaders)
        self.dropConnection(abort=False)

    def _take_at_most(self, size_bytes: int) -> None:
        """Bounds a message, and each of its frames, for us and for Autobahn."""
        self.maxMessagePayloadSize = self.maxFramePayloadSize = size_bytes

    def _max_message_size_exceeded(self, size: int, limit: int, reason: str) -> None:
        rule = (
            "(router.max_message_bytes); send it in parts" if self._is_known else "before WELCOME"
        )
        text = f"a message of {size} bytes or more: at most {limit} are taken {rule}"
        self._fail("message_size", self.CLOSE_STATUS_CODE_MESSAGE_TOO_BIG, text)

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        self._fail("violation", code, reason)

    def _fail(self, reason: str, code: int, text: str) -> None:
        """What came breaks WebSocket or a bound: ABORT and a close frame say so."""
        if self.state == self.STATE_CLOSED:
            return
        self.failedByMe = True
        if self.state == self.STATE_CLOSING:
            self.dropConnection(abort=False)
            return
        if self._session is not None:
            is_size = code == self.CLOSE_STATUS_CODE_MESSAGE_TOO_BIG
            uri = messages.PAYLOAD_SIZE_EXCEEDED if is_size else messages.PROTOCOL_VIOLATION
            self._session.broken(reason, uri, text)
        self.sendCloseFrame(code, encode_truncate(text, 123))

    def sendCloseFrame(
        self, code: Any = None, reasonUtf8: Any = None, isReply: bool = False
    ) -> None:
        """Every close passes here, also Autobahn's own for a message too big: all are bounded."""
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self.state == self.STATE_CLOSING:
            self._bound_close()

    def dropConnection(self, abort: bool = False) -> None:
        """Every end that isn't the peer's passes here, a handshake's too: all are bounded."""
        self._stop(self._handshake_deadline)
        if not self._gone:
            self._bound_close()
        super().dropConnection(abort)

    def _bound_close(self) -> None:
        if self._close_deadline is None:
            self._close_deadline = self.factory.clock.callLater(
                self.factory.limits.close_timeout_s, self.abort
            )

    def connectionLost(self, reason: Failure) -> None:
        """Frees everything that the connection held."""
        self._gone = True
        for timer in (self._handshake_deadline, self._close_deadline, self._ping):
            self._stop(timer)
        session, self._session = self._session, None
        if self._writer is not None:
            self._writer.drop()
        super().connectionLost(reason)
        _free_buffers(self.transport)
        # And what came of a message that will never be whole.
        self.data = b""
        self.frame_data = self.message_data = self.control_frame_data = None
        if session is not None:
            session.connection_lost()

    def _read(self, data: bytes) -> None:
        """Takes whole messages here; leaves everything else to Autobahn, and what follows it."""
        if (
            self.state != self.STATE_OPEN
            or self.current_frame is not None
            or self.inside_message
            or self._session is None
        ):
            self._dataReceived(data)
            return
        payload = None if self.data else ping_of(data)
        if payload is not None:
            self.onPing(payload)
            return
        buffer = self.data + data if self.data else data
        limit: int = self.maxMessagePayloadSize
        at = 0
        while (
            isinstance(frame := frames.read(buffer, at, limit), tuple)
            and self.state == self.STATE_OPEN
        ):
            payload, is_binary, at = frame
            self.onMessage(payload, is_binary)
        self.data = buffer[at:]
        waits = isinstance(frame, frames.Incomplete) and frame.missing_bytes <= _MOST_WAITED_BYTES
        if self.data and not waits:
            self.consumeData()

    def _closeConnection(self, abort: bool = False) -> None:
        if self._writer is not None and not abort:
            self._writer.flush()
        super()._closeConnection(abort)

    def _handshake_overdue(self) -> None:
        self._handshake_deadline = None
        self.factory.reception.connection_refused(
            self.source,
            self.peer_name,
            "handshake_timeout",
            f"no opening handshake within {self.factory.limits.hello_timeout_s:g} s",
        )
        self.abort()

    def _send_ping(self) -> None:
        """Not to a peer that has just shown that it lives, an agent by its own ping."""
        sent_at = self.factory.clock.seconds()
        still_s = self.factory.limits.ping_interval_s - (sent_at - self._heard_at)
        if still_s > 0 and self._partial_since is None:
            self._ping = self.factory.clock.callLater(still_s, self._send_ping)
            return
        self.sendPing()
        self._ping = self.factory.clock.callLater(
            self.factory.limits.ping_timeout_s, self._check_ping, sent_at
        )

    def _check_ping(self, sent_at: float) -> None:
        limits, session = self.factory.limits, self._session
        self._ping = None
        if session is None:
            return
        silent_since = session.inbox.silent_since(self._heard_at)
        if silent_since is not None and silent_since < sent_at:
            text = f"no answer to a ping within {limits.ping_timeout_s:g} s"
            session.abort("ping_timeout", text)
            return
        self._ping = self.factory.clock.callLater(limits.ping_interval_s, self._send_ping)
        if self._partial_since is None:
            return
        partial_since = session.inbox.silent_since(self._partial_since)
        if partial_since is not None and self._heard_at - partial_since > limits.message_timeout_s:
            text = (
                f"a message did not become whole within {limits.message_timeout_s:g} s "
                "(router.message_timeout_s): send it in parts, or over a faster line"
            )
            self._fail("message_timeout", self.CLOSE_STATUS_CODE_POLICY_VIOLATION, text)

    @staticmethod
    def _stop(timer: IDelayedCall | None) -> None:
        if timer is not None and timer.active():
            timer.cancel()
