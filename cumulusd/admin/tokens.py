"""The daemon's tokens, as an operator handles them: made, listed, revoked, and expired in time."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from cumulusd.admin.token_file import TokenFile
from cumulusd.admin.token_record import NewToken, TokenRecord, as_shown
from cumulusd.errors import Conflict, NotFound, TooMany
from cumulusd.identity import Authenticator, KnownToken, Source, hash_token
from cumulusd.jobs.ports import RunInThread
from cumulusd.scram_keys import make_scram

PREFIX = "cmt_"
MAX_TOKENS = 10_000
#: The wall clock may be set at any time, and timers don't follow it: expiry is looked at so often.
EXPIRY_LOOK_S = 30.0
#: How long an expired token stays in the listing.
_REMEMBERED_S = 30 * 24 * 3600.0


class _Timer(Protocol):
    def cancel(self) -> None: ...
    def active(self) -> bool: ...


class _Clock(Protocol):
    def callLater(self, delay: float, call: Callable[..., Any], *args: Any) -> _Timer: ...


class Tokens:
    """Owns the tokens made by command; `load` first, then `start`. Changes come one after the
    other, each on disk before it counts."""

    _log = Logger()

    def __init__(
        self,
        state_dir: Path,
        authenticator: Authenticator,
        *,
        clock: _Clock,
        wall_clock: Callable[[], float],
        run_in_thread: RunInThread,
    ) -> None:
        """`wall_clock` gives unix seconds as the machine has them now: expiry is a date."""
        self._file = TokenFile(state_dir)
        self._authenticator = authenticator
        self._clock = clock
        self._wall_clock = wall_clock
        self._run_in_thread = run_in_thread
        self._records: dict[str, TokenRecord] = {}  #: by name
        self._changing = DeferredLock()
        self._timer: _Timer | None = None
        self._started = False

    def cutting(self, what: str, cut: Callable[[str, str], int]) -> Callable[[str, str], None]:
        """`cut`, which ends what (in words) a principal has open and says how much that was, as
        the authenticator wants it: logged, and one that fails keeps no other from its work."""

        def ended(name: str, why: str) -> None:
            try:
                count = cut(name, why)
            except Exception:
                self._log.failure("ending {what} of {name!r} failed", what=what, name=name)
                return
            if count:
                self._log.info(
                    "{count} {what} of {name!r} ended: {why}",
                    what=what,
                    name=name,
                    count=count,
                    why=why,
                )

        return ended

    def load(self) -> None:
        """Lets those in that are on disk. Raises InternalError when they can't be read."""
        found = self._file.load()
        if found is None:
            return
        # Also when all have been revoked: who took them away did not mean to open the door.
        self._authenticator.close()
        for record in found:
            self._records[record.name] = record
            self._authenticator.put(record.known())

    def start(self) -> None:
        """Ends what tokens opened when they expire, from now on."""
        self._started = True
        self._look()

    def stop(self) -> None:
        """Frees the timer."""
        self._started = False
        self._stop_timer()

    def listing(self) -> list[dict[str, Any]]:
        """All that the daemon knows, also those of its configuration and its agents, by name."""
        tokens = sorted(self._authenticator.tokens(), key=lambda one: one.principal.name)
        return [as_shown(one, expired=not self._authenticator.is_valid(one)) for one in tokens]

    async def create(self, wanted: NewToken, by: str) -> tuple[str, dict[str, Any]]:
        """(the token, told only now; what is shown of it). It is durable, and opens from now on.

        Raises Conflict when the name or a key is taken, TooMany, InternalError.
        """
        await self._changing.acquire()
        try:
            self._require_free(wanted)
            kept = [one for one in self._records.values() if not self._forgotten(one)]
            if len(kept) >= MAX_TOKENS:
                raise TooMany(f"there are {len(kept)} tokens already", hint="revoke some of them")
            token = PREFIX + secrets.token_urlsafe(32)
            now = self._wall_clock()

            def make() -> TokenRecord:
                record = TokenRecord(
                    name=wanted.name,
                    owner=wanted.owner,
                    role=wanted.role.value,
                    node_id=wanted.node_id,
                    sha256=hash_token(token),
                    created_at=now,
                    expires_at=wanted.expires_at,
                    scram=make_scram(token),
                    public_keys=wanted.public_keys,
                )
                self._file.save([*kept, record])
                return record

            record = await self._run_in_thread(make)
            self._forget_others([*kept, record])
            self._log.info(
                "token {token_name!r} ({role} of {owner}) was made by {by}",
                token_name=record.name,
                role=record.role,
                owner=record.owner,
                node_id=record.node_id,
                expires_at=record.expires_at,
                by=by,
            )
            if self._authenticator.open:
                self._log.warn("the first token was made: from now on everybody needs one")
            known = record.known()
            self._authenticator.put(known)
            self._look()
            return token, as_shown(known, expired=False)
        finally:
            self._changing.release()

    async def revoke(self, name: str, by: str) -> dict[str, Any]:
        """Takes it away; what it opened has been told to end when this fires. Returns what was
        shown of it. Raises NotFound, Conflict for one that no command made, InternalError."""
        await self._changing.acquire()
        try:
            record = self._records.get(name)
            if record is None:
                raise self._not_revocable(name)
            left = [one for one in self._records.values() if one is not record]
            await self._run_in_thread(lambda: self._file.save(left))
            del self._records[name]
            known = record.known()
            shown = as_shown(known, expired=not self._authenticator.is_valid(known))
            self._log.info(
                "token {token_name!r} ({role} of {owner}) was revoked by {by}",
                token_name=name,
                role=record.role,
                owner=record.owner,
                by=by,
            )
            self._authenticator.discard(record.sha256)
            return shown
        finally:
            self._changing.release()

    # -- inside

    def _require_free(self, wanted: NewToken) -> None:
        for token in self._authenticator.tokens():
            if token.principal.name == wanted.name:
                raise Conflict(
                    f"there is a token {wanted.name!r} already ({_origin(token)})",
                    hint="choose another name"
                    + (", or revoke it first" if token.source is Source.COMMAND else ""),
                )
            for key in wanted.public_keys:
                if key in token.credential.public_keys:
                    raise Conflict(
                        f"the public key {key[:8]}… is that of the token {token.principal.name!r}",
                        hint="a key tells who somebody is: give each token its own",
                    )

    def _not_revocable(self, name: str) -> NotFound | Conflict:
        for token in self._authenticator.tokens():
            if token.principal.name != name:
                continue
            if token.source is Source.CONFIGURATION:
                return Conflict(
                    f"the token {name!r} stands in the daemon's configuration",
                    hint="take it out there, and send the daemon SIGHUP",
                )
            return Conflict(
                f"the token {name!r} is that of an agent which the daemon keeps",
                hint="take the label `cumulus.worker` off its node to end its enrolment",
            )
        return NotFound(
            f"there is no token {name[:64]!r}", hint="`cumulusd token list` shows their names"
        )

    def _forgotten(self, record: TokenRecord) -> bool:
        expires_at = record.expires_at
        return expires_at is not None and self._wall_clock() > expires_at + _REMEMBERED_S

    def _forget_others(self, kept: list[TokenRecord]) -> None:
        for record in self._records.values():
            if record not in kept:
                self._authenticator.discard(record.sha256)
        self._records = {record.name: record for record in kept}

    def _look(self) -> None:
        """Ends what has expired, and looks again in time for the next."""
        self._stop_timer()
        if not self._started:
            return
        try:
            next_s = self._authenticator.expire()
        except Exception:
            self._log.failure("looking for expired tokens failed")
            next_s = EXPIRY_LOOK_S
        if next_s is not None:
            self._timer = self._clock.callLater(min(next_s, EXPIRY_LOOK_S), self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _origin(token: KnownToken) -> str:
    where = {
        Source.CONFIGURATION: "of the configuration",
        Source.COMMAND: f"of {token.principal.owner}",
        Source.DAEMON: "of an agent",
    }
    return where[token.source]
