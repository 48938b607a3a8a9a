"""One remote session: its connection, state machine, codec, outbox and deadlines, put together."""

import secrets
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cumulusd.errors import TooMany
from cumulusd.identity import Principal
from cumulusd.protocol import messages
from cumulusd.protocol.bounded_log import BoundedLog
from cumulusd.protocol.codec import BadUriError, Codec, CodecError
from cumulusd.protocol.connection import Connection
from cumulusd.protocol.flow import Outbox
from cumulusd.protocol.inbox import Inbox
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.messages import CalleeFeatures, MarkedEvent, Message, wamp
from cumulusd.protocol.missed import Missed
from cumulusd.protocol.session import Finish, Ignore, Join, Reply, Route, Session, State
from cumulusd.protocol.tallies import Tallies

#: What an ABORT of ours says -> how it is counted; any other: `violation`.
_REASONS = {
    messages.NO_SUCH_REALM: "realm",
    messages.NO_AUTH_METHOD: "authentication",
    messages.NOT_AUTHENTICATED: "authentication",
}


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
        """Something was refused or ended, for one of `tallies.REFUSALS`."""

    @property
    def tallies(self) -> Tallies:
        """What is counted, of all sessions."""

    @property
    def notices(self) -> BoundedLog:
        """The log of what peers cause."""


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
        self.source = connection.source
        self._tallies = hub.tallies
        self._traffic = hub.tallies.traffic
        self._missed = Missed(max_bytes=limits.low_watermark_bytes)
        self._close_deadline: IDelayedCall | None = None
        self._hello_deadline: IDelayedCall | None = clock.callLater(
            limits.hello_timeout_s, self._no_hello
        )
        self.outbox = Outbox(
            clock=clock,
            limits=limits,
            write=lambda payload: connection.write_message(payload, codec.binary),
            write_pong=connection.write_pong,
            overrun=self._overrun,
            relieved=self._relieved,
            traffic=self._traffic,
        )
        self.inbox = Inbox(
            clock=clock,
            limits=limits,
            pause=connection.pause_reading,
            resume=connection.resume_reading,
            flooded=self._flooded,
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
        self._traffic.messages_in += 1
        self._traffic.bytes_in += len(payload)
        self.inbox.take()
        if self._machine.state is State.CLOSED:
            return
        try:
            message = self._codec.decode(payload, is_binary)
        except BadUriError as error:
            if self._machine.state is State.JOINED:
                self._tallies.refused("uri")
                if not error.wants_answer:
                    return
                text = messages.sendable(str(error))
                self.send(
                    wamp.Error(error.request_type, error.request, messages.INVALID_URI, args=[text])
                )
            else:
                self.violation(str(error))
            return
        except CodecError as error:
            self.violation(str(error))
            return
        step = self._machine.receive(message)
        if isinstance(step, Route):
            self._hub.route(self._machine.session_id, step.message)
        else:
            self._take(step)

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

    def send_event(self, event: Message) -> None:
        """Sends an event, or drops it while the peer is too slow; the next one tells how many of
        its subscription it missed. One that has no form in the session's serialisation is dropped
        too, and CodecError raised."""
        if self.outbox.lost:
            return
        if self.outbox.above_high:
            self._tallies.events_dropped += 1
            self._missed.drop(event, len(self._codec.encode(event)))
            return
        if self._missed:
            dropped = self._missed.take(event.subscription)
            if dropped:
                self.send(MarkedEvent(event, dropped))
                return
        self.send(event)

    def event_lost(self, event: Message) -> None:
        """That event could not be sent."""
        self._tallies.events_dropped += 1
        self._missed.drop(event, None)

    def unsubscribed(self, subscription: int) -> None:
        """It wants no more of that subscription, nor what it missed."""
        self._missed.take(subscription)

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

    def refuse(self, reason: str, error: TooMany) -> None:
        """It is one too many: ABORT before it has joined, then the connection is closed."""
        self._refused(reason, error.message)
        self._take(self._machine.leave(error.uri, error.message))

    def broken(self, reason: str, uri: str, text: str) -> None:
        """What came is no WebSocket of ours: counts, logs, and says ABORT if that can still be
        said. The transport closes with a code of its own."""
        step = self._machine.fail(uri, text)
        if not isinstance(step, Finish):
            return
        self._refused(reason, text)
        self._stop_hello_deadline()
        self._hub.left(self)
        self._arm_close_deadline()
        if not self.outbox.waiting and step.message is not None:
            self.send(step.message)
        self.outbox.lose()

    def abort(self, reason: str, why: str) -> None:
        """Ends the connection at once; `reason` is one of `tallies.REFUSALS`."""
        self._refused(reason, why)
        self.outbox.lose()
        self._connection.abort()

    def failed(self) -> None:
        """What the peer sent met a fault of ours, the exception being handled."""
        self._hub.notices.failure(
            "internal", self._source(), "message of {peer} failed", peer=self._connection.peer_name
        )
        self.abort("internal", "an internal error of the router")

    def request_refused(self, error: Message) -> None:
        """The peer may not do what it asked for: counted, and logged within bounds."""
        if error.error == messages.INVALID_URI:
            self._hub.count("uri")
            return
        self._hub.count("not_authorized")
        self._hub.notices.info(
            "not_authorized",
            self._source(),
            "{principal} at {peer}: {text}",
            principal=self._who(),
            peer=self._connection.peer_name,
            text=error.args[0],
            job_id=messages.job_id_of(error),
        )

    def refused_form(self, kind: str, job_id: str | None, error: CodecError) -> None:
        """A message for this peer has no form that it could be sent in."""
        self._hub.count("message_form")
        self._hub.notices.warn(
            "message_form",
            self._source(),
            "{kind} not sent to session {session_id}: {error}",
            kind=kind,
            session_id=self.session_id,
            error=str(error),
            job_id=job_id,
        )

    def error_withheld(self, message: Message) -> str:
        """Logs an ERROR that can't be sent; the id that it is found by."""
        log_id = secrets.token_hex(8)
        self._hub.notices.error(
            "error_withheld",
            self._source(),
            "the ERROR ({log_id}) was {uri}: {details!r:.1000}",
            log_id=log_id,
            uri=message.error,
            details=message.kwargs or message.args,
            job_id=messages.job_id_of(message),
        )
        return log_id

    def hold_for(self, slow: "RemoteSession") -> None:
        """Reads no more of this peer until that session, which it sends to, takes more or ends."""
        why = slow.session_id
        if not self.inbox.is_held_for(why):
            self.inbox.hold(why)
            drained = Deferred.fromCoroutine(slow.outbox.drained())
            drained.addBoth(lambda _: self.inbox.release(why))

    def ping_received(self, payload: bytes) -> None:
        """The peer asks for a pong."""
        self.inbox.take()
        self.outbox.owe_pong(payload)

    def connection_lost(self) -> None:
        """The connection is gone: frees timers and buffers, leaves dealer and broker."""
        self._machine.lost()
        self._stop_hello_deadline()
        if self._close_deadline is not None:
            self._close_deadline.cancel()
            self._close_deadline = None
        self.outbox.lose()
        self.inbox.lose()
        self._missed.clear()
        self._hub.left(self)
        self._hub.ended(self)

    def _take(self, step: Reply | Join | Finish | Ignore) -> None:
        match step:
            case Reply(message):
                self.send(message)
            case Join(message, callee):
                self._authmethod, self._authprovider = message.authmethod, message.authprovider
                self._stop_hello_deadline()
                self._hub.notices.info(
                    "joined",
                    self._source(),
                    "session {session_id} of {principal} at {peer} joined",
                    session_id=self.session_id,
                    principal=self._who(),
                    peer=self._connection.peer_name,
                )
                self.send(message)
                self._hub.joined(self, callee)
            case Finish():
                self._finish(step)
            case Ignore():
                pass

    def _finish(self, step: Finish) -> None:
        if step.fault:
            said = step.message.reason if isinstance(step.message, wamp.Abort) else ""
            self._refused(_REASONS.get(said, "violation"), step.why)
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
        self.abort("close_timeout", f"it did not close within {self._limits.close_timeout_s:g} s")

    def _no_hello(self) -> None:
        self._hello_deadline = None
        challenged = self._machine.state is State.CHALLENGED
        text = (
            f"the session was not opened within {self._limits.hello_timeout_s:g} s: "
            f"send {'AUTHENTICATE' if challenged else 'HELLO'} sooner"
        )
        self._refused("authentication_timeout" if challenged else "hello_timeout", text)
        self._take(self._machine.leave(messages.NOT_AUTHENTICATED, text))

    def _stop_hello_deadline(self) -> None:
        if self._hello_deadline is not None:
            self._hello_deadline.cancel()
            self._hello_deadline = None

    def _overrun(self, why: str) -> None:
        self._refused("slow_peer", f"too slow: {why}")
        self._connection.abort()

    def _relieved(self) -> None:
        if self._machine.state is State.JOINED:
            for event, dropped in self._missed.newest():
                self.send(MarkedEvent(event, dropped) if dropped else event)

    def _flooded(self, why: str) -> None:
        self._refused("message_rate", why)
        self.inbox.lose()
        self._take(self._machine.fail(TooMany(why).uri, why))

    def _refused(self, reason: str, why: str) -> None:
        """Counts, and logs within bounds, that the peer was refused something or ended."""
        self._hub.count(reason)
        if self.principal is None:
            self._tallies.refused_sessions += 1
        self._hub.notices.warn(
            reason,
            self._source(),
            "session {session_id} of {principal} at {peer} ended ({reason}): {why}",
            session_id=self.session_id,
            principal=self._who(),
            peer=self._connection.peer_name,
            reason=reason,
            why=why,
        )

    def _source(self) -> str:
        return self.source or "this machine"

    def _who(self) -> str:
        return self.principal.name if self.principal is not None else "nobody yet"
