"""Who is asking: named tokens with an owner and a role.

Tokens are held as SHA-256 hashes. They are random and long, so a plain hash is enough: there is
nothing to guess. The token alone identifies; whatever name a client gives itself is ignored.
"""

import hashlib
import hmac
from collections.abc import Iterable
from enum import StrEnum

import attrs


class Role(StrEnum):
    """What a token is for. `DAEMON` is the daemon itself and never a token's role."""

    CLIENT = "client"  #: its owner's jobs
    ADMIN = "admin"  #: everything a person can do
    VIEWER = "viewer"  #: sees everything, changes nothing
    AGENT = "agent"  #: one worker's agent
    DAEMON = "daemon"


@attrs.frozen(kw_only=True)
class Principal:
    """An authenticated party."""

    name: str  #: the token's name, for logs
    owner: str  #: whose jobs it submits and sees
    role: Role
    node_id: str | None = None  #: the node an agent stands for

    def may_see(self, owner: str) -> bool:
        """May it read the jobs of that owner?"""
        return self.role in (Role.ADMIN, Role.VIEWER, Role.DAEMON) or (
            self.role is Role.CLIENT and self.owner == owner
        )

    def may_change(self, owner: str) -> bool:
        """May it cancel the jobs of that owner?"""
        return self.role in (Role.ADMIN, Role.DAEMON) or (
            self.role is Role.CLIENT and self.owner == owner
        )


#: Everybody, on a daemon without tokens (which then listens on loopback only).
ANONYMOUS = Principal(name="anonymous", owner="local", role=Role.ADMIN)
DAEMON = Principal(name="cumulusd", owner="cumulusd", role=Role.DAEMON)


def hash_token(token: str) -> str:
    """How a token is stored: SHA-256 in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


class Authenticator:
    """Tokens to principals. Without tokens everybody is `ANONYMOUS`."""

    def __init__(self, tokens: Iterable[tuple[str, Principal]]) -> None:
        """`tokens`: (SHA-256 in hex, who it is), in any order."""
        self._tokens = list(tokens)
        self._open = not self._tokens

    @property
    def open(self) -> bool:
        """Nobody needs a token."""
        return self._open

    def add(self, token_sha256: str, principal: Principal) -> None:
        """One more token (an agent's); an open daemon stays open to the others."""
        self._tokens.append((token_sha256, principal))

    def discard(self, token_sha256: str) -> None:
        """That token opens nothing any more; sessions that it opened go on."""
        self._tokens = [one for one in self._tokens if one[0] != token_sha256]

    def authenticate(self, token: str | None) -> Principal | None:
        """Who holds this token; None when nobody does. All hashes are compared every time.

        An open daemon takes any unknown token for `ANONYMOUS`: nobody needs one.
        """
        if token is not None:
            digest = hash_token(token)
            found = None
            for known, principal in self._tokens:
                if hmac.compare_digest(known, digest):
                    found = principal
            if found is not None:
                return found
        return ANONYMOUS if self._open else None

    def authenticate_header(self, authorization: str | None) -> Principal | None:
        """The same from an HTTP `Authorization` header (`Bearer <token>`)."""
        if authorization is None:
            return self.authenticate(None)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        return self.authenticate(token.strip())
