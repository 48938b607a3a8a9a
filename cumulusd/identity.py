"""Who is asking: named tokens with an owner and a role.

Tokens are held as SHA-256 hashes. They are random and long, so a plain hash is enough: there is
nothing to guess, and looking a hash up tells nothing of the others. The token alone identifies;
whatever name a client gives itself counts only where it proves the name (SCRAM, a key).
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

import attrs

#: What tokens and owners may be called.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


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


@attrs.frozen(kw_only=True)
class ScramCredential:
    """What WAMP-SCRAM needs of one token, made while its text was known. Keys and salt in hex."""

    kdf: str  #: "argon2id13" or "pbkdf2"
    salt: str
    iterations: int
    memory: int | None  #: argon2's, in KiB; None for pbkdf2
    stored_key: str
    server_key: str
    #: The same two for the older form that Autobahn speaks; None: it isn't offered.
    autobahn_keys: tuple[str, str] | None = None


@attrs.frozen(kw_only=True)
class Credential:
    """How a party may prove itself beside showing the token."""

    principal: Principal
    scram: ScramCredential | None = None
    public_keys: tuple[str, ...] = ()  #: Ed25519, each 64 lowercase hex digits


class Source(StrEnum):
    """Where a token comes from."""

    CONFIGURATION = "configuration"  #: the daemon's file
    COMMAND = "command"  #: `cumulusd token create`
    DAEMON = "daemon"  #: it made it for an agent of its own


@attrs.frozen(kw_only=True)
class KnownToken:
    """One token, as the authenticator knows it. Times are unix seconds."""

    sha256: str
    credential: Credential
    source: Source
    created_at: float | None = None
    expires_at: float | None = None  #: None: never

    @property
    def principal(self) -> Principal:
        """Whom it stands for."""
        return self.credential.principal


#: Told of a name whose tokens are all gone, and why in words for whoever used it.
EndWatcher = Callable[[str, str], None]


def hash_token(token: str) -> str:
    """How a token is stored: SHA-256 in hex. Takes whatever text a peer may send."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class Authenticator:
    """Tokens to principals. Without tokens everybody is `ANONYMOUS`; once closed, it never opens.

    Agents' own tokens (`Source.DAEMON`) don't close it.
    """

    def __init__(
        self,
        tokens: Iterable[tuple[str, Principal]],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`tokens`: (SHA-256 in hex, who it is), those of the configuration. `wall_clock` gives
        unix seconds."""
        self._wall_clock = wall_clock
        self._by_hash: dict[str, KnownToken] = {}
        #: The same, for logins by name and by key, which whoever is unknown can ask for.
        self._by_name: dict[str, dict[str, KnownToken]] = {}
        self._by_key: dict[str, dict[str, KnownToken]] = {}
        self._expired: set[str] = set()  #: hashes; a clock that is set back revives none
        self._open = True
        self._watchers: list[EndWatcher] = []
        self.configure(tokens)

    @property
    def open(self) -> bool:
        """Nobody needs a token."""
        return self._open

    def tokens(self) -> list[KnownToken]:
        """All there are, also expired ones."""
        return list(self._by_hash.values())

    def configure(self, tokens: Iterable[tuple[str, Principal]]) -> None:
        """These are the configuration's from now on. What those opened that are gone, or stand for
        somebody else now, ends. Without any a closed daemon stays closed until it starts again."""
        new = {
            sha256: KnownToken(
                sha256=sha256,
                credential=Credential(principal=principal),
                source=Source.CONFIGURATION,
            )
            for sha256, principal in tokens
        }
        gone = [
            token
            for token in self._by_hash.values()
            if token.source is Source.CONFIGURATION and new.get(token.sha256) != token
        ]
        for token in gone:
            self._remove(token.sha256)
        for token in new.values():
            self.put(token)
        for token in gone:
            self._end(token.principal, "was changed or taken out of the daemon's configuration")

    def put(self, token: KnownToken) -> None:
        """One more. The first that isn't the daemon's own closes an open daemon: who came in
        without a token is told to go."""
        self._remove(token.sha256)
        self._by_hash[token.sha256] = token
        self._by_name.setdefault(token.principal.name, {})[token.sha256] = token
        for key in token.credential.public_keys:
            self._by_key.setdefault(key, {})[token.sha256] = token
        if token.source is not Source.DAEMON:
            self.close()

    def add(self, token_sha256: str, principal: Principal) -> None:
        """One more token of the daemon's own (an agent's)."""
        self.put(
            KnownToken(
                sha256=token_sha256,
                credential=Credential(principal=principal),
                source=Source.DAEMON,
            )
        )

    def discard(self, token_sha256: str) -> None:
        """That token opens nothing any more. What it opened ends, unless another token of the
        same name is left (an agent's is replaced so)."""
        token = self._remove(token_sha256)
        self._expired.discard(token_sha256)
        if token is not None:
            self._end(token.principal, "was revoked")

    def expire(self) -> float | None:
        """Ends what has expired by now. Returns in how many seconds the next does, by the clock
        as it is; None: nothing will."""
        now = self._wall_clock()
        times = {
            sha256: token.expires_at
            for sha256, token in self._by_hash.items()
            if token.expires_at is not None and sha256 not in self._expired
        }
        over = [sha256 for sha256, expires_at in times.items() if expires_at <= now]
        self._expired.update(over)
        for sha256 in over:
            self._end(self._by_hash[sha256].principal, "has expired")
        return min((at - now for at in times.values() if at > now), default=None)

    def close(self) -> None:
        """From now on everybody needs a token."""
        if self._open:
            self._open = False
            self._tell(
                ANONYMOUS.name,
                "this daemon takes nobody without a token any more; ask its operator for one",
            )

    def watch(self, ended: EndWatcher) -> None:
        """`ended(name, why)` is called when what that principal opened is to end at once."""
        self._watchers.append(ended)

    def authenticate(self, token: str | None) -> Principal | None:
        """Who holds this token; None when nobody does, or it has expired.

        An open daemon takes any unknown token for `ANONYMOUS`: nobody needs one.
        """
        if token is not None:
            found = self._by_hash.get(hash_token(token))
            if found is not None:
                return found.principal if self.is_valid(found) else None
        return ANONYMOUS if self._open else None

    def authenticate_header(self, authorization: str | None) -> Principal | None:
        """The same from an HTTP `Authorization` header (`Bearer <token>`)."""
        if authorization is None:
            return self.authenticate(None)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        return self.authenticate(token.strip())

    def credential(self, authid: str) -> Credential | None:
        """What the holder of the token of that name may prove itself by; None when there is no
        such token, or it has expired. Ask again when the proof is here."""
        return self._first_valid(self._by_name.get(authid, {}))

    def credential_of_key(self, public_key_hex: str) -> Credential | None:
        """The same for the holder of an Ed25519 key."""
        return self._first_valid(self._by_key.get(public_key_hex.lower(), {}))

    def is_valid(self, token: KnownToken) -> bool:
        """Has it not expired?"""
        return token.sha256 not in self._expired and (
            token.expires_at is None or self._wall_clock() < token.expires_at
        )

    # -- inside

    def _first_valid(self, tokens: Mapping[str, KnownToken]) -> Credential | None:
        for token in tokens.values():
            if self.is_valid(token):
                return token.credential
        return None

    def _remove(self, sha256: str) -> KnownToken | None:
        token = self._by_hash.pop(sha256, None)
        if token is not None:
            _take_out(self._by_name, token.principal.name, sha256)
            for key in token.credential.public_keys:
                _take_out(self._by_key, key, sha256)
        return token

    def _end(self, principal: Principal, what: str) -> None:
        if not any(
            token.principal == principal and self.is_valid(token)
            for token in self._by_name.get(principal.name, {}).values()
        ):
            why = f"the token {principal.name!r} {what}; ask the daemon's operator for another"
            self._tell(principal.name, why)

    def _tell(self, name: str, why: str) -> None:
        for ended in self._watchers:
            ended(name, why)


def _take_out(index: dict[str, dict[str, KnownToken]], key: str, sha256: str) -> None:
    tokens = index[key]
    del tokens[sha256]
    if not tokens:
        del index[key]
