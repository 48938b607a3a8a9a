"""What becomes of a session's messages: the gate judges, then dealer, broker or meta API decide."""

from collections.abc import Callable, Mapping

from cumulusd.errors import TooMany
from cumulusd.identity import DAEMON, Principal
from cumulusd.protocol import messages
from cumulusd.protocol.authorize import Action
from cumulusd.protocol.broker import Broker
from cumulusd.protocol.dealer import Dealer
from cumulusd.protocol.gate import Gate
from cumulusd.protocol.messages import Effect, Message, Send, wamp
from cumulusd.protocol.meta import MetaApi
from cumulusd.protocol.patterns import EXACT
from cumulusd.protocol.remote_session import RemoteSession
from cumulusd.protocol.roster import Roster

_TOO_MANY = TooMany("").uri


class Requests:
    """`decide` for every message that a session may send once it has joined."""

    def __init__(
        self,
        joined: Mapping[int, RemoteSession],
        local_id: int,
        *,
        gate: Gate,
        dealer: Dealer,
        broker: Broker,
        roster: Roster,
        count: Callable[[str], None],
    ) -> None:
        """`joined`: the remote sessions; `local_id`: the daemon's own. `count` is told which limit
        a request was refused for."""
        self._joined = joined
        self._local_id = local_id
        self._gate = gate
        self._dealer = dealer
        self._broker = broker
        self._roster = roster
        self._count = count
        self.meta = MetaApi(roster, dealer, broker)
        self._actions: dict[type, Callable[[int, Message], list[Effect]]] = {
            wamp.Call: self._call,
            wamp.Register: self._register,
            wamp.Subscribe: self._subscribe,
            wamp.Publish: self._publish,
            wamp.Cancel: dealer.cancel,
            wamp.Yield: dealer.yield_,
            wamp.Error: dealer.error,
            wamp.Unregister: dealer.unregister,
            wamp.Unsubscribe: self._unsubscribe,
        }

    def decide(self, session_id: int, message: Message) -> list[Effect]:
        """What follows. Raises ProtocolViolation where that ends the session."""
        return self._actions[type(message)](session_id, message)

    def principal_of(self, session_id: int) -> Principal:
        """Who a session that has joined is. Raises KeyError for any other: nobody is taken for the
        daemon because nothing is known of it."""
        if session_id == self._local_id:
            return DAEMON
        principal = self._joined[session_id].principal
        assert principal is not None, "it has joined"
        return principal

    def _call(self, session_id: int, message: Message) -> list[Effect]:
        uri: str = message.procedure
        denied = self._denied(session_id, Action.CALL, uri, message)
        if denied:
            return denied
        if uri.startswith(messages.RESERVED):
            return [Send(session_id, self.meta.call(session_id, message))]
        return self._counted("calls_in_flight", self._dealer.call(session_id, message))

    def _register(self, session_id: int, message: Message) -> list[Effect]:
        uri, policy = message.procedure, message.match or EXACT
        denied = self._denied(session_id, Action.REGISTER, uri, message, policy)
        if denied:
            return denied
        holder = self._dealer.holder(uri) if policy == EXACT else None
        if holder is not None and session_id != self._local_id:
            self._roster.supersede(holder, session_id)
        return self._counted("registrations", self._dealer.register(session_id, message))

    def _subscribe(self, session_id: int, message: Message) -> list[Effect]:
        policy = message.match or EXACT
        denied = self._denied(session_id, Action.SUBSCRIBE, message.topic, message, policy)
        return denied or self._counted("subscriptions", self._broker.subscribe(session_id, message))

    def _unsubscribe(self, session_id: int, message: Message) -> list[Effect]:
        session = self._joined.get(session_id)
        if session is not None:
            session.unsubscribed(message.subscription)
        return self._broker.unsubscribe(session_id, message)

    def _publish(self, session_id: int, message: Message) -> list[Effect]:
        denied = self._denied(session_id, Action.PUBLISH, message.topic, message)
        if denied:
            return denied if message.acknowledge else []  # WAMP answers no other
        return self._broker.publish(session_id, message)

    def _counted(self, limit: str, effects: list[Effect]) -> list[Effect]:
        """Counts a request that dealer or broker refused for its session's limit."""
        answer = getattr(effects[0], "message", None) if effects else None
        if isinstance(answer, wamp.Error) and answer.error == _TOO_MANY:
            self._count(limit)
        return effects

    def _denied(
        self, session_id: int, action: Action, uri: str, message: Message, policy: str = EXACT
    ) -> list[Effect]:
        refusal = self._gate.refusal(self.principal_of(session_id), action, uri, message, policy)
        if refusal is None:
            return []
        session = self._joined.get(session_id)
        if session is not None:
            session.request_refused(refusal)
        return [Send(session_id, refusal)]
