"""WAMP messages, as the router makes them: Autobahn's classes and our light ones, behind typed
constructors.

Autobahn is half typed; its messages are `Message` (Any), and its module is taken as Any here.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import attrs
from autobahn.wamp import message as _autobahn_messages
from autobahn.wamp import role as _autobahn_roles

from cumulusd.errors import CumulusError
from cumulusd.protocol import light

__all__ = ["Effect", "Member", "Message", "MetaEvent", "RegistrationChanged", "Send", "wamp"]

Message: TypeAlias = Any
#: Autobahn's message classes, and light ones for the messages of every call and event.
wamp: Any = SimpleNamespace(
    **{
        **{name: value for name, value in vars(_autobahn_messages).items() if name[0].isupper()},
        **{cls.__name__: cls for cls in light.CLASSES},
    }
)
_roles: Any = _autobahn_roles

NO_SUCH_REALM = "wamp.error.no_such_realm"
NO_AUTH_METHOD = "wamp.error.no_auth_method"
NOT_AUTHENTICATED = "wamp.error.not_authenticated"
NOT_AUTHORIZED = "wamp.error.not_authorized"
PROTOCOL_VIOLATION = "wamp.error.protocol_violation"
PAYLOAD_SIZE_EXCEEDED = "wamp.error.payload_size_exceeded"
INVALID_URI = "wamp.error.invalid_uri"
OPTION_NOT_ALLOWED = "wamp.error.option_not_allowed"
OPTION_DISALLOWED_DISCLOSE_ME = "wamp.error.option_disallowed.disclose_me"
INVALID_ARGUMENT = "wamp.error.invalid_argument"
NO_SUCH_SESSION = "wamp.error.no_such_session"
NO_SUCH_PROCEDURE = "wamp.error.no_such_procedure"
PROCEDURE_ALREADY_EXISTS = "wamp.error.procedure_already_exists"
NO_SUCH_REGISTRATION = "wamp.error.no_such_registration"
NO_SUCH_SUBSCRIPTION = "wamp.error.no_such_subscription"
CANCELED = "wamp.error.canceled"
TIMEOUT = "wamp.error.timeout"
SYSTEM_SHUTDOWN = "wamp.close.system_shutdown"
CLOSE_NORMAL = "wamp.close.normal"
SUPERSEDED = "wamp.close.superseded"
GOODBYE_AND_OUT = "wamp.close.goodbye_and_out"
#: Under it are WAMP's own URIs, which only a router offers and publishes.
RESERVED = "wamp."


class Send(NamedTuple):
    """An effect: send the message to the session."""

    session_id: int
    message: Message


class RegistrationChanged(NamedTuple):
    """An effect: the session now offers the procedure, or no longer does."""

    session_id: int
    uri: str
    registered: bool


class MetaEvent(NamedTuple):
    """An effect: tell whoever listens to WAMP's meta events."""

    topic: str
    args: list[Any]


Effect: TypeAlias = Send | RegistrationChanged | MetaEvent


@attrs.frozen(kw_only=True)
class CalleeFeatures:
    """What a peer announced as a callee."""

    cancels_calls: bool = False  #: takes INTERRUPT
    yields_progress: bool = False  #: may be asked for progressive results


@attrs.frozen(kw_only=True)
class Member:
    """A session that takes part, as dealer and broker know it."""

    session_id: int
    authid: str
    authrole: str
    callee: CalleeFeatures = CalleeFeatures()
    may_disclose: bool = True  #: itself, when it asks to
    may_learn_callers: bool = False  #: of all who call it, without their asking
    local: bool = False  #: the daemon's own: unbounded, and always told who calls


def job_id_of(message: Message) -> str | None:
    """The job that a message speaks of, from its keyword arguments."""
    kwargs = getattr(message, "kwargs", None)
    job_id = kwargs.get("job_id") if isinstance(kwargs, dict) else None
    return job_id if isinstance(job_id, str) else None


def error_reply(
    request_type: int, request: int, error: CumulusError, *, uri: str | None = None
) -> Message:
    """An ERROR that carries a CumulusError; `uri` replaces `error.uri` where WAMP has its own.

    Its keyword arguments are `error.as_dict()` without the text, which is the positional one:
    clients make `ApplicationError(uri, *args, **kwargs)` of them, whose first parameter is named
    `error` in Autobahn and `message` in xconn, and fail over the clash.
    """
    kwargs = error.as_dict()
    del kwargs["error"], kwargs["message"]
    return wamp.Error(request_type, request, uri or error.uri, args=[error.message], kwargs=kwargs)


class MarkedEvent(wamp.Message):  # type: ignore[misc]  # it is Any
    """An EVENT that tells its subscriber how many of the subscription before it were dropped."""

    #: The key in EVENT's details.
    DROPPED = "x_cumulus_dropped"

    def __init__(self, event: Message, dropped: int) -> None:
        """`dropped` is how many, at least 1."""
        super().__init__()
        self.event = event
        self.subscription = event.subscription
        self.dropped = dropped

    def marshal(self) -> list[Any]:
        """The raw message."""
        kind, subscription, publication, details, *payload = self.event.marshal()
        marked = {**details, self.DROPPED: self.dropped}
        return [kind, subscription, publication, marked, *payload]


def sendable(text: str) -> str:
    """The same where a peer's own text in it may hold lone surrogates, which are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def canceled(request_type: int, request: int, text: str) -> Message:
    """The ERROR that ends a call before its time."""
    return wamp.Error(request_type, request, CANCELED, args=[text])


_ROLES = {
    "broker": _roles.RoleBrokerFeatures(
        pattern_based_subscription=True,
        publisher_exclusion=True,
        publisher_identification=True,
        session_meta_api=True,
        subscriber_blackwhite_listing=True,
        subscription_meta_api=True,
    ),
    "dealer": _roles.RoleDealerFeatures(
        call_canceling=True,
        call_timeout=True,
        caller_identification=True,
        pattern_based_registration=True,
        progressive_call_results=True,
        registration_meta_api=True,
        session_meta_api=True,
    ),
}


def welcome(
    session_id: int,
    *,
    realm: str,
    authid: str,
    authrole: str,
    authmethod: str,
    authextra: Mapping[str, Any] | None = None,
) -> Message:
    """A WELCOME that announces what the router does, and nothing else."""
    return wamp.Welcome(
        session_id,
        _ROLES,
        realm=realm,
        authid=authid,
        authrole=authrole,
        authmethod=authmethod,
        authprovider="static",
        authextra=None if authextra is None else dict(authextra),
    )


def callee_features(hello: Message) -> CalleeFeatures:
    """What the peer announced as a callee. Progressive results count only with cancelling: else
    nobody could stop them when their caller has gone."""
    callee: Any = (hello.roles or {}).get("callee")
    cancels = bool(getattr(callee, "call_canceling", False))
    yields = bool(getattr(callee, "progressive_call_results", False))
    return CalleeFeatures(cancels_calls=cancels, yields_progress=cancels and yields)


#: By message type, the option that asks for disclosure; Autobahn's messages don't know them.
DISCLOSING = {
    wamp.Call.MESSAGE_TYPE: "disclose_me",
    wamp.Publish.MESSAGE_TYPE: "disclose_me",
    wamp.Register.MESSAGE_TYPE: "disclose_caller",
}


def keep_disclosure(message: Message, options: Mapping[str, Any]) -> None:
    """Notes on a parsed CALL, PUBLISH or REGISTER that its options ask for disclosure."""
    name = DISCLOSING[message.MESSAGE_TYPE]
    if options.get(name) is True:
        # The slot that Autobahn has for routers, and so do ours: it is never serialised.
        message._router_internal = name


def asks_disclosure(message: Message) -> bool:
    """Did `keep_disclosure` note that?"""
    return getattr(message, "_router_internal", None) is not None


def iso_time(unix_s: float) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    text = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def as_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments as a dict of their own."""
    return dict(kwargs or {})
