"""WAMP's meta API: procedures of the router's own that tell of its sessions, registrations and
subscriptions, and end sessions. Who may call them is the table's to say.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from cumulusd.protocol import messages
from cumulusd.protocol.broker import Broker, Subscription
from cumulusd.protocol.dealer import Dealer
from cumulusd.protocol.match import is_valid_uri
from cumulusd.protocol.messages import Member, Message, wamp
from cumulusd.protocol.patterns import EXACT, POLICIES, Patterns
from cumulusd.protocol.registration import Registration

_CALL = wamp.Call.MESSAGE_TYPE
#: A reason travels on to the session that ends.
_MAX_REASON_CHARS = 255
_MAX_MESSAGE_CHARS = 1000


class Sessions(Protocol):
    """The router's remote sessions that have joined."""

    def members(self) -> Mapping[int, Member]:
        """All of them, by session id."""

    def session_details(self, session_id: int) -> dict[str, Any]:
        """WAMP's details of one of them."""

    def end_session(self, session_id: int, reason: str, text: str | None) -> None:
        """GOODBYE to one of them."""


class _Refused(Exception):
    def __init__(self, uri: str, text: str) -> None:
        super().__init__(text)
        self.uri = uri


_Procedure = Callable[[int, list[Any], dict[str, Any]], list[Any]]


class MetaApi:
    """Answers calls of `wamp.*`."""

    def __init__(self, sessions: Sessions, dealer: Dealer, broker: Broker) -> None:
        self._sessions = sessions
        self._dealer = dealer
        self._broker = broker
        self._procedures: dict[str, _Procedure] = {
            "wamp.session.count": self._session_count,
            "wamp.session.list": self._session_list,
            "wamp.session.get": self._session_get,
            "wamp.session.kill": self._session_kill,
            "wamp.session.kill_by_authid": self._kill_by_authid,
            "wamp.session.kill_by_authrole": self._kill_by_authrole,
            "wamp.session.kill_all": self._kill_all,
            "wamp.registration.list": lambda *_: [_ids(dealer.registrations)],
            "wamp.registration.lookup": self._registration_lookup,
            "wamp.registration.match": self._registration_match,
            "wamp.registration.get": lambda _, args, __: [self._registration(args).as_dict()],
            "wamp.registration.list_callees": (
                lambda _, args, __: [[self._registration(args).session_id]]
            ),
            "wamp.registration.count_callees": self._count_callees,
            "wamp.subscription.list": lambda *_: [_ids(broker.subscriptions)],
            "wamp.subscription.lookup": self._subscription_lookup,
            "wamp.subscription.match": self._subscription_match,
            "wamp.subscription.get": lambda _, args, __: [self._subscription(args).as_dict()],
            "wamp.subscription.list_subscribers": (
                lambda _, args, __: [list(self._subscription(args).subscribers)]
            ),
            "wamp.subscription.count_subscribers": (
                lambda _, args, __: [len(self._subscription(args).subscribers)]
            ),
        }

    @property
    def procedures(self) -> Iterable[str]:
        """All there are."""
        return self._procedures.keys()

    def call(self, session_id: int, message: Message) -> Message:
        """The RESULT or ERROR for a CALL of `wamp.*`."""
        procedure = self._procedures.get(message.procedure)
        if procedure is None:
            text = f"the router has no procedure {message.procedure}"
            return wamp.Error(_CALL, message.request, messages.NO_SUCH_PROCEDURE, args=[text])
        try:
            results = procedure(session_id, list(message.args or ()), dict(message.kwargs or {}))
        except _Refused as refused:
            return wamp.Error(_CALL, message.request, refused.uri, args=[str(refused)])
        return wamp.Result(message.request, args=results)

    # Sessions

    def _session_count(self, _: int, args: list[Any], __: dict[str, Any]) -> list[Any]:
        return [len(self._of_roles(args))]

    def _session_list(self, _: int, args: list[Any], __: dict[str, Any]) -> list[Any]:
        return [self._of_roles(args)]

    def _session_get(self, _: int, args: list[Any], __: dict[str, Any]) -> list[Any]:
        return [self._sessions.session_details(self._session(args))]

    def _session_kill(self, caller_id: int, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        session_id = self._session(args)
        if session_id == caller_id:
            raise _Refused(messages.NO_SUCH_SESSION, "a session can't kill itself: say GOODBYE")
        self._end([session_id], kwargs)
        return []

    def _kill_by_authid(self, caller_id: int, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        authid = _argument(args, 0, str, "authid")
        members = self._sessions.members().items()
        return [self._end([k for k, m in members if m.authid == authid and k != caller_id], kwargs)]

    def _kill_by_authrole(
        self, caller_id: int, args: list[Any], kwargs: dict[str, Any]
    ) -> list[Any]:
        authrole = _argument(args, 0, str, "authrole")
        members = self._sessions.members().items()
        chosen = [k for k, m in members if m.authrole == authrole and k != caller_id]
        return [len(self._end(chosen, kwargs))]

    def _kill_all(self, caller_id: int, _: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        return [len(self._end([k for k in self._sessions.members() if k != caller_id], kwargs))]

    def _of_roles(self, args: list[Any]) -> list[int]:
        members = self._sessions.members()
        if not args or args[0] is None:
            return list(members)
        wanted = _argument(args, 0, list, "filter_authroles")
        # A set: a peer's list may be long, and there may be many sessions.
        roles = {role for role in wanted if isinstance(role, str)}
        return [number for number, member in members.items() if member.authrole in roles]

    def _session(self, args: list[Any]) -> int:
        session_id: int = _argument(args, 0, int, "session")
        if session_id not in self._sessions.members():
            raise _Refused(messages.NO_SUCH_SESSION, f"there is no session {session_id}")
        return session_id

    def _end(self, session_ids: list[int], kwargs: dict[str, Any]) -> list[int]:
        reason, text = kwargs.get("reason"), kwargs.get("message")
        if reason is None:
            reason = messages.CLOSE_NORMAL
        elif not isinstance(reason, str) or not is_valid_uri(reason, _MAX_REASON_CHARS):
            raise _Refused(messages.INVALID_URI, f"the reason is no URI: {reason!r:.80}")
        if text is not None and (not isinstance(text, str) or len(text) > _MAX_MESSAGE_CHARS):
            wanted = f"text of at most {_MAX_MESSAGE_CHARS} characters"
            raise _Refused(messages.INVALID_ARGUMENT, f"message must be {wanted}")
        for session_id in session_ids:
            self._sessions.end_session(session_id, reason, text)
        return session_ids

    # Registrations

    def _registration_lookup(self, _: int, args: list[Any], __: dict[str, Any]) -> list[Any]:
        found = self._dealer.registrations.get(*_uri_and_policy(args))
        return [None if found is None else found.registration_id]

    def _registration_match(self, _: int, args: list[Any], __: dict[str, Any]) -> list[Any]:
        found = self._dealer.registrations.best(_argument(args, 0, str, "procedure"))
        return [None if found is None else found.registration_id]

    def _registration(self, args: list[Any]) -> Registration:
        number = _argument(args, 0, int, "registration")
        registration = self._dealer.registration(number)
        if registration is None:
            raise _Refused(messages.NO_SUCH_REGISTRATION, f"there is no registration {number}")
        return registration

    def _count_callees(self, _: int, args: list[Any], __: dict[str, Any]) -> list[Any]:
        self._registration(args)
        return [1]  # there are no shared registrations

    # Subscriptions

    def _subscription_lookup(self, _: int, args: list[Any], __: dict[str, Any]) -> list[Any]:
        found = self._broker.subscriptions.get(*_uri_and_policy(args))
        return [None if found is None else found.subscription_id]

    def _subscription_match(self, _: int, args: list[Any], __: dict[str, Any]) -> list[Any]:
        found = self._broker.subscriptions.matching(_argument(args, 0, str, "topic"))
        return [[each.subscription_id for each in found] or None]

    def _subscription(self, args: list[Any]) -> Subscription:
        number = _argument(args, 0, int, "subscription")
        subscription = self._broker.subscription(number)
        if subscription is None:
            raise _Refused(messages.NO_SUCH_SUBSCRIPTION, f"there is no subscription {number}")
        return subscription


def _ids(patterns: Patterns[Registration] | Patterns[Subscription]) -> dict[str, list[int]]:
    return {
        policy: [
            each.registration_id if isinstance(each, Registration) else each.subscription_id
            for each in patterns.of(policy).values()
        ]
        for policy in POLICIES
    }


def _argument(args: list[Any], place: int, kind: type, name: str) -> Any:
    value = args[place] if place < len(args) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Refused(
            messages.INVALID_ARGUMENT,
            f"argument {place + 1} is {name}, of type {kind.__name__}, not {value!r:.80}",
        )
    return value


def _uri_and_policy(args: list[Any]) -> tuple[str, str]:
    uri = _argument(args, 0, str, "the URI")
    options = _argument(args, 1, dict, "options") if len(args) > 1 and args[1] is not None else {}
    policy = options.get("match", EXACT)
    if policy not in POLICIES:
        raise _Refused(messages.INVALID_ARGUMENT, f"match is one of {', '.join(POLICIES)}")
    return uri, policy
