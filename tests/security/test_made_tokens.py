"""Tokens made by command log in by each method at the real daemon, over its restart too."""

import json
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.e2e.harness import Daemon
from tests.security.daemons import GuardedDaemon
from tests.security.test_logins import PUBLIC, by_key, by_scram, by_ticket, log_in
from tests.unit.protocol.wamp_peers import Refused, until

HELLO = {
    "roles": {"caller": {}},
    "authmethods": ["wamp-scram"],
    "authextra": {"nonce": "bm9uY2Utbm9uY2U="},
}


def token_command(daemon: Daemon, *arguments: str) -> str:
    command = [sys.executable, "-m", "cumulusd.cli", "token", *arguments]
    command += ["--config", str(daemon.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def place(daemon: Daemon) -> Any:
    return SimpleNamespace(port_number=daemon.port, _clients=[])


async def joined_by(daemon: Daemon, authenticator: Any) -> tuple[str, str, str]:
    peer, details, _ = await log_in(place(daemon), authenticator)
    peer.leave()
    await until(lambda: bool(peer.gone))
    return details.authid, details.authrole, details.authmethod


async def challenge_of(daemon: Daemon, name: str) -> dict[str, Any]:
    """What is asked of who gives that name: of all but the nonce."""
    told: list[dict[str, Any]] = []

    def incoming(payload: bytes) -> bytes:
        message = json.loads(payload)
        if message[0] == 4:
            told.append({**message[2], "nonce": ""})
        return payload

    with pytest.raises(Refused):
        await log_in(place(daemon), by_scram("somebody-elses-token", authid=name), incoming)
    return told[0]


@pytest_twisted.ensureDeferred
async def test_a_made_token_by_each_method_and_over_a_restart(
    make_guarded: Callable[..., GuardedDaemon],
) -> None:
    daemon = make_guarded()
    await deferToThread(daemon.start)
    create = ["create", "--name", "anne", "--role", "viewer", "--public-key", PUBLIC]
    token = await deferToThread(token_command, daemon, *create)
    challenges = []
    for _ in range(2):
        for method, authenticator in (
            ("ticket", by_ticket(token)),
            ("scram", by_scram(token)),
            ("cryptosign", by_key()),
            ("cryptosign", by_key(authid="anne")),
        ):
            assert await joined_by(daemon, authenticator) == ("anne", "viewer", method)
        # One that isn't there, and one of the configuration, which is kept as a hash alone.
        names = ("anne", "bert", "admin-1")
        challenges.append([await challenge_of(daemon, name) for name in names])
        assert await deferToThread(daemon.stop) == -15
        await deferToThread(daemon.start)
    assert challenges[0] == challenges[1], "no restart tells which are made up"
    anne, *made_up = ({**each, "salt": len(each["salt"])} for each in challenges[0])
    assert made_up == [anne, anne]
    await deferToThread(token_command, daemon, "revoke", "anne")
    for authenticator in (by_ticket(token), by_scram(token), by_key()):
        with pytest.raises(Refused, match=r"wamp\.error\.not_authenticated"):
            await log_in(place(daemon), authenticator)
    for text in (daemon.log_text(), (daemon.state_dir / "tokens.json").read_text()):
        assert token not in text
