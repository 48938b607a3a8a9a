"""The WAMP router of the daemon: sessions, dealer and broker, put together.

Dealer and broker decide, `_carry_out` acts. Whatever cannot be delivered is turned into an error
for whoever waits for it; it never harms another session.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Mapping

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import IResource

from cumulus_wire import uris
from cumulusd.errors import InvalidArgument, TooLarge
from cumulusd.identity import DAEMON, Authenticator, Principal, Role
from cumulusd.protocol import messages
from cumulusd.protocol.alarm import Alarm
from cumulusd.protocol.auth import Secrets
from cumulusd.protocol.authorize import ALLOWED, Action, OwnsJob, Table
from cumulusd.protocol.broker import Broker
from cumulusd.protocol.codec import Codec, CodecError
from cumulusd.protocol.dealer import Dealer, ProtocolViolation
from cumulusd.protocol.gate import Gate
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import LocalSession, internal_error
from cumulusd.protocol.messages import (
    CalleeFeatures,
    Effect,
    Member,
    Message,
    MetaEvent,
    RegistrationChanged,
    error_reply,
    wamp,
)
from cumulusd.protocol.meta import MetaApi
from cumulusd.protocol.patterns import EXACT
from cumulusd.protocol.remote_session import Connection, MessageTooLarge, RemoteSession
from cumulusd.protocol.roster import Roster
from cumulusd.protocol.session import Session
from cumulusd.protocol.transport import WampFactory, websocket_resource

_LOCAL_SESSION_ID = 1  #: remote ones are drawn above it
_LOCAL_MEMBER = Member(
    session_id=_LOCAL_SESSION_ID,
    authid=DAEMON.name,
    authrole=DAEMON.role.value,
    callee=CalleeFeatures(cancels_calls=True, yields_progress=True),
    local=True,
)
_MAX_SESSION_ID = 2**53


@attrs.frozen(kw_only=True)
class RouterStats:
    """What the router has and did, for metrics. Counts are since its start."""

    sessions: Mapping[Role, int]  #: remote sessions that have joined
    connections: int  #: open ones, joined or not
    calls_in_flight: int
    topics: int  #: with at least one subscriber
    events_dropped: int  #: to sessions too slow, or without a form in their serialisation
    slow_peers_closed: int
    violations: int  #: sessions ended for breaking the protocol
    refused_sessions: int  #: not authenticated, wrong realm, or no valid HELLO


class Router:
    """One realm. Owns every remote session until its connection is gone."""

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        authenticator: Authenticator,
        limits: Limits | None = None,
        owns_job: OwnsJob = lambda principal, job_id: False,
        allowed: Table = ALLOWED,
        allow_plain_tokens: bool = False,
        secret: Secrets | None = None,
    ) -> None:
        """`clock` times everything; `owns_job(principal, job_id)` decides on jobs' own topics;
        `allowed`: who may do what. `allow_plain_tokens`: also over connections that others can
        read. `secret`: what logins are made of, by default new."""
        self._clock = clock
        self._authenticator = authenticator
        self._limits = limits or Limits()
        self._gate = Gate(
            table=allowed, owns_job=owns_job, max_uri_chars=self._limits.max_uri_chars
        )
        self._allow_plain_tokens = allow_plain_tokens
        self._secret = secret or Secrets()
        self._dealer = Dealer(
            max_calls_in_flight=self._limits.max_calls_in_flight,
            max_registrations=self._limits.max_registrations,
            now=clock.seconds,
        )
        self._broker = Broker(max_subscriptions=self._limits.max_subscriptions, now=clock.seconds)
        self._timeouts = Alarm(clock, self._dealer.next_timeout_at, self._time_out)
        self._connections: dict[int, RemoteSession] = {}
        self._joined: dict[int, RemoteSession] = {}
        self._roster = Roster(self._joined)
        self._meta = MetaApi(self._roster, self._dealer, self._broker)
        self._counts: Counter[str] = Counter()
        self._stopping = False
        self._all_ended: list[Deferred[None]] = []
        self._local = LocalSession(_LOCAL_SESSION_ID, wire=self, clock=clock)
        for part in (self._dealer, self._broker):
            part.join(_LOCAL_MEMBER)
        self._actions: dict[type, Callable[[int, Message], list[Effect]]] = {
            wamp.Call: self._call,
            wamp.Register: self._register,
            wamp.Subscribe: self._subscribe,
            wamp.Publish: self._publish,
            wamp.Cancel: self._dealer.cancel,
            wamp.Yield: self._dealer.yield_,
            wamp.Error: self._dealer.error,
            wamp.Unregister: self._dealer.unregister,
            wamp.Unsubscribe: self._broker.unsubscribe,
        }

    def websocket_resource(self) -> IResource:
        """The endpoint for `putChild(b"ws", ...)`: sub-protocols wamp.2.cbor, msgpack, json."""
        factory = WampFactory(
            clock=self._clock,
            limits=self._limits,
            reception=self,
            loopback_only=lambda: self._authenticator.open,
        )
        return websocket_resource(factory)

    def local(self) -> LocalSession:
        """The daemon's own session."""
        return self._local

    def stats(self) -> RouterStats:
        """What there is now, and the counts so far."""
        roles = Counter(s.principal.role for s in self._joined.values() if s.principal)
        return RouterStats(
            sessions={role: roles[role] for role in Role if role is not Role.DAEMON},
            connections=len(self._connections),
            calls_in_flight=self._dealer.calls_in_flight,
            topics=self._broker.topics,
            events_dropped=self._counts["events_dropped"],
            slow_peers_closed=self._counts["slow_peers_closed"],
            violations=self._counts["violations"],
            refused_sessions=self._counts["refused_sessions"],
        )

    async def stop(self, timeout_s: float) -> None:
        """Takes no more connections, says GOODBYE to all, and aborts those that haven't gone after
        `timeout_s` seconds. Returns when every connection is gone. Not to be awaited by a handler.
        """
        self._stopping = True
        for session in list(self._connections.values()):
            session.leave(messages.SYSTEM_SHUTDOWN, "the daemon is stopping; reconnect later")
        if not self._connections:
            return
        gone: Deferred[None] = Deferred()
        self._all_ended.append(gone)
        timer = self._clock.callLater(timeout_s, self._abort_all)
        try:
            await gone
        finally:
            if timer.active():
                timer.cancel()

    # transport.Reception

    def refusal(self) -> str | None:
        """Why no connection is taken now; None when one is."""
        if self._stopping:
            return "the daemon is stopping"
        if len(self._connections) >= self._limits.max_connections:
            return "too many connections"
        return None

    def connected(self, connection: Connection, codec: Codec) -> RemoteSession:
        """A connection is open; its session."""
        session_id = _LOCAL_SESSION_ID
        while session_id == _LOCAL_SESSION_ID or session_id in self._connections:
            session_id = secrets.randbelow(_MAX_SESSION_ID) + 1
        session = RemoteSession(
            Session(
                session_id,
                authenticator=self._authenticator,
                realm=uris.REALM,
                secure=connection.secure or self._allow_plain_tokens,
                secret=self._secret,
            ),
            connection=connection,
            codec=codec,
            hub=self,
            limits=self._limits,
            clock=self._clock,
        )
        self._connections[session_id] = session
        return session

    # remote_session.Hub and local_session.Wire

    def joined(self, session: RemoteSession, callee: CalleeFeatures) -> None:
        """It has been welcomed: messages follow."""
        self._joined[session.session_id] = session
        member = self._roster.add(session, callee)
        self._dealer.join(member)
        self._broker.join(member)
        if self._broker.topics:
            self._announce(MetaEvent("wamp.session.on_join", [session.details]))

    def left(self, session: RemoteSession) -> None:
        """It takes no more part; may be told twice."""
        if session.session_id not in self._joined:
            return
        effects = self._dealer.leave(session.session_id)
        effects += self._broker.leave(session.session_id)
        del self._joined[session.session_id]
        member = self._roster.remove(session)
        self._timeouts.arm()
        for effect in effects:
            if isinstance(effect, RegistrationChanged):
                self._tell_registration(effect, session)
            else:
                self._carry_out([effect])
        gone = [member.session_id, member.authid, member.authrole]
        self._announce(MetaEvent("wamp.session.on_leave", gone))

    def ended(self, session: RemoteSession) -> None:
        """Its connection is gone."""
        self._connections.pop(session.session_id, None)
        if not self._connections:
            waiting, self._all_ended = self._all_ended, []
            for gone in waiting:
                gone.callback(None)

    def count(self, what: str) -> None:
        """Something of `RouterStats` happened once."""
        self._counts[what] += 1

    def route(self, session_id: int, message: Message) -> None:
        """Takes a message of a session to dealer or broker, and carries out what they decide."""
        if session_id != _LOCAL_SESSION_ID and session_id not in self._joined:
            return
        try:
            effects = self._actions[type(message)](session_id, message)
        except ProtocolViolation as error:
            self._joined[session_id].violation(str(error))
            return
        self._carry_out(effects)
        self._timeouts.arm()

    def principal_of(self, session_id: int) -> Principal:
        """Who a session that has joined is."""
        if session_id == _LOCAL_SESSION_ID:
            return DAEMON
        principal = self._joined[session_id].principal
        assert principal is not None, "it has joined"
        return principal

    def is_in_flight(self, callee_id: int, invocation: int) -> bool:
        """Does a caller still wait for that invocation?"""
        return self._dealer.is_in_flight(callee_id, invocation)

    async def drained(self, session_id: int) -> None:
        """Returns when the session's connection takes more; CancelledError when it is gone."""
        if session_id == _LOCAL_SESSION_ID:
            return
        session = self._joined.get(session_id)
        if session is None:
            raise CancelledError()
        await session.outbox.drained()

    # Requests that need a permission

    def _call(self, session_id: int, message: Message) -> list[Effect]:
        uri: str = message.procedure
        denied = self._denied(session_id, Action.CALL, uri, message)
        if denied:
            return denied
        if uri.startswith(messages.RESERVED):
            return [messages.Send(session_id, self._meta.call(session_id, message))]
        return self._dealer.call(session_id, message)

    def _register(self, session_id: int, message: Message) -> list[Effect]:
        uri, policy = message.procedure, message.match or EXACT
        denied = self._denied(session_id, Action.REGISTER, uri, message, policy)
        if denied:
            return denied
        if policy == EXACT:
            self._supersede(session_id, uri)
        return self._dealer.register(session_id, message)

    def _subscribe(self, session_id: int, message: Message) -> list[Effect]:
        policy = message.match or EXACT
        denied = self._denied(session_id, Action.SUBSCRIBE, message.topic, message, policy)
        return denied or self._broker.subscribe(session_id, message)

    def _publish(self, session_id: int, message: Message) -> list[Effect]:
        denied = self._denied(session_id, Action.PUBLISH, message.topic, message)
        if denied:
            return denied if message.acknowledge else []  # WAMP answers no other
        return self._broker.publish(session_id, message)

    def _denied(
        self, session_id: int, action: Action, uri: str, message: Message, policy: str = EXACT
    ) -> list[Effect]:
        refusal = self._gate.refusal(self.principal_of(session_id), action, uri, message, policy)
        return [] if refusal is None else [messages.Send(session_id, refusal)]

    def _supersede(self, session_id: int, uri: str) -> None:
        """An agent that reconnects takes its procedures over from its own dead connection, which
        may look alive until a ping goes unanswered."""
        holder = self._joined.get(self._dealer.holder(uri) or 0)
        if holder is None or holder.session_id == session_id:
            return
        newcomer = self.principal_of(session_id)
        if newcomer.role is not Role.AGENT or holder.principal != newcomer:
            return
        self._log.warn(
            "agent {principal} of node {node_id} connected again; its older session ends",
            principal=newcomer.name,
            node_id=newcomer.node_id,
        )
        holder.leave(messages.SUPERSEDED, "the same agent connected again")

    # Effects

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case messages.Send(session_id, message):
                    self._deliver(session_id, message)
                case RegistrationChanged(session_id):
                    session = self._joined.get(session_id)
                    if session is not None:
                        self._tell_registration(effect, session)
                case MetaEvent():
                    self._announce(effect)

    def _announce(self, event: MetaEvent) -> None:
        self._carry_out(self._broker.announce(event.topic, event.args))

    def _time_out(self) -> None:
        self._carry_out(self._dealer.time_out())

    def _tell_registration(self, change: RegistrationChanged, session: RemoteSession) -> None:
        assert session.principal is not None, "only a session that has joined registers"
        self._local.registration_changed(change.uri, session.principal, change.registered)

    def _deliver(self, session_id: int, message: Message) -> None:
        if session_id == _LOCAL_SESSION_ID:
            self._local.receive(message)
            return
        session = self._joined.get(session_id)
        if session is None:
            return
        if isinstance(message, wamp.Event) and session.outbox.above_high:
            self.count("events_dropped")
            return
        try:
            session.send(message)
        except CodecError as error:
            self._undeliverable(session, message, error)
        except Exception:
            self._log.failure("sending to session {session_id} failed", session_id=session_id)
            session.abort("an internal error of the router")

    def _undeliverable(self, session: RemoteSession, message: Message, error: CodecError) -> None:
        """The message has no form for this session: whoever waits for it is told."""
        kind = type(message).__name__.upper()
        self._log.warn(
            "{kind} not sent to session {session_id}: {error}",
            kind=kind,
            session_id=session.session_id,
            error=str(error),
            job_id=messages.job_id_of(message),
        )
        refused = (TooLarge if isinstance(error, MessageTooLarge) else InvalidArgument)(
            f"the {kind} can't be sent: {error}", job_id=messages.job_id_of(message)
        )
        match message:
            case wamp.Result():
                self._carry_out(
                    self._dealer.refuse_result(session.session_id, message.request, refused)
                )
            case wamp.Invocation():
                self._carry_out(
                    self._dealer.refuse_invocation(session.session_id, message.request, refused)
                )
            case wamp.Error():
                log_id = secrets.token_hex(8)
                self._log.error(
                    "the ERROR ({log_id}) was {uri}: {details!r:.1000}",
                    log_id=log_id,
                    uri=message.error,
                    details=message.kwargs or message.args,
                    job_id=messages.job_id_of(message),
                )
                opaque = internal_error("the request", log_id, messages.job_id_of(message))
                reply = error_reply(message.request_type, message.request, opaque)
                self._deliver(session.session_id, reply)
            case wamp.Event():
                self.count("events_dropped")
            case _:
                session.abort(f"a {kind} could not be sent")

    def _abort_all(self) -> None:
        for session in list(self._connections.values()):
            session.abort("the daemon stops and it did not say goodbye in time")
