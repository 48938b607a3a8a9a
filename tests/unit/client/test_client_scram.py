"""The client's side of WAMP-SCRAM: what it takes of a daemon that it doesn't know yet."""

import asyncio
import hashlib
from typing import Any

import pytest

from cumulus_client._login import _others_can_read
from cumulus_client._scram import ScramFault, ScramLogin
from cumulus_wire import scram
from cumulus_wire.scram import Form

SALT = scram.to_base64(b"s" * 16)


def challenge(login: ScramLogin, **changes: Any) -> dict[str, Any]:
    extra = {
        "nonce": login.authextra["nonce"] + "c2VydmVy",
        "salt": SALT,
        "kdf": "pbkdf2",
        "iterations": 4096,
        "memory": None,
    }
    return {**extra, **changes}


def answered(login: ScramLogin, extra: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return asyncio.run(login.answer(extra))


def test_a_proof_that_the_daemon_takes_and_a_verifier_that_the_client_takes() -> None:
    login = ScramLogin("ann", "a-key-of-anns")
    extra = challenge(login)
    signature, repeated = answered(login, extra)
    assert repeated == {"nonce": extra["nonce"], "channel_binding": None, "cbind_data": None}
    salted = hashlib.pbkdf2_hmac("sha256", b"a-key-of-anns", b"s" * 16, 4096)
    message = scram.auth_message(
        Form.WAMP,
        authid="ann",
        client_nonce=login.authextra["nonce"],
        nonce=extra["nonce"],
        salt=SALT,
        iterations=4096,
    )
    keys = scram.keys_of(salted)
    assert scram.is_proof(keys, message, scram.from_base64(signature) or b"")
    right = scram.to_base64(scram.server_signature(keys.server_key, message))
    login.check({"verifier": right})
    login.check({"verifier": f"v={right}"})
    wrong = scram.to_base64(scram.server_signature(b"x" * 32, message))
    for told in (wrong, f"v={wrong}", "", right[:-1], right + "=", None, 5, b"x"):
        with pytest.raises(ScramFault, match="without knowing"):
            login.check({"verifier": told})
    with pytest.raises(ScramFault):
        login.check(None)


def test_no_verifier_is_right_before_the_challenge() -> None:
    with pytest.raises(ScramFault):
        ScramLogin("ann", "key").check({"verifier": scram.to_base64(bytes(32))})


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": None},
        {"nonce": "bm9uY2U="},
        {"nonce": "n" * 300},
        {"salt": None},
        {"salt": ""},
        {"salt": "c2E="},
        {"salt": "not base64"},
        {"kdf": "argon2i"},
        {"kdf": None},
        {"kdf": "none", "iterations": 1},
        {"iterations": 0},
        {"iterations": -1},
        {"iterations": True},
        {"iterations": "4096"},
        {"iterations": 1},
        {"iterations": 4095},
        {"iterations": 1 << 40},
        {"kdf": "argon2id13", "iterations": 1, "memory": None},
        {"kdf": "argon2id13", "iterations": 1, "memory": 8},
        {"kdf": "argon2id13", "iterations": 1, "memory": 1 << 30},
        {"kdf": "argon2id13", "iterations": 1 << 30, "memory": 8},
        {"kdf": "argon2id13", "iterations": 4096, "memory": 1 << 18},
    ],
)
def test_a_challenge_that_is_not_met(changes: dict[str, Any]) -> None:
    """Neither one that makes the key easy to guess, nor one that keeps this machine busy."""
    login = ScramLogin("ann", "key")
    with pytest.raises(ScramFault):
        answered(login, challenge(login, **changes))


def test_the_clients_own_nonce_alone_is_no_challenge() -> None:
    login = ScramLogin("ann", "key")
    with pytest.raises(ScramFault, match="nonce"):
        answered(login, challenge(login, nonce=login.authextra["nonce"]))


def test_each_login_has_a_nonce_of_its_own() -> None:
    nonces = {ScramLogin("ann", "key").authextra["nonce"] for _ in range(100)}
    assert len(nonces) == 100


@pytest.mark.parametrize(("name", "key"), [("", "key"), ("änn", "key"), ("ann", "kéy"), ("a", "")])
def test_what_can_not_be_used_so(name: str, key: str) -> None:
    with pytest.raises(ScramFault, match="ASCII"):
        ScramLogin(name, key)


class Tcp:
    def __init__(self, peer: Any, own: Any, tls: object = None) -> None:
        self._extra = {"peername": peer, "sockname": own, "sslcontext": tls}

    @property
    def transport(self) -> "Tcp":
        return self

    def get_extra_info(self, name: str) -> Any:
        return self._extra[name]


@pytest.mark.parametrize(
    ("tcp", "readable"),
    [
        (Tcp(("192.0.2.1", 50051), ("192.0.2.9", 4711)), True),
        (Tcp(("2001:db8::1", 50051, 0, 0), ("2001:db8::9", 4711, 0, 0)), True),
        (Tcp(("fe80::1%eth0", 50051, 0, 2), ("fe80::2", 4711, 0, 2)), True),
        (Tcp(("192.0.2.1", 443), ("192.0.2.9", 4711), object()), False),
        (Tcp(("127.0.0.1", 50051), ("127.0.0.1", 4711)), False),
        (Tcp(("::1", 50051, 0, 0), ("::1", 4711, 0, 0)), False),
        (Tcp(("::ffff:127.0.0.1", 50051, 0, 0), ("::ffff:127.0.0.1", 4711, 0, 0)), False),
        (Tcp(("192.0.2.1", 50051), ("192.0.2.1", 4711)), False),
        (Tcp("/run/cumulusd.sock", ""), False),
    ],
)
def test_where_others_can_read(tcp: Tcp, readable: bool) -> None:
    assert _others_can_read(tcp) is readable
