"""Who a session is: anonymous on an open daemon, a ticket (the token alone) otherwise."""

from typing import TypeAlias

import attrs

from cumulusd.identity import ANONYMOUS, Authenticator, Principal
from cumulusd.peers import PLAIN_TOKEN
from cumulusd.protocol import messages
from cumulusd.protocol.messages import Message

TICKET = "ticket"
ANONYMOUS_METHOD = "anonymous"


@attrs.frozen
class Accept:
    """It is this principal."""

    principal: Principal
    method: str


@attrs.frozen
class Challenge:
    """Ask for the ticket."""


@attrs.frozen
class Refuse:
    """ABORT with this error URI and text."""

    uri: str
    text: str


Verdict: TypeAlias = Accept | Challenge | Refuse


def judge_hello(
    hello: Message, authenticator: Authenticator, realm: str, *, secure: bool = True
) -> Verdict:
    """What to answer a HELLO. `secure`: a token may be sent over this connection."""
    if hello.realm != realm:
        return Refuse(messages.NO_SUCH_REALM, f"there is no realm {hello.realm!r}; join {realm!r}")
    methods = hello.authmethods or []
    if authenticator.open and (not methods or ANONYMOUS_METHOD in methods):
        return Accept(ANONYMOUS, ANONYMOUS_METHOD)
    if TICKET in methods and not secure:
        return Refuse(messages.NO_AUTH_METHOD, PLAIN_TOKEN)
    if TICKET in methods:
        return Challenge()
    wanted = "'ticket' or 'anonymous'" if authenticator.open else "'ticket', with the token"
    return Refuse(messages.NO_AUTH_METHOD, f"offer the authentication method {wanted}")


def judge_ticket(ticket: object, authenticator: Authenticator) -> Accept | Refuse:
    """What to answer an AUTHENTICATE."""
    principal = authenticator.authenticate(ticket) if isinstance(ticket, str) else None
    if principal is None:
        return Refuse(
            messages.NOT_AUTHENTICATED,
            "the token is not known to this daemon; check it, or ask its operator for one",
        )
    return Accept(principal, TICKET)
