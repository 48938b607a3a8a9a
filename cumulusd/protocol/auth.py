"""Who a session is: which method a HELLO begins, and what its AUTHENTICATE proves.

A method is begun by what HELLO says alone, never by what is known of the name or key in it: who has
no token can't find out which there are.
"""

import secrets
from collections.abc import Callable
from typing import Protocol, TypeAlias

import attrs

from cumulus_wire import scram
from cumulusd.identity import ANONYMOUS, Authenticator
from cumulusd.peers import PLAIN_TOKEN
from cumulusd.protocol import auth_cryptosign, auth_scram, messages
from cumulusd.protocol.auth_verdicts import Accept, NotBegun, Proof, Refuse
from cumulusd.protocol.messages import Message, wamp

__all__ = ["Accept", "Challenge", "Refuse", "Secrets", "Verdict", "judge_hello"]

TICKET = "ticket"
ANONYMOUS_METHOD = "anonymous"
#: What is taken, in the words of who is refused.
_OFFERED = f"{TICKET!r}, {scram.Form.WAMP.value!r} and {auth_cryptosign.METHOD!r}"
#: Who names more methods than there are is told about the first few.
_MAX_METHODS = 16
#: Names are at most 64 characters; what is longer is nobody's.
_MAX_AUTHID_CHARACTERS = 256
_PLAIN_TICKET = f"{PLAIN_TOKEN}; or log in by 'wamp-scram' with the token's name as authid"


@attrs.frozen(kw_only=True)
class Secrets:
    """What nobody can guess: `random_bytes(count)` gives new ones, `names` is the daemon's own and
    the same for its life; it makes up what is told of names that aren't there."""

    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    names: bytes = attrs.field(factory=lambda: secrets.token_bytes(32))


@attrs.frozen
class Challenge:
    """Send this CHALLENGE; `proof` judges the AUTHENTICATE that answers it, once."""

    message: Message
    proof: Proof


Verdict: TypeAlias = Accept | Challenge | Refuse


class _Begin(Protocol):
    def __call__(
        self, hello: Message, authenticator: Authenticator, secret: Secrets, secure: bool
    ) -> Challenge:
        """Raises NotBegun."""


def judge_hello(
    hello: Message,
    authenticator: Authenticator,
    realm: str,
    *,
    secure: bool = True,
    secret: Secrets | None = None,
) -> Verdict:
    """What to answer a HELLO: the first of its methods that can be begun. `secure`: a token may be
    sent over this connection."""
    if hello.realm != realm:
        asked = str(hello.realm)[:80]
        return Refuse(messages.NO_SUCH_REALM, f"there is no realm {asked!r}; join {realm!r}")
    methods = hello.authmethods or []
    if authenticator.open and (not methods or ANONYMOUS_METHOD in methods):
        return Accept(ANONYMOUS, ANONYMOUS_METHOD)
    if len(hello.authid or "") > _MAX_AUTHID_CHARACTERS:
        text = f"authid is longer than {_MAX_AUTHID_CHARACTERS} characters"
        return Refuse(messages.NOT_AUTHENTICATED, text)
    secret = secret or Secrets()
    why: list[str] = []
    for method in methods[:_MAX_METHODS]:
        begin = _METHODS.get(method)
        if begin is None:
            continue
        try:
            return begin(hello, authenticator, secret, secure)
        except NotBegun as error:
            why.append(str(error))
    if set(methods) <= {ANONYMOUS_METHOD}:
        text = f"a token is needed: prove that you have one by one of {_OFFERED}"
    else:
        also = f" or {ANONYMOUS_METHOD!r}" if authenticator.open else ""
        text = f"offer an authentication method of {_OFFERED}{also}"
    return Refuse(messages.NO_AUTH_METHOD, "; ".join(dict.fromkeys(why)) or text)


def _begin_ticket(
    hello: Message, authenticator: Authenticator, secret: Secrets, secure: bool
) -> Challenge:
    if not secure:
        raise NotBegun(_PLAIN_TICKET)
    return Challenge(wamp.Challenge(TICKET), _Ticket(authenticator))


@attrs.frozen
class _Ticket:
    """The token itself, which alone identifies: any authid will do."""

    _authenticator: Authenticator

    def judge(self, answer: Message) -> Accept | Refuse:
        ticket = answer.signature
        principal = self._authenticator.authenticate(ticket) if isinstance(ticket, str) else None
        if principal is None:
            return Refuse(
                messages.NOT_AUTHENTICATED,
                "the token is not known to this daemon: it is wrong, was revoked or has expired; "
                "check it, or ask the daemon's operator for one",
            )
        return Accept(principal, TICKET)


def _begin_scram(form: scram.Form) -> _Begin:
    def begin(
        hello: Message, authenticator: Authenticator, secret: Secrets, secure: bool
    ) -> Challenge:
        return Challenge(
            *auth_scram.begin(
                form,
                hello,
                authenticator,
                random_bytes=secret.random_bytes,
                names_secret=secret.names,
            )
        )

    return begin


def _begin_cryptosign(
    hello: Message, authenticator: Authenticator, secret: Secrets, secure: bool
) -> Challenge:
    return Challenge(*auth_cryptosign.begin(hello, authenticator, secret.random_bytes))


_METHODS: dict[str, _Begin] = {
    TICKET: _begin_ticket,
    auth_cryptosign.METHOD: _begin_cryptosign,
    **{form.value: _begin_scram(form) for form in scram.Form},
}
