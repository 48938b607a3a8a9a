"""WAMP messages, as the router makes them: Autobahn's classes behind typed constructors.

Autobahn is half typed; its messages are `Message` (Any), and its module is taken as Any here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from autobahn.wamp import message as _autobahn_messages
from autobahn.wamp import role as _autobahn_roles

from cumulusd.errors import CumulusError

__all__ = ["Effect", "Message", "RegistrationChanged", "Send", "wamp"]

Message: TypeAlias = Any
#: Autobahn's message classes.
wamp: Any = _autobahn_messages
_roles: Any = _autobahn_roles

NO_SUCH_REALM = "wamp.error.no_such_realm"
NO_AUTH_METHOD = "wamp.error.no_auth_method"
NOT_AUTHENTICATED = "wamp.error.not_authenticated"
NOT_AUTHORIZED = "wamp.error.not_authorized"
PROTOCOL_VIOLATION = "wamp.error.protocol_violation"
INVALID_URI = "wamp.error.invalid_uri"
OPTION_NOT_ALLOWED = "wamp.error.option_not_allowed"
NO_SUCH_PROCEDURE = "wamp.error.no_such_procedure"
PROCEDURE_ALREADY_EXISTS = "wamp.error.procedure_already_exists"
NO_SUCH_REGISTRATION = "wamp.error.no_such_registration"
NO_SUCH_SUBSCRIPTION = "wamp.error.no_such_subscription"
CANCELED = "wamp.error.canceled"
SYSTEM_SHUTDOWN = "wamp.close.system_shutdown"
SUPERSEDED = "wamp.close.superseded"
GOODBYE_AND_OUT = "wamp.close.goodbye_and_out"


class Send(NamedTuple):
    """An effect: send the message to the session."""

    session_id: int
    message: Message


class RegistrationChanged(NamedTuple):
    """An effect: the session now offers the procedure, or no longer does."""

    session_id: int
    uri: str
    registered: bool


Effect: TypeAlias = Send | RegistrationChanged


def job_id_of(message: Message) -> str | None:
    """The job that a message speaks of, from its keyword arguments."""
    kwargs = getattr(message, "kwargs", None)
    job_id = kwargs.get("job_id") if isinstance(kwargs, dict) else None
    return job_id if isinstance(job_id, str) else None


def error_reply(
    request_type: int, request: int, error: CumulusError, *, uri: str | None = None
) -> Message:
    """An ERROR that carries a CumulusError; `uri` replaces `error.uri` where WAMP has its own.

    Its keyword arguments are `error.as_dict()` without `error` (which repeats `message`): Autobahn
    clients make `ApplicationError(error_uri, *args, **kwargs)` of them, whose first parameter is
    named `error`, and lose their session over the clash.
    """
    kwargs = error.as_dict()
    del kwargs["error"]
    return wamp.Error(request_type, request, uri or error.uri, args=[error.message], kwargs=kwargs)


def canceled(request_type: int, request: int, text: str) -> Message:
    """The ERROR that ends a call before its time."""
    return wamp.Error(request_type, request, CANCELED, args=[text])


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
        {
            "broker": _roles.RoleBrokerFeatures(publisher_exclusion=True),
            "dealer": _roles.RoleDealerFeatures(call_canceling=True, progressive_call_results=True),
        },
        realm=realm,
        authid=authid,
        authrole=authrole,
        authmethod=authmethod,
        authprovider="static",
        authextra=None if authextra is None else dict(authextra),
    )


def cancels_calls(hello: Message) -> bool:
    """Did the peer announce that it takes INTERRUPT as a callee?"""
    callee: Any = (hello.roles or {}).get("callee")
    return bool(getattr(callee, "call_canceling", False))


def as_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments as a dict of their own."""
    return dict(kwargs or {})
