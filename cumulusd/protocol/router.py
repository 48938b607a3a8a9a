"""The WAMP router of the daemon: sessions, dealer and broker, put together.

Dealer and broker decide, `_carry_out` acts. Whatever cannot be delivered is turned into an error
for whoever waits for it; it never harms another session.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import IResource

from cumulus_wire import uris
from cumulusd.errors import TooMany
from cumulusd.identity import DAEMON, Authenticator, Principal, Role
from cumulusd.origins import Origins
from cumulusd.protocol import messages
from cumulusd.protocol.admission import Admission, Denial
from cumulusd.protocol.alarm import Alarm
from cumulusd.protocol.auth import Secrets
from cumulusd.protocol.authorize import ALLOWED, OwnsJob, Table
from cumulusd.protocol.bounded_log import BoundedLog
from cumulusd.protocol.broker import Broker
from cumulusd.protocol.codec import Codec, CodecError
from cumulusd.protocol.connection import Connection
from cumulusd.protocol.dealer import Dealer, ProtocolViolation
from cumulusd.protocol.gate import Gate
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.listener import WampFactory, websocket_resource
from cumulusd.protocol.local_session import LocalSession
from cumulusd.protocol.messages import (
    CalleeFeatures,
    Effect,
    Member,
    Message,
    MetaEvent,
    RegistrationChanged,
    wamp,
)
from cumulusd.protocol.remote_session import RemoteSession
from cumulusd.protocol.requests import Requests
from cumulusd.protocol.roster import Roster
from cumulusd.protocol.session import Session
from cumulusd.protocol.tallies import RouterStats, Tallies
from cumulusd.protocol.undeliverable import apologies

_LOCAL_SESSION_ID = 1  #: remote ones are drawn above it
_LOCAL_MEMBER = Member(
    session_id=_LOCAL_SESSION_ID,
    authid=DAEMON.name,
    authrole=DAEMON.role.value,
    callee=CalleeFeatures(cancels_calls=True, yields_progress=True),
    local=True,
)
_MAX_SESSION_ID = 2**53


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
        origins: Origins | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` times everything; `owns_job(principal, job_id)` decides on jobs' own topics;
        `allowed`: who may do what. `allow_plain_tokens`: also over connections that others can
        read. `secret`: what logins are made of, by default new. `origins`: which browsers' pages
        come in, by default the daemon's own. `wall_clock`: unix seconds, for what is told."""
        self._clock = clock
        self._authenticator = authenticator
        self._limits = limits or Limits()
        self._allow_plain_tokens = allow_plain_tokens
        self._secret = secret or Secrets()
        self._origins = origins or Origins(is_open=lambda: authenticator.open)
        self._dealer = Dealer(
            max_calls_in_flight=self._limits.max_calls_in_flight,
            max_registrations=self._limits.max_registrations,
            now=clock.seconds,
            wall_clock=wall_clock,
        )
        self._broker = Broker(max_subscriptions=self._limits.max_subscriptions, now=wall_clock)
        self._timeouts = Alarm(clock, self._dealer.next_timeout_at, self._time_out)
        self._connections: dict[int, RemoteSession] = {}
        self._joined: dict[int, RemoteSession] = {}
        self._roster = Roster(self._joined)
        self._requests = Requests(
            self._joined,
            _LOCAL_SESSION_ID,
            gate=Gate(table=allowed, owns_job=owns_job, max_uri_chars=self._limits.max_uri_chars),
            dealer=self._dealer,
            broker=self._broker,
            roster=self._roster,
            count=self.count,
        )
        self._admission = Admission(self._limits)
        self.tallies = Tallies()
        self.notices = BoundedLog(
            clock, self._log, lines_per_minute=self._limits.log_lines_per_minute
        )
        self._stopping = False
        self._all_ended: list[Deferred[None]] = []
        self._local = LocalSession(_LOCAL_SESSION_ID, wire=self, clock=clock)
        for part in (self._dealer, self._broker):
            part.join(_LOCAL_MEMBER)

    def websocket_resource(self) -> IResource:
        """The endpoint for `putChild(b"ws", ...)`: sub-protocols wamp.2.cbor, msgpack, json."""
        factory = WampFactory(
            clock=self._clock,
            limits=self._limits,
            reception=self,
            origins=self._origins,
        )
        return websocket_resource(factory)

    def local(self) -> LocalSession:
        """The daemon's own session."""
        return self._local

    @property
    def fault(self) -> str | None:
        """Why no connection is taken now, wherever it comes from; None when one is."""
        if self._stopping:
            return "the daemon is stopping"
        return self._admission.fault

    def stats(self) -> RouterStats:
        """What there is now, and the counts so far."""
        roles = Counter(s.principal.role for s in self._joined.values() if s.principal)
        return RouterStats(
            sessions={role: roles[role] for role in Role if role is not Role.DAEMON},
            connections=len(self._connections),
            queued_bytes=sum(each.outbox.queued_bytes for each in self._connections.values()),
            calls_in_flight=self._dealer.calls_in_flight,
            topics=self._broker.topics,
            events_dropped=self.tallies.events_dropped,
            refusals=self.tallies.refusals,
            refused_sessions=self.tallies.refused_sessions,
            traffic=self.tallies.traffic,
        )

    async def stop(self, timeout_s: float) -> None:
        """Takes no more connections, says GOODBYE to all, and aborts those that haven't gone after
        `timeout_s` seconds. Returns when every connection is gone. Not to be awaited by a handler.
        """
        self._stopping = True
        for session in list(self._connections.values()):
            session.leave(messages.SYSTEM_SHUTDOWN, "the daemon is stopping; reconnect later")
        if not self._connections:
            self.notices.close()
            return
        gone: Deferred[None] = Deferred()
        self._all_ended.append(gone)
        timer = self._clock.callLater(timeout_s, self._abort_all)
        try:
            await gone
        finally:
            if timer.active():
                timer.cancel()
            self.notices.close()

    def end_sessions(self, name: str, why: str) -> int:
        """Says GOODBYE to all sessions of that principal, which take no more part from now on;
        how many there were."""
        ending = [
            session
            for session in self._connections.values()
            if session.principal is not None and session.principal.name == name
        ]
        for session in ending:
            self.count("revoked")
            session.leave(messages.NOT_AUTHENTICATED, why)
        return len(ending)

    # listener.Reception

    def refusal(self, source: str | None) -> Denial | None:
        """Why no connection of that source is taken now; None when one is."""
        if self._stopping:
            return Denial("stopping", "the daemon is stopping; try again later")
        return self._admission.refusal(source)

    def connection_refused(self, source: str | None, peer: str, reason: str, why: str) -> None:
        """A connection was not taken."""
        self.count(reason)
        self.notices.warn(
            reason,
            source or "this machine",
            "connection of {peer} refused ({reason}): {why}",
            peer=peer,
            reason=reason,
            why=why,
        )

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
        denial = self._admission.enter(session_id, session.source)
        if denial is not None:
            session.refuse(denial.reason, TooMany(denial.text))
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
        self._admission.leave(session.session_id)
        if not self._connections:
            waiting, self._all_ended = self._all_ended, []
            for gone in waiting:
                gone.callback(None)

    def count(self, what: str) -> None:
        """Something was refused or ended, for one of `tallies.REFUSALS`."""
        self.tallies.refused(what)

    def route(self, session_id: int, message: Message) -> None:
        """Takes a message of a session to dealer or broker, and carries out what they decide."""
        if session_id != _LOCAL_SESSION_ID and session_id not in self._joined:
            return
        try:
            effects = self._requests.decide(session_id, message)
        except ProtocolViolation as error:
            self._joined[session_id].violation(str(error))
            return
        self._carry_out(effects)
        self._timeouts.arm()
        # Events are dropped for who is slow; everything else comes no faster than it is taken.
        if session_id != _LOCAL_SESSION_ID and type(message) is not wamp.Publish:
            self._hold_back(session_id, effects)

    def principal_of(self, session_id: int) -> Principal:
        """Who a session that has joined is."""
        return self._requests.principal_of(session_id)

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

    def is_heard(self, topic: str) -> bool:
        """Whether anybody listens to that topic."""
        return self._broker.is_heard(topic)

    def end_topic(self, uri: str) -> None:
        """Nobody listens to that topic any more; who has a pattern goes on."""
        over, effects = self._broker.end_topic(uri)
        for ended in over:
            for session_id in ended.subscribers:
                if session_id != _LOCAL_SESSION_ID:
                    self._joined[session_id].unsubscribed(ended.subscription_id)
        self._carry_out(effects)

    # Effects

    def _hold_back(self, sender_id: int, effects: list[Effect]) -> None:
        """Reads no more of a sender while the session it sends to is above its high watermark."""
        for effect in effects:
            if not isinstance(effect, messages.Send):
                continue
            target = self._joined.get(effect.session_id)
            if target is not None and target.outbox.above_high and effect.session_id != sender_id:
                sender = self._joined.get(sender_id)
                if sender is not None:
                    sender.hold_for(target)

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, messages.Send):
                self._deliver(effect.session_id, effect.message)
            elif isinstance(effect, MetaEvent):
                self._announce(effect)
            else:
                session = self._joined.get(effect.session_id)
                if session is not None:
                    self._tell_registration(effect, session)

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
        try:
            if isinstance(message, wamp.Event):
                session.send_event(message)
            else:
                session.send(message)
        except CodecError as error:
            self._carry_out(apologies(self._dealer, session, message, error))
        except Exception:
            session.failed()

    def _abort_all(self) -> None:
        for session in list(self._connections.values()):
            session.abort("close_timeout", "the daemon stops and it did not say goodbye in time")
