"""The agents' tokens: hashes on disk and in the authenticator; the tokens live in Swarm alone."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import attrs

from cumulusd.errors import InternalError
from cumulusd.identity import Principal, Role, hash_token
from cumulusd.state_file import StateFile

FILE = "agents.json"


class Tokens(Protocol):
    """The authenticator, as far as it is needed here."""

    def add(self, token_sha256: str, principal: Principal) -> None: ...
    def discard(self, token_sha256: str) -> None: ...


@attrs.frozen(kw_only=True)
class AgentToken:
    """One node's token, and the Swarm secret that holds it."""

    node_id: str
    sha256: str
    secret_name: str


class AgentTokens:
    """Owns the file. `load` first. Saving takes an fsync: a few milliseconds, once per rotation."""

    def __init__(self, state_dir: Path, tokens: Tokens) -> None:
        self._file = StateFile(state_dir / FILE, version=1, what="the file of the agents' tokens")
        self._tokens = tokens
        self._known: dict[str, AgentToken] = {}
        #: replaced tokens that the agent may still use, until its service has the new one
        self._retired: dict[str, set[str]] = {}

    def load(self) -> None:
        """Lets those in that are on disk. Raises CumulusError when the file can't be used."""
        value = self._file.load()
        try:
            found = [AgentToken(**one) for one in value.get("agents", ())]
        except TypeError as error:
            raise InternalError(
                f"the file of the agents' tokens {self._file.path} is damaged: {error}",
                hint="move it away: every agent then gets a new token",
            ) from error
        for token in found:
            self._known[token.node_id] = token
            self._tokens.add(token.sha256, _principal(token.node_id))

    def get(self, node_id: str) -> AgentToken | None:
        """What is known of that node's token."""
        return self._known.get(node_id)

    def rotate(self, secret_names: Mapping[str, str]) -> dict[str, str]:
        """Node id -> a new token for each of these nodes, by node id and name of its secret; known
        from now on and durably, all with one write. Those before stay good until `retire`. Raises
        InternalError when it can't be written."""
        if not secret_names:
            return {}
        tokens = {node_id: secrets.token_urlsafe(32) for node_id in secret_names}
        made = {
            node_id: AgentToken(
                node_id=node_id, sha256=hash_token(tokens[node_id]), secret_name=secret_name
            )
            for node_id, secret_name in secret_names.items()
        }
        known = self._known
        self._save({**known, **made})
        for node_id, one in made.items():
            before = known.get(node_id)
            if before is not None:
                self._retired.setdefault(node_id, set()).add(before.sha256)
            self._tokens.add(one.sha256, _principal(node_id))
        return tokens

    def retire(self, node_id: str) -> None:
        """The node's service has the new token: older ones open no door any more."""
        for sha256 in self._retired.pop(node_id, ()):
            self._tokens.discard(sha256)

    def forget(self, node_id: str) -> None:
        """The node is no worker any more. Raises InternalError when it can't be written."""
        token = self._known.get(node_id)
        if token is None:
            return
        self._save({key: one for key, one in self._known.items() if key != node_id})
        self._tokens.discard(token.sha256)
        self.retire(node_id)

    def secret_names(self) -> list[tuple[str, str]]:
        """(node id, the name of the secret that holds its token) of all that have one."""
        return [(node_id, one.secret_name) for node_id, one in self._known.items()]

    def node_ids(self) -> list[str]:
        """Nodes that have a token."""
        return sorted(self._known)

    def _save(self, known: Mapping[str, AgentToken]) -> None:
        """On disk first: a token that isn't there opens no door."""
        self._file.save({"agents": [attrs.asdict(known[key]) for key in sorted(known)]})
        self._known = dict(known)


def _principal(node_id: str) -> Principal:
    return Principal(name=f"agent-{node_id}", owner="cumulusd", role=Role.AGENT, node_id=node_id)
