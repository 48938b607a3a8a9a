"""`python -m tests.fuzz.fuzz_twistd TWISTD ARGUMENTS`: twistd, whose daemon also knows agents'
tokens. Only Swarm gives agents theirs; everything else is the daemon as it is installed.

CUMULUS_FUZZ_AGENTS is `<node id>:<SHA-256 of the token> ...`. The first messages of the agents'
links are kept in `links`, in hex: the embedded agent's connection passes no proxy.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.scripts.twistd import run

from cumulus_wire import link
from cumulusd.config import Config
from cumulusd.identity import Principal, Role

MAX_LINKS_BYTES = 64 << 10
_configured = Config.authenticator_tokens
_encode = link.encode


def _with_agents(config: Config) -> list[tuple[str, Principal]]:
    found = _configured(config)
    for each in os.environ["CUMULUS_FUZZ_AGENTS"].split():
        node_id, _, digest = each.partition(":")
        name = f"agent-{node_id}"
        found.append(
            (digest, Principal(name=name, owner="cumulusd", role=Role.AGENT, node_id=node_id))
        )
    return found


def _kept(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    message = _encode(header, body)
    path = Path("links")
    if not path.exists() or path.stat().st_size < MAX_LINKS_BYTES:
        with open(path, "a") as file:
            file.write(message[:4096].hex() + "\n")
    return message


if __name__ == "__main__":
    # Ctrl-C is for who started this, who ends it then.
    os.setpgid(0, 0)
    link.encode = _kept
    Config.authenticator_tokens = _with_agents  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    run()  # type: ignore[no-untyped-call]
