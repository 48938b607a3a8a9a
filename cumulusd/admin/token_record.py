"""A token as it is asked for and as it is kept: checked, with every fault at once. Pure."""

import re
from collections.abc import Mapping
from typing import Any

import attrs

from cumulusd.errors import InvalidArgument
from cumulusd.identity import (
    ANONYMOUS,
    DAEMON,
    NAME,
    Credential,
    KnownToken,
    Principal,
    Role,
    ScramCredential,
    Source,
)

#: The roles that a token may have.
ROLES = (Role.CLIENT, Role.VIEWER, Role.ADMIN, Role.AGENT)
MAX_LIFETIME_S = 100 * 365 * 24 * 3600.0
MAX_PUBLIC_KEYS = 8
#: Names that the daemon gives to agents of its own begin so.
AGENT_PREFIX = "agent-"
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME_RULE = "must be 1 to 64 letters, digits and . _ @ - (the first a letter or digit)"


@attrs.frozen(kw_only=True)
class NewToken:
    """What is asked for. Times are unix seconds."""

    name: str
    owner: str
    role: Role
    node_id: str | None = None
    expires_at: float | None = None
    public_keys: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class TokenRecord:
    """What is kept of a token: never itself. Times are unix seconds."""

    name: str
    owner: str
    role: str
    sha256: str
    created_at: float
    node_id: str | None = None
    expires_at: float | None = None
    scram: ScramCredential | None = None
    public_keys: tuple[str, ...] = ()

    def known(self) -> KnownToken:
        """As the authenticator takes it."""
        principal = Principal(
            name=self.name, owner=self.owner, role=Role(self.role), node_id=self.node_id
        )
        return KnownToken(
            sha256=self.sha256,
            credential=Credential(
                principal=principal, scram=self.scram, public_keys=self.public_keys
            ),
            source=Source.COMMAND,
            created_at=self.created_at,
            expires_at=self.expires_at,
        )


def new_token(value: Any, now: float) -> NewToken:
    """What that JSON value asks for. Raises InvalidArgument with every fault."""
    if not isinstance(value, dict):
        raise InvalidArgument('The body must be an object: {"name": "…", "role": "…"}')
    faults: list[dict[str, str]] = []

    def fault(key: str, message: str) -> None:
        faults.append({"key": key[:100], "message": message})

    known = [field.name for field in attrs.fields(NewToken)]
    for key in value:
        if key not in known:
            fault(str(key), "is not known")
    name, owner = value.get("name"), value.get("owner")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        fault("name", _NAME_RULE)
    if owner is None:
        owner = name
    elif not isinstance(owner, str) or not NAME.fullmatch(owner):
        fault("owner", _NAME_RULE)
    if name in (ANONYMOUS.name, DAEMON.name) or str(name).startswith(AGENT_PREFIX):
        fault("name", f"{str(name)[:64]!r} is one that the daemon gives itself; choose another")
    if owner == DAEMON.owner:
        fault("owner", f"{DAEMON.owner!r} is the daemon itself; choose another")
    role, node_id = value.get("role"), value.get("node_id")
    if role not in [each.value for each in ROLES]:
        fault("role", f"must be one of {', '.join(ROLES)}")
    elif role == Role.AGENT and node_id is None:
        fault("node_id", "is needed: an agent stands for one node")
    elif role != Role.AGENT and node_id is not None:
        fault("node_id", f"is for tokens of role agent, not {role}")
    if node_id is not None and not (isinstance(node_id, str) and _NODE_ID.fullmatch(node_id)):
        fault("node_id", "must be 1 to 128 letters, digits and . _ -")
    expires_at = value.get("expires_at")
    if expires_at is not None:
        if not isinstance(expires_at, int | float) or isinstance(expires_at, bool):
            fault("expires_at", "must be unix seconds")
        elif not now < expires_at <= now + MAX_LIFETIME_S:
            fault("expires_at", "must lie in the future, at most 100 years away")
    keys = value.get("public_keys", [])
    if not isinstance(keys, list) or len(keys) > MAX_PUBLIC_KEYS:
        fault("public_keys", f"must be a list of at most {MAX_PUBLIC_KEYS}")
        keys = []
    for key in keys:
        if not isinstance(key, str) or not _PUBLIC_KEY.fullmatch(key.lower()):
            fault("public_keys", "must be Ed25519 keys of 64 hex digits")
    if faults:
        words = "; ".join(f"{each['key']} {each['message']}" for each in faults[:20])
        raise InvalidArgument(f"No token was made: {words}", details={"faults": faults[:20]})
    return NewToken(
        name=str(name),
        owner=str(owner),
        role=Role(str(role)),
        node_id=node_id,
        expires_at=None if expires_at is None else float(expires_at),
        public_keys=tuple(dict.fromkeys(key.lower() for key in keys)),
    )


def record_of(value: Mapping[str, Any]) -> TokenRecord:
    """A record as `as_stored` made it. Raises ValueError, TypeError, KeyError."""
    scram = value["scram"]
    record = TokenRecord(
        **{
            **value,
            "scram": None if scram is None else _scram_of(scram),
            "public_keys": tuple(value["public_keys"]),
        }
    )
    if record.role not in [each.value for each in ROLES]:
        raise ValueError(f"the token {record.name!r} has the unknown role {record.role!r}")
    if not _SHA256.fullmatch(record.sha256):
        raise ValueError(f"the hash of the token {record.name!r} is none")
    return record


def _scram_of(value: Mapping[str, Any]) -> ScramCredential:
    keys = value["autobahn_keys"]
    return ScramCredential(**{**value, "autobahn_keys": None if keys is None else tuple(keys)})


def as_stored(record: TokenRecord) -> dict[str, Any]:
    """For a JSON file."""
    return attrs.asdict(record)


def as_shown(token: KnownToken, *, expired: bool) -> dict[str, Any]:
    """For operators: nothing that could open a door, not even a hash."""
    who = token.principal
    return {
        "name": who.name,
        "owner": who.owner,
        "role": who.role.value,
        "node_id": who.node_id,
        "source": token.source.value,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "expired": expired,
        "scram": token.credential.scram is not None,
        "public_keys": list(token.credential.public_keys),
    }
