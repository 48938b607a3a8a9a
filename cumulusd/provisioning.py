"""Provisioning tokens: made by the operator, redeemed once, each by one node of the pool.

Only hashes are kept, in a file that the command `cumulusd provision-token` and the daemon share.
Everything here blocks: the daemon calls it in a thread.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from cumulusd.errors import Conflict, InternalError, NotAuthenticated, NotFound, TooMany
from cumulusd.identity import hash_token
from cumulusd.state_file import StateFile

FILE = "provisioning.json"
PREFIX = "cpt_"
MAX_TOKENS = 1000
DEFAULT_LIFETIME_S = 24 * 3600.0
MAX_LIFETIME_S = 365 * 24 * 3600.0
#: How long a token that can't be used any more stays in the listing.
_REMEMBERED_S = 30 * 24 * 3600.0


@attrs.frozen(kw_only=True)
class ProvisionToken:
    """What is known of one. Times are unix seconds."""

    token_id: str
    sha256: str
    note: str
    created_at: float
    expires_at: float
    node_id: str | None = None  #: who redeemed it
    redeemed_at: float | None = None

    def state(self, now: float) -> str:
        """ "redeemed", "expired" or "open"."""
        if self.node_id is not None:
            return "redeemed"
        return "expired" if now >= self.expires_at else "open"


class Provisioning:
    """The tokens of one daemon, in its `state_dir`. `wall_clock` gives unix seconds."""

    def __init__(self, state_dir: Path, wall_clock: Callable[[], float]) -> None:
        self._file = StateFile(state_dir / FILE, version=1, what="the file of provisioning tokens")
        self._wall_clock = wall_clock

    def create(self, *, lifetime_s: float, note: str = "") -> tuple[str, ProvisionToken]:
        """A new token: (the token itself, told only now; what is kept of it). Durable."""
        if not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise ValueError(f"a token's life is over 0 and at most {MAX_LIFETIME_S:g} s")
        now = self._wall_clock()
        secret = PREFIX + secrets.token_urlsafe(32)
        token = ProvisionToken(
            token_id=secrets.token_hex(4),
            sha256=hash_token(secret),
            note=note[:200],
            created_at=now,
            expires_at=now + lifetime_s,
        )
        with self._file.locked():
            kept = [one for one in self._load() if not _forgotten(one, now)]
            if len(kept) >= MAX_TOKENS:
                raise TooMany(
                    f"there are {len(kept)} provisioning tokens already",
                    hint="revoke those that nobody needs",
                )
            self._save([*kept, token])
        return secret, token

    def tokens(self) -> list[ProvisionToken]:
        """All of them, oldest first."""
        return self._load()

    def revoke(self, token_id: str) -> ProvisionToken:
        """Takes it away; a node that redeemed it stays enrolled. Raises NotFound."""
        with self._file.locked():
            tokens = self._load()
            for token in tokens:
                if token.token_id == token_id:
                    self._save([one for one in tokens if one is not token])
                    return token
        raise NotFound(
            f"there is no provisioning token {token_id!r}",
            hint="`cumulusd provision-token list` shows their ids",
        )

    def check(self, secret: str, node_id: str) -> ProvisionToken:
        """The token, if that node may (still) redeem it. Raises NotAuthenticated, Conflict."""
        return self._find(self._load(), secret, node_id)

    def redeem(self, secret: str, node_id: str) -> ProvisionToken:
        """Binds the token to the node, durably. The same node may repeat it; nobody else may
        use it afterwards. Raises NotAuthenticated, Conflict."""
        with self._file.locked():
            tokens = self._load()
            token = self._find(tokens, secret, node_id)
            if token.node_id == node_id:
                return token
            used = attrs.evolve(token, node_id=node_id, redeemed_at=self._wall_clock())
            self._save([used if one is token else one for one in tokens])
            return used

    # -- inside

    def _find(self, tokens: list[ProvisionToken], secret: str, node_id: str) -> ProvisionToken:
        digest = hash_token(secret)
        found = None
        for token in tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is not None and found.node_id is not None and found.node_id != node_id:
            raise Conflict(
                f"the provisioning token {found.token_id} was redeemed by another node",
                details={"token_id": found.token_id},
                hint="each node needs a token of its own: `cumulusd provision-token create`",
            )
        # A node whose answer was lost may ask again, also when the token has expired meanwhile.
        if found is None or found.state(self._wall_clock()) == "expired":
            raise NotAuthenticated(
                "the provisioning token is not known to this daemon, or has expired",
                hint="make a new one with `cumulusd provision-token create`",
            )
        return found

    def _load(self) -> list[ProvisionToken]:
        value: Mapping[str, Any] = self._file.load()
        try:
            return [ProvisionToken(**one) for one in value.get("tokens", ())]
        except TypeError as error:
            raise InternalError(
                f"the file of provisioning tokens {self._file.path} is damaged: {error}",
                hint="move it away; tokens not redeemed yet are to be made again",
            ) from error

    def _save(self, tokens: list[ProvisionToken]) -> None:
        self._file.save({"tokens": [attrs.asdict(token) for token in tokens]})


def _forgotten(token: ProvisionToken, now: float) -> bool:
    return now > max(token.expires_at, token.redeemed_at or 0.0) + _REMEMBERED_S
