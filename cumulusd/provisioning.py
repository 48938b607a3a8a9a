"""Provisioning tokens: made by the operator, bound to one machine, redeemed by its one node.

Only hashes are kept, in a file that the command `cumulusd provision-token` and the daemon share.
How far the machine has come stands there too, so a restart of the daemon forgets nothing of it.
Everything here blocks: the daemon calls it in a thread.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
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
#: Of the jobs that tried a worker, so many are kept by name.
MAX_SMOKE_JOBS = 20
#: Where the file has the ids of revoked tokens whose machines know Swarm's join token.
_REVOKED = "revoked_unrotated"
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
    machine_id: str | None = None  #: whom it is bound to since that asked to join
    hostname: str | None = None  #: as that machine calls itself
    bound_at: float | None = None
    node_id: str | None = None  #: who redeemed it
    redeemed_at: float | None = None
    rotated_at: float | None = None  #: when Swarm's join token was changed since
    smoke_jobs: tuple[str, ...] = ()  #: the jobs that tried the worker, the last one last
    ready_at: float | None = None  #: when one of them completed
    leaving_at: float | None = None  #: since when the node is no worker any more

    def state(self, now: float) -> str:
        """ "left", "redeemed", "expired", "bound" or "open"."""
        if self.leaving_at is not None:
            return "left"
        if self.node_id is not None:
            return "redeemed"
        if now >= self.expires_at:
            return "expired"
        return "open" if self.machine_id is None else "bound"


class Provisioning:
    """The tokens of one daemon, in its `state_dir`. `wall_clock` gives unix seconds."""

    def __init__(self, state_dir: Path, wall_clock: Callable[[], float]) -> None:
        # Format 1 had fewer fields, all of which this one has.
        self._file = StateFile(
            state_dir / FILE, version=2, oldest=1, what="the file of provisioning tokens"
        )
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
                    kept = [one for one in tokens if one is not token]
                    self._save(kept, [token_id] if _knows_join_token(token) else [])
                    return token
        raise NotFound(
            f"there is no provisioning token {token_id!r}",
            hint="`cumulusd provision-token list` shows their ids",
        )

    def bind(self, secret: str, machine_id: str, hostname: str) -> ProvisionToken:
        """Binds the token to the machine, durably and for good. The same machine may repeat it.

        Raises NotAuthenticated, Conflict when another machine has it or its node has left.
        """

        def bound(token: ProvisionToken) -> ProvisionToken:
            self._refuse_if_left(token)
            if token.machine_id is None and token.node_id is None:
                return attrs.evolve(
                    token, machine_id=machine_id, hostname=hostname, bound_at=self._wall_clock()
                )
            if token.machine_id != machine_id:
                raise _taken(token, "is bound to another machine")
            return token

        return self._change(secret, bound)

    def bearer(self, secret: str) -> ProvisionToken:
        """The token, if a machine that it is bound to may show it now. Raises NotAuthenticated,
        Conflict."""
        token = self._find(self._load(), secret)
        self._refuse_if_left(token)
        if token.machine_id is None and token.node_id is None:
            raise Conflict(
                f"the provisioning token {token.token_id} is bound to no machine yet",
                details={"token_id": token.token_id},
                hint="ask to join first: POST /provision/join",
            )
        return token

    def check(self, secret: str, node_id: str) -> ProvisionToken:
        """The token, if that node may (still) redeem it. Raises NotAuthenticated, Conflict."""
        tokens = self._load()
        token = self._find(tokens, secret)
        self._check_node(token, node_id)
        self._refuse_if_left(token)
        _refuse_anothers(tokens, token, node_id)
        return token

    def redeem(self, secret: str, node_id: str) -> ProvisionToken:
        """Binds the token to the node, durably. The same node may repeat it; nobody else may
        use it afterwards. Raises NotAuthenticated, Conflict, also when the node is another
        machine's by its token."""

        def redeemed(token: ProvisionToken) -> ProvisionToken:
            self._check_node(token, node_id)
            self._refuse_if_left(token)
            _refuse_anothers(self._load(), token, node_id)
            if token.node_id == node_id:
                return token
            return attrs.evolve(token, node_id=node_id, redeemed_at=self._wall_clock())

        return self._change(secret, redeemed)

    def redeemed_by(self, secret: str, node_id: str) -> ProvisionToken:
        """The token that this node redeemed, also when it has left since. Raises
        NotAuthenticated, Conflict."""
        token = self._find(self._load(), secret)
        self._check_node(token, node_id)
        if token.node_id is None:
            raise Conflict(
                f"the provisioning token {token.token_id} was redeemed by no node yet",
                details={"token_id": token.token_id},
                hint="enrol the node first: POST /provision/enroll",
            )
        return token

    def rotation_due(self) -> list[str]:
        """Ids of the tokens, revoked ones too, on whose account Swarm's join token is to be
        changed: redeemed, or told to a machine that can't redeem it any more."""
        now = self._wall_clock()
        due = [one for one in self._load() if one.rotated_at is None and _is_spent(one, now)]
        return [*(token.token_id for token in due), *self._revoked()]

    def rotated(self, *token_ids: str) -> None:
        """Swarm's join token has been changed on account of these. Durable, as all that follow."""
        with self._file.locked():
            now = self._wall_clock()
            tokens = [
                attrs.evolve(one, rotated_at=now) if one.token_id in token_ids else one
                for one in self._load()
            ]
            self._save(tokens, settled=token_ids)

    def smoked(self, token_id: str, job_ids: Sequence[str]) -> ProvisionToken:
        """These jobs were begun to try the worker, the last one now. Raises NotFound, as the
        others do."""
        return self._note(token_id, lambda now: {"smoke_jobs": tuple(job_ids[-MAX_SMOKE_JOBS:])})

    def ready(self, token_id: str) -> ProvisionToken:
        """One of them completed."""
        return self._note(token_id, lambda now: {"ready_at": now})

    def leaving(self, token_id: str) -> ProvisionToken:
        """The node is no worker any more, and goes."""
        return self._note(token_id, lambda now: {"leaving_at": now})

    # -- inside

    def _note(self, token_id: str, changes: Callable[[float], Mapping[str, Any]]) -> ProvisionToken:
        with self._file.locked():
            tokens = self._load()
            for token in tokens:
                if token.token_id == token_id:
                    changed = attrs.evolve(token, **changes(self._wall_clock()))
                    self._save([changed if one is token else one for one in tokens])
                    return changed
        raise NotFound(f"the provisioning token {token_id} was revoked meanwhile")

    def _change(
        self, secret: str, change: Callable[[ProvisionToken], ProvisionToken]
    ) -> ProvisionToken:
        # Before the lock: who guesses holds up nobody, nor the daemon's threads.
        self._find(self._load(), secret)
        with self._file.locked():
            tokens = self._load()
            token = self._find(tokens, secret)
            changed = change(token)
            if changed is not token:
                self._save([changed if one is token else one for one in tokens])
            return changed

    def _find(self, tokens: list[ProvisionToken], secret: str) -> ProvisionToken:
        digest = hash_token(secret)
        found = None
        for token in tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        # A node whose answer was lost may ask again, also when the token has expired meanwhile.
        if found is None or found.state(self._wall_clock()) == "expired":
            raise NotAuthenticated(
                "the provisioning token is not known to this daemon, or has expired",
                hint="make a new one with `cumulusd provision-token create`",
            )
        return found

    def _check_node(self, token: ProvisionToken, node_id: str) -> None:
        if token.node_id is not None and token.node_id != node_id:
            raise _taken(token, "was redeemed by another node")

    def _refuse_if_left(self, token: ProvisionToken) -> None:
        if token.leaving_at is not None:
            raise Conflict(
                f"the node of the provisioning token {token.token_id} has left the pool",
                details={"token_id": token.token_id},
                hint="to come back it needs a new one: `cumulusd provision-token create`",
            )

    def _load(self) -> list[ProvisionToken]:
        value: Mapping[str, Any] = self._file.load()
        try:
            return [
                ProvisionToken(**{**one, "smoke_jobs": tuple(one.get("smoke_jobs", ()))})
                for one in value.get("tokens", ())
            ]
        except TypeError as error:
            raise InternalError(
                f"the file of provisioning tokens {self._file.path} is damaged: {error}",
                hint="move it away; tokens not redeemed yet are to be made again",
            ) from error

    def _revoked(self) -> list[str]:
        return list(map(str, self._file.load().get(_REVOKED, ())))

    def _save(
        self,
        tokens: list[ProvisionToken],
        revoked: Sequence[str] = (),
        settled: Sequence[str] = (),
    ) -> None:
        # That something is due counts, so no more than these need be known by name.
        due = [one for one in [*self._revoked(), *revoked] if one not in settled][-MAX_TOKENS:]
        self._file.save({"tokens": [attrs.asdict(token) for token in tokens], _REVOKED: due})


def _knows_join_token(token: ProvisionToken) -> bool:
    return token.rotated_at is None and (token.machine_id or token.node_id) is not None


def _is_spent(token: ProvisionToken, now: float) -> bool:
    return token.node_id is not None or (
        token.machine_id is not None and token.state(now) == "expired"
    )


def _refuse_anothers(tokens: list[ProvisionToken], token: ProvisionToken, node_id: str) -> None:
    """A worker's node is its machine's: who has another token can't take it, to make it leave."""
    for one in tokens:
        is_its = one.node_id == node_id and one.leaving_at is None
        if not is_its or one.token_id == token.token_id:
            continue
        if token.machine_id is None or token.machine_id != one.machine_id:
            raise Conflict(
                f"the node {node_id} became a worker by another token ({one.token_id}), of another "
                "machine",
                details={"token_id": token.token_id, "node_id": node_id},
                hint="if it is that machine, set up anew: `cumulusd provision-token revoke "
                f"{one.token_id}`, and try again",
            )


def _taken(token: ProvisionToken, how: str) -> Conflict:
    return Conflict(
        f"the provisioning token {token.token_id} {how}",
        details={"token_id": token.token_id},
        hint="each machine needs a token of its own: `cumulusd provision-token create`",
    )


def _forgotten(token: ProvisionToken, now: float) -> bool:
    # A worker leaves by its token, however late.
    if token.node_id is not None and token.leaving_at is None:
        return False
    return now > max(token.expires_at, token.leaving_at or 0.0) + _REMEMBERED_S
