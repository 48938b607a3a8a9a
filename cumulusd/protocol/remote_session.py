"""One remote session: its connection, state machine, codec, outbox and deadlines, put together."""

from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from cumulusd.identity import Principal
from cumulusd.protocol import messages
from cumulusd.protocol.codec import BadUriError, Codec, CodecError
from cumulusd.protocol.flow import Outbox
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.messages import CalleeFeatures, Message, wamp
from cumulusd.protocol.session import Finish, Ignore, Join, Reply, Route, Session, State

#: Of the module: a class's own would hang the session on every event it logs.
_log = Logger()


class Connection(Protocol):
    """What a session needs of its transport. None of these raises."""

    @property
    def peer_name(self) -> str:
        """Who is there, for logs."""

    @property
    def secure(self) -> bool:
        """Nobody on a network reads along: TLS, loopback, a unix socket."""

    def write_message(self, payload: bytes, is_binary: bool) -> None:
        """Hands one message to the transport; dropped when the connection is closing."""

    def close(self) -> None:
        """Closes it after what was written."""

    def abort(self) -> None:
        """Closes it now."""


class Hub(Protocol):
    """What a session tells its router."""

    def joined(self, session: "RemoteSession", callee: CalleeFeatures) -> None:
        """It has been welcomed: messages follow. `callee`: what it can do as one."""

    def route(self, session_id: int, message: Message) -> None:
        """A message for dealer or broker."""

    def left(self, session: "RemoteSession") -> None:
        """It takes no more part; may be told twice."""

    def ended(self, session: "RemoteSession") -> None:
        """Its connection is gone."""

    def count(self, what: str) -> None:
        """Something of `RouterStats` happened once."""


class MessageTooLarge(CodecError):
    """The serialised message is over the hard cap of any connection."""


class RemoteSession:
    """Owner of everything that one connection holds; `connection_lost` frees it."""

    def __init__(
        self,
        machine: Session,
        *,
        connection: Connection,
        codec: Codec,
        hub: Hub,
        limits: Limits,
        clock: IReactorTime,
    ) -> None:
        self._machine = machine
        self._connection = connection
        self._codec = codec
        self._hub = hub
        self._limits = limits
        self._clock = clock
        self._authmethod: str | None = None
        self._authprovider: str | None = None
        self._close_deadline: IDelayedCall | None = None
        self._hello_deadline: IDelayedCall | None = clock.callLater(
            limits.hello_timeout_s, self._no_hello
        )
        self.outbox = Outbox(
            clock=clock,
            limits=limits,
            write=lambda payload: connection.write_message(payload, codec.binary),
            overrun=self._overrun,
        )

    @property
    def session_id(self) -> int:
        """Unique among the router's sessions."""
        return self._machine.session_id

    @property
    def principal(self) -> Principal | None:
        """Who it is; None before WELCOME."""
        return self._machine.principal

    @property
    def details(self) -> dict[str, Any]:
        """What WAMP's meta API tells of a session that has joined."""
        assert self.principal is not None, "it has joined"
        return {
            "session": self.session_id,
            "authid": self.principal.name,
            "authrole": self.principal.role.value,
            "authmethod": self._authmethod,
            "authprovider": self._authprovider,
            "transport": {
                "peer": self._connection.peer_name,
                "protocol": self._codec.subprotocol,
            },
        }

    def message_received(self, payload: bytes, is_binary: bool) -> None:
        """One WebSocket message of the peer. Raises nothing for whatever is in it."""
        if self._machine.state is State.CLOSED:
            return
        try:
            message = self._codec.decode(payload, is_binary)
        except BadUriError as error:
            if self._machine.state is State.JOINED:
                if not error.wants_answer:
                    return
                self.send(
                    wamp.Error(
                        error.request_type, error.request, messages.INVALID_URI, args=[str(error)]
                    )
                )
            else:
                self.violation(str(error))
            return
        except CodecError as error:
            self.violation(str(error))
            return
        self._take(self._machine.receive(message))

    def send(self, message: Message) -> None:
        """Sends a message. Raises CodecError when it has no form in the session's serialisation,
        MessageTooLarge when no connection could hold it."""
        if self.outbox.lost:
            return
        payload = self._codec.encode(message)
        if len(payload) > self._limits.hard_cap_bytes:
            raise MessageTooLarge(
                f"it takes {len(payload)} bytes; at most {self._limits.hard_cap_bytes} can be sent"
            )
        self.outbox.send(payload)

    def leave(self, reason: str, text: str | None) -> None:
        """We end the session: GOODBYE, then at most `close_timeout_s` for the peer's own."""
        step = self._machine.leave(reason, text)
        if isinstance(step, Reply):
            self._hub.left(self)
            self._arm_close_deadline()
        self._take(step)

    def violation(self, text: str) -> None:
        """The peer broke the protocol: ABORT with the text, then the connection is closed."""
        self._take(self._machine.violation(text))

    def abort(self, why: str) -> None:
        """Ends the connection at once."""
        _log.info(
            "session {session_id} of {principal} at {peer} aborted: {why}",
            session_id=self.session_id,
            principal=self._who(),
            peer=self._connection.peer_name,
            why=why,
        )
        self.outbox.lose()
        self._connection.abort()

    def connection_lost(self) -> None:
        """The connection is gone: frees timers and buffers, leaves dealer and broker."""
        self._machine.lost()
        self._stop_hello_deadline()
        if self._close_deadline is not None:
            self._close_deadline.cancel()
            self._close_deadline = None
        self.outbox.lose()
        self._hub.left(self)
        self._hub.ended(self)

    def _take(self, step: Reply | Join | Route | Finish | Ignore) -> None:
        match step:
            case Reply(message):
                self.send(message)
            case Join(message, callee):
                self._authmethod, self._authprovider = message.authmethod, message.authprovider
                self._stop_hello_deadline()
                _log.info(
                    "session {session_id} of {principal} at {peer} joined",
                    session_id=self.session_id,
                    principal=self._who(),
                    peer=self._connection.peer_name,
                )
                self.send(message)
                self._hub.joined(self, callee)
            case Route(message):
                self._hub.route(self.session_id, message)
            case Finish():
                self._finish(step)
            case Ignore():
                pass

    def _finish(self, step: Finish) -> None:
        if step.fault:
            self._hub.count("refused_sessions" if self.principal is None else "violations")
            _log.warn(
                "session {session_id} of {principal} at {peer} refused: {why}",
                session_id=self.session_id,
                principal=self._who(),
                peer=self._connection.peer_name,
                why=step.why,
            )
        self._stop_hello_deadline()
        self._hub.left(self)
        self._arm_close_deadline()
        if step.message is not None:
            self.send(step.message)
        self.outbox.when_empty(self._connection.close)

    def _arm_close_deadline(self) -> None:
        if self._close_deadline is None:
            self._close_deadline = self._clock.callLater(
                self._limits.close_timeout_s, self._not_closed
            )

    def _not_closed(self) -> None:
        self._close_deadline = None
        self.abort(f"it did not close within {self._limits.close_timeout_s:g} s")

    def _no_hello(self) -> None:
        self._hello_deadline = None
        self._hub.count("refused_sessions")
        self._take(
            self._machine.leave(
                messages.NOT_AUTHENTICATED,
                f"the session was not opened within {self._limits.hello_timeout_s:g} s",
            )
        )

    def _stop_hello_deadline(self) -> None:
        if self._hello_deadline is not None:
            self._hello_deadline.cancel()
            self._hello_deadline = None

    def _overrun(self, why: str) -> None:
        self._hub.count("slow_peers_closed")
        self.abort(f"too slow: {why}")

    def _who(self) -> str:
        return self.principal.name if self.principal is not None else "nobody yet"
