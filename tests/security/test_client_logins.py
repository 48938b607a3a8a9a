"""The client on a connection that others can read: with its key's name the key isn't sent."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
import pytest_twisted
from twisted.internet.utils import getProcessOutputAndValue

from cumulus_wire import scram, uris
from cumulusd.identity import Authenticator, Credential, KnownToken, Principal, Role, Source
from cumulusd.identity import hash_token as hashed
from cumulusd.protocol import auth
from cumulusd.protocol.remote_session import RemoteSession
from cumulusd.protocol.transport import WampConnection
from cumulusd.scram_keys import make_scram
from tests.e2e.harness import REPOSITORY
from tests.unit.protocol.wamp_peers import Server, reactor, serving

KEY = "annes-very-own-token"
SCRIPT = """\
import json, sys
from cumulus_client import CumulusClient, CumulusError, _login
readable = sys.argv[4] == "readable"
_login._others_can_read = lambda transport: readable  # this test is on one machine
try:
    with CumulusClient(sys.argv[1], sys.argv[2], api_key_name=sys.argv[3] or None) as client:
        print(json.dumps({"info": client.get_server_info()}))
except CumulusError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""


@pytest.fixture(autouse=True)
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """All connections are such that others can read them; what came is kept."""
    payloads: list[bytes] = []
    take = RemoteSession.message_received

    def keep(self: RemoteSession, payload: bytes, is_binary: bool) -> None:
        payloads.append(payload)
        take(self, payload, is_binary)

    monkeypatch.setattr(RemoteSession, "message_received", keep)
    monkeypatch.setattr(WampConnection, "secure", False)
    yield payloads


def known(*, with_scram: bool = True) -> Authenticator:
    authenticator = Authenticator(())
    authenticator.put(
        KnownToken(
            sha256=hashed(KEY),
            credential=Credential(
                principal=Principal(name="anne", owner="anne", role=Role.CLIENT),
                scram=make_scram(KEY) if with_scram else None,
            ),
            source=Source.COMMAND,
        )
    )
    return authenticator


async def ask(
    server: Server, key: str = KEY, name: str = "anne", *, readable: bool = True
) -> dict[str, Any]:
    """What the client is told of itself. `readable`: it takes its connection for one that others
    can read."""

    async def info(call: Any) -> dict[str, Any]:
        return {"caller": call.caller.name}

    server.router.local().register(uris.SERVER_INFO, info)
    url = f"http://127.0.0.1:{server.port_number}"
    out, err, code = await getProcessOutputAndValue(
        sys.executable,
        ["-c", SCRIPT, url, key, name, "readable" if readable else "private"],
        env={"PYTHONPATH": str(REPOSITORY)},
        reactor=reactor,
    )
    assert code == 0, err.decode()
    told: dict[str, Any] = json.loads(out)
    return told


@pytest_twisted.ensureDeferred
async def test_the_key_is_proven_and_not_sent(received: list[bytes]) -> None:
    async with serving(known()) as server:
        assert await ask(server) == {"info": {"caller": "anne"}}
    assert received and not any(KEY.encode() in payload for payload in received)


@pytest_twisted.ensureDeferred
async def test_behind_a_proxy_that_takes_tls_off_the_key_is_proven_too(
    received: list[bytes],
) -> None:
    """The client has TLS, and the daemon a connection on which it takes no token."""
    async with serving(known()) as server:
        assert await ask(server, readable=False) == {"info": {"caller": "anne"}}
    assert received and not any(KEY.encode() in payload for payload in received)


@pytest_twisted.ensureDeferred
async def test_where_nobody_can_read_along_the_key_is_a_ticket(
    received: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs no key derivation, and any token can be used so."""
    monkeypatch.setattr(WampConnection, "secure", True)
    async with serving(known(with_scram=False)) as server:
        assert await ask(server, readable=False) == {"info": {"caller": "anne"}}
    assert any(KEY.encode() in payload for payload in received)


@pytest_twisted.ensureDeferred
async def test_a_wrong_key_and_a_wrong_name_are_told(received: list[bytes]) -> None:
    async with serving(known()) as server:
        told = await ask(server, key="somebody-elses-token")
    assert told["error"] == "NotAuthenticated" and "'anne'" in told["message"]
    async with serving(known()) as server:
        told = await ask(server, name="bert")
    assert told["error"] == "NotAuthenticated" and "'bert'" in told["message"]
    assert not any(b"token" in payload for payload in received)


@pytest_twisted.ensureDeferred
async def test_without_the_name_the_daemons_refusal_is_told_with_what_to_do(
    received: list[bytes],
) -> None:
    async with serving(known()) as server:
        told = await ask(server, name="")
    assert told["error"] == "NotAuthenticated"
    assert "unencrypted" in told["message"]
    assert "https://" in told["hint"] and "CUMULUS_API_KEY_NAME" in told["hint"]
    assert not any(KEY.encode() in payload for payload in received)


@pytest_twisted.ensureDeferred
async def test_a_key_that_can_only_be_sent_is_told(received: list[bytes]) -> None:
    async with serving(known(with_scram=False)) as server:
        told = await ask(server)
    assert "only be used as a ticket" in told["message"]
    assert not any(KEY.encode() in payload for payload in received)


@pytest.mark.parametrize("challenges", [False, True])
@pytest_twisted.ensureDeferred
async def test_who_lets_everybody_in_is_not_taken_for_the_daemon(
    received: list[bytes], monkeypatch: pytest.MonkeyPatch, challenges: bool
) -> None:
    """Somebody who poses as it, and doesn't know the key."""
    anne = Principal(name="anne", owner="anne", role=Role.CLIENT)
    if challenges:
        monkeypatch.setattr(scram, "is_proof", lambda keys, message, proof: True)
    else:
        monkeypatch.setattr(auth, "judge_hello", lambda *_, **__: auth.Accept(anne, "anonymous"))
    authenticator = Authenticator(())
    authenticator.put(
        KnownToken(
            sha256=hashed("another"),
            credential=Credential(principal=anne, scram=make_scram("another-token")),
            source=Source.COMMAND,
        )
    )
    async with serving(authenticator) as server:
        told = await ask(server)
    assert told["error"] == "NotAuthenticated" and "without knowing the key" in told["message"]
    assert "https://" in told["hint"]
    kinds = [message[0] for message in map(cbor2.loads, received)]
    assert kinds == ([1, 5, 3] if challenges else [1, 3]), "nothing is asked of it"
