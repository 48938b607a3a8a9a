"""Logins, judged without I/O: SCRAM in both its forms, keys, tickets, and what tells nothing."""

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from autobahn.wamp.auth import derive_scram_credential
from autobahn.wamp.role import RoleCallerFeatures
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from wamp_peers import CLIENT, with_tokens, without_tokens

from cumulus_wire import scram
from cumulus_wire.scram import Form
from cumulusd.identity import (
    Authenticator,
    Credential,
    KnownToken,
    Principal,
    Role,
    ScramCredential,
    Source,
    hash_token,
)
from cumulusd.protocol.auth import Accept, Challenge, Refuse, Secrets, judge_hello
from cumulusd.protocol.messages import wamp
from cumulusd.scram_keys import make_scram

TOKEN = "correct-horse-battery-staple"
SCRAM = make_scram(TOKEN, lambda count: b"s" * count)
assert SCRAM is not None
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
NONCE = base64.b64encode(b"n" * 16).decode()
REFUSED = "wamp.error.not_authenticated"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def known(
    clock: Callable[[], float] = lambda: 0.0,
    *,
    credential: ScramCredential | None = SCRAM,
    name: str = "ann",
    expires_at: float | None = None,
) -> Authenticator:
    authenticator = Authenticator((), wall_clock=clock)
    principal = Principal(name=name, owner="ann", role=Role.CLIENT)
    authenticator.put(
        KnownToken(
            sha256=hash_token(TOKEN),
            credential=Credential(principal=principal, scram=credential, public_keys=(PUBLIC,)),
            source=Source.COMMAND,
            expires_at=expires_at,
        )
    )
    return authenticator


def hello(*methods: str, authid: str | None = "ann", **authextra: Any) -> Any:
    return wamp.Hello(
        "cumulus",
        {"caller": RoleCallerFeatures()},
        authmethods=list(methods),
        authid=authid,
        authextra=authextra or None,
    )


def scram_hello(form: Form, authid: str = "ann", nonce: Any = NONCE) -> Any:
    return hello(form.value, authid=authid, nonce=nonce)


def counted() -> Callable[[int], bytes]:
    """Bytes that are others each time, and the same in each run."""
    calls = 0

    def draw(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.sha256(bytes([calls])).digest()[:count]

    return draw


def secret() -> Secrets:
    return Secrets(random_bytes=counted(), names=b"daemon")


def challenge(given: Any, authenticator: Authenticator, made: Secrets | None = None) -> Challenge:
    verdict = judge_hello(given, authenticator, "cumulus", secret=made or secret())
    assert isinstance(verdict, Challenge), verdict
    return verdict


def signed(form: Form, extra: dict[str, Any], authid: str = "ann", nonce: str = NONCE) -> bytes:
    return scram.auth_message(
        form,
        authid=authid,
        client_nonce=nonce,
        nonce=extra["nonce"],
        salt=extra["salt"],
        iterations=extra["iterations"],
    )


def salted(form: Form, token: str = TOKEN) -> bytes:
    assert SCRAM is not None and SCRAM.memory is not None
    function = Argon2id(
        salt=bytes.fromhex(SCRAM.salt),
        length=32,
        iterations=SCRAM.iterations,
        lanes=1,
        memory_cost=SCRAM.memory,
    )
    return scram.in_form(form, scram.ARGON2, function.derive(token.encode()))


def answer(
    form: Form, asked: Challenge, *, token: str = TOKEN, extra: dict[str, Any] | None = None
) -> Any:
    told = asked.message.extra
    proof = scram.client_proof(salted(form, token), signed(form, told))
    if extra is None:
        extra = {"nonce": told["nonce"], "channel_binding": None, "cbind_data": None}
    return wamp.Authenticate(scram.to_base64(proof), extra)


# What both ends compute


def test_the_example_of_rfc_7677() -> None:
    """With the nonces, salt and password that it prints."""
    salted_password = hashlib.pbkdf2_hmac(
        "sha256", b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096
    )
    message = scram.auth_message(
        Form.WAMP,
        authid="user",
        client_nonce="rOprNGfwEbeRWgbNEkqO",
        nonce="rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        salt="W22ZaJ0SNY7soEsUEjb6gQ==",
        iterations=4096,
    )
    proof = scram.client_proof(salted_password, message)
    assert scram.to_base64(proof) == "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    keys = scram.keys_of(salted_password)
    signature = scram.to_base64(scram.server_signature(keys.server_key, message))
    assert signature == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert scram.is_proof(keys, message, proof)


def test_a_proof_with_any_bit_flipped_is_none() -> None:
    keys = scram.keys_of(b"k" * 32)
    proof = scram.client_proof(b"k" * 32, b"said")
    assert scram.is_proof(keys, b"said", proof)
    for bit in range(256):
        wrong = bytearray(proof)
        wrong[bit // 8] ^= 1 << bit % 8
        assert not scram.is_proof(keys, b"said", bytes(wrong))
    for wrong_size in (b"", proof[:-1], proof + b"\0"):
        assert not scram.is_proof(keys, b"said", wrong_size)


def test_names_are_escaped_in_the_form_that_says_so() -> None:
    both = {
        form: scram.auth_message(
            form, authid="a=b,c", client_nonce="x", nonce="xy", salt="c2E=", iterations=1
        )
        for form in Form
    }
    assert both[Form.WAMP] == b"n=a=3Db=2Cc,r=x,r=xy,s=c2E=,i=1,c=biws,r=xy"
    assert both[Form.AUTOBAHN] == b"n=a=b,c,r=x,r=xy,s=c2E=,i=1,c=,r=xy"


@pytest.mark.parametrize(
    "text", ["", "a", "YQ", "YQ==\n", "YR==", " YQ==", "Y_Q=", None, 5, b"YQ=="]
)
def test_only_canonical_base64_is_taken(text: object) -> None:
    assert scram.from_base64(text) in (None, b"") and (text == "" or not scram.from_base64(text))
    assert scram.from_base64("YQ==") == b"a"


def test_autobahns_own_helper_makes_the_same_keys_of_its_form() -> None:
    theirs = derive_scram_credential("ann", TOKEN, salt=b"s" * 16)
    function = Argon2id(
        salt=b"s" * 16,
        length=32,
        iterations=theirs["iterations"],
        lanes=1,
        memory_cost=theirs["memory"],
    )
    raw = function.derive(TOKEN.encode())
    ours = scram.keys_of(scram.in_form(Form.AUTOBAHN, scram.ARGON2, raw))
    assert ours.stored_key.hex() == theirs["stored-key"]
    assert ours.server_key.hex() == theirs["server-key"]


def test_a_token_that_sasl_would_change_gets_no_keys() -> None:
    assert make_scram("pass\u00adword") is None
    assert make_scram("") is None


# SCRAM


@pytest.mark.parametrize("form", Form)
def test_the_right_token_by_scram(form: Form) -> None:
    asked = challenge(scram_hello(form), known())
    told = asked.message.extra
    assert asked.message.method == form.value
    assert told["nonce"].startswith(NONCE) and len(told["nonce"]) == 2 * len(NONCE)
    assert told["kdf"] == {"wamp-scram": "argon2id13", "scram": "argon2id-13"}[form]
    verdict = asked.proof.judge(answer(form, asked))
    assert isinstance(verdict, Accept)
    assert (verdict.principal.name, verdict.method) == ("ann", form.value)
    keys = scram.keys_of(salted(form))
    expected = scram.to_base64(scram.server_signature(keys.server_key, signed(form, told)))
    assert list((verdict.authextra or {}).values()) == [expected]


def test_pbkdf2_credentials_work_in_the_specifications_form() -> None:
    raw = hashlib.pbkdf2_hmac("sha256", TOKEN.encode(), b"s" * 16, 5000)
    keys = scram.keys_of(raw)
    credential = ScramCredential(
        kdf="pbkdf2",
        salt=(b"s" * 16).hex(),
        iterations=5000,
        memory=None,
        stored_key=keys.stored_key.hex(),
        server_key=keys.server_key.hex(),
    )
    asked = challenge(scram_hello(Form.WAMP), known(credential=credential))
    told = asked.message.extra
    assert (told["kdf"], told["iterations"], told["memory"]) == ("pbkdf2", 5000, None)
    proof = scram.to_base64(scram.client_proof(raw, signed(Form.WAMP, told)))
    assert isinstance(asked.proof.judge(wamp.Authenticate(proof, {"nonce": told["nonce"]})), Accept)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(
    "signature",
    [
        "",
        "x",
        TOKEN,
        scram.to_base64(bytes(32)),
        scram.to_base64(bytes(31)),
        "A" * 100_000,
        "=" * 44,
    ],
)
def test_what_is_no_proof(form: Form, signature: str) -> None:
    asked = challenge(scram_hello(form), known())
    nonce = {"nonce": asked.message.extra["nonce"]}
    verdict = asked.proof.judge(wamp.Authenticate(signature, nonce))
    assert isinstance(verdict, Refuse) and verdict.uri == REFUSED


@pytest.mark.parametrize("form", Form)
def test_the_wrong_token_and_an_old_proof(form: Form) -> None:
    made, authenticator = secret(), known()
    asked = challenge(scram_hello(form), authenticator, made)
    assert isinstance(asked.proof.judge(answer(form, asked, token="guessed-token-guess")), Refuse)
    old = answer(form, asked)
    assert isinstance(asked.proof.judge(old), Accept)
    again = challenge(scram_hello(form), authenticator, made)
    assert again.message.extra["nonce"] != asked.message.extra["nonce"]
    assert isinstance(again.proof.judge(old), Refuse)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"nonce": NONCE},
        {"nonce": None},
        {"nonce": "{nonce}", "channel_binding": "tls-unique", "cbind_data": "eA=="},
        {"nonce": "{nonce}", "cbind_data": "eA=="},
    ],
)
def test_authenticate_must_repeat_what_was_agreed_on(extra: dict[str, Any]) -> None:
    asked = challenge(scram_hello(Form.WAMP), known())
    filled = {
        key: asked.message.extra["nonce"] if value == "{nonce}" else value
        for key, value in extra.items()
    }
    assert isinstance(asked.proof.judge(answer(Form.WAMP, asked, extra=filled)), Refuse)


@pytest.mark.parametrize("form", Form)
def test_a_token_that_ends_between_challenge_and_proof(form: Form) -> None:
    clock = Clock()
    authenticator = known(clock, expires_at=1010.0)
    asked = challenge(scram_hello(form), authenticator)
    proof = answer(form, asked)
    assert isinstance(asked.proof.judge(proof), Accept)
    clock.now = 1010.0
    assert isinstance(asked.proof.judge(proof), Refuse)


@pytest.mark.parametrize("form", Form)
def test_a_token_that_is_replaced_between_challenge_and_proof(form: Form) -> None:
    authenticator = known()
    asked = challenge(scram_hello(form), authenticator)
    proof = answer(form, asked)
    authenticator.discard(hash_token(TOKEN))
    assert isinstance(asked.proof.judge(proof), Refuse)
    other = make_scram("another-token-another")
    authenticator.put(
        KnownToken(
            sha256=hash_token("another-token-another"),
            credential=Credential(principal=CLIENT, scram=other),
            source=Source.COMMAND,
        )
    )
    assert isinstance(asked.proof.judge(proof), Refuse)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("nonce", [None, "", 5, "with,comma", "n" * 257, "ünicode", "a\nb"])
def test_a_nonce_that_is_none(form: Form, nonce: Any) -> None:
    verdict = judge_hello(scram_hello(form, nonce=nonce), known(), "cumulus")
    assert isinstance(verdict, Refuse) and "nonce" in verdict.text


# What isn't there is not to be told from what is


@pytest.mark.parametrize("form", Form)
def test_names_cannot_be_probed(form: Form) -> None:
    """Without a token, with another one's, with one for tickets only: like the real one, and always
    the same but for the nonce."""
    authenticators = [known(), known(name="bob"), known(credential=None), with_tokens()]
    shown: list[dict[str, Any]] = []
    for authenticator in authenticators:
        made = secret()
        first, second = (
            challenge(scram_hello(form), authenticator, made).message.extra for _ in range(2)
        )
        assert first["nonce"] != second["nonce"]
        assert {**first, "nonce": ""} == {**second, "nonce": ""}
        shown.append(first)
    real, *made_up = shown
    for extra in made_up:
        assert {**extra, "salt": ""} == {**real, "salt": ""}
        assert len(extra["salt"]) == len(real["salt"])
        assert extra["salt"] == made_up[0]["salt"]
    other = challenge(scram_hello(form, authid="eve"), known()).message.extra
    assert other["salt"] not in (real["salt"], made_up[0]["salt"])


@pytest.mark.parametrize("form", Form)
def test_the_refusal_of_an_unknown_name_is_that_of_a_wrong_token(form: Form) -> None:
    texts = set()
    for authenticator in (known(), known(name="bob"), known(credential=None)):
        asked = challenge(scram_hello(form), authenticator)
        verdict = asked.proof.judge(answer(form, asked, token="guessed-token-guess"))
        assert isinstance(verdict, Refuse)
        texts.add((verdict.uri, verdict.text))
    assert len(texts) == 1


# Keys


def by_key(signature: str) -> Any:
    return wamp.Authenticate(signature, {})


def sign(asked: Challenge, key: Ed25519PrivateKey = KEY) -> str:
    data = bytes.fromhex(asked.message.extra["challenge"])
    return (key.sign(data) + data).hex()


@pytest.mark.parametrize("authid", [None, "", "ann"])
@pytest.mark.parametrize("pubkey", [PUBLIC, PUBLIC.upper()])
def test_the_right_key(authid: str | None, pubkey: str) -> None:
    asked = challenge(hello("cryptosign", authid=authid, pubkey=pubkey), known())
    assert asked.message.method == "cryptosign"
    assert set(asked.message.extra) == {"challenge", "channel_binding"}
    assert len(asked.message.extra["challenge"]) == 64
    verdict = asked.proof.judge(by_key(sign(asked)))
    assert isinstance(verdict, Accept)
    assert (verdict.principal.name, verdict.method) == ("ann", "cryptosign")


def test_the_vectors_of_the_specification() -> None:
    key = "4d57d97a68f555696620a6d849c0ce582568518d729eb753dc7c732de2804510"
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key))
    public = private.public_key().public_bytes_raw().hex()
    authenticator = Authenticator(())
    authenticator.put(
        KnownToken(
            sha256=hash_token(TOKEN),
            credential=Credential(principal=CLIENT, public_keys=(public,)),
            source=Source.COMMAND,
        )
    )
    made = Secrets(random_bytes=lambda count: b"\xff" * count)
    asked = challenge(hello("cryptosign", authid=None, pubkey=public), authenticator, made)
    signature = (
        "b32675b221f08593213737bef8240e7c15228b07028e19595294678c90d11c0c"
        "ae80a357331bfc5cc9fb71081464e6e75013517c2cf067ad566a6b7b728e5d03" + "f" * 64
    )
    assert isinstance(asked.proof.judge(by_key(signature)), Accept)


def test_a_wrong_key_an_old_signature_and_any_flipped_bit() -> None:
    made, authenticator = secret(), known()
    given = hello("cryptosign", authid=None, pubkey=PUBLIC)
    asked = challenge(given, authenticator, made)
    good = sign(asked)
    wrong = [
        sign(asked, OTHER_KEY),
        good[:128],
        good + "00",
        good[128:] + good[:128],
        "",
        "zz" * 96,
    ]
    for bit in range(0, 96 * 8, 7):
        data = bytearray.fromhex(good)
        data[bit // 8] ^= 1 << bit % 8
        wrong.append(data.hex())
    for signature in wrong:
        assert isinstance(asked.proof.judge(by_key(signature)), Refuse), signature
    assert isinstance(challenge(given, authenticator, made).proof.judge(by_key(good)), Refuse)
    assert isinstance(asked.proof.judge(by_key(good)), Accept)


def test_an_unknown_key_is_challenged_and_refused_like_a_wrong_one() -> None:
    unknown = OTHER_KEY.public_key().public_bytes_raw().hex()
    asked = challenge(hello("cryptosign", authid=None, pubkey=unknown), known())
    verdict = asked.proof.judge(by_key(sign(asked, OTHER_KEY)))
    real = challenge(hello("cryptosign", authid=None, pubkey=PUBLIC), known())
    assert verdict == real.proof.judge(by_key(sign(real, OTHER_KEY)))
    assert isinstance(verdict, Refuse) and verdict.uri == REFUSED


@pytest.mark.parametrize("authid", ["bob", "whoever"])
def test_a_key_is_that_of_the_name_that_it_is_given_with(authid: str) -> None:
    asked = challenge(hello("cryptosign", authid=authid, pubkey=PUBLIC), known())
    assert isinstance(asked.proof.judge(by_key(sign(asked))), Refuse)


def test_a_key_whose_token_expires() -> None:
    clock = Clock()
    asked = challenge(
        hello("cryptosign", authid=None, pubkey=PUBLIC), known(clock, expires_at=1001.0)
    )
    clock.now = 1001.0
    assert isinstance(asked.proof.judge(by_key(sign(asked))), Refuse)


@pytest.mark.parametrize("pubkey", [None, "", 5, "00", "g" * 64, PUBLIC + "00", " " + PUBLIC[1:]])
def test_what_is_no_key(pubkey: Any) -> None:
    verdict = judge_hello(hello("cryptosign", pubkey=pubkey), known(), "cumulus")
    assert isinstance(verdict, Refuse) and "pubkey" in verdict.text


# Choosing


@pytest.mark.parametrize("method", ["wamp-scram", "scram", "cryptosign"])
def test_no_channel_binding_is_offered(method: str) -> None:
    given = hello(method, nonce=NONCE, pubkey=PUBLIC, channel_binding="tls-unique")
    verdict = judge_hello(given, known(), "cumulus")
    assert isinstance(verdict, Refuse)
    assert verdict.uri == "wamp.error.no_auth_method" and "channel_binding" in verdict.text


def test_the_first_method_that_can_be_begun_is() -> None:
    given = hello("wampcra", "cryptosign", "wamp-scram", "ticket", nonce=NONCE)
    assert challenge(given, known()).message.method == "wamp-scram"
    given = hello("ticket", "wamp-scram", nonce=NONCE)
    assert challenge(given, known()).message.method == "ticket"
    verdict = judge_hello(given, known(), "cumulus", secure=False)
    assert isinstance(verdict, Challenge) and verdict.message.method == "wamp-scram"


def test_a_ticket_alone_is_refused_where_others_can_read_it() -> None:
    verdict = judge_hello(hello("ticket"), known(), "cumulus", secure=False)
    assert isinstance(verdict, Refuse) and verdict.uri == "wamp.error.no_auth_method"
    for way in ("https", "wamp-scram", "allow_plain_tokens"):
        assert way in verdict.text


def test_who_offers_nothing_is_told_that_a_token_is_needed() -> None:
    for given in (hello(), hello("anonymous")):
        verdict = judge_hello(given, known(), "cumulus")
        assert isinstance(verdict, Refuse) and verdict.text.startswith("a token is needed")
    verdict = judge_hello(hello("magic"), known(), "cumulus")
    assert isinstance(verdict, Refuse) and verdict.text.startswith("offer an authentication")


def test_an_open_daemon_welcomes_whoever_may_be_anonymous() -> None:
    given = hello("wamp-scram", "anonymous", nonce=NONCE)
    assert isinstance(judge_hello(given, without_tokens(), "cumulus", secure=False), Accept)


def test_many_methods_and_long_names_are_bounded() -> None:
    given = hello(*["cryptosign"] * 100_000)
    verdict = judge_hello(given, known(), "cumulus")
    assert isinstance(verdict, Refuse) and len(verdict.text) < 300
    long = scram_hello(Form.WAMP, authid="n" * 257)
    verdict = judge_hello(long, known(), "cumulus")
    assert isinstance(verdict, Refuse) and "authid" in verdict.text


@pytest.mark.parametrize("authid", [None, "", "\ud800", "ünn", "a\nb"])
def test_what_no_token_is_called(authid: Any) -> None:
    verdict = judge_hello(scram_hello(Form.WAMP, authid=authid), known(), "cumulus")
    assert isinstance(verdict, Refuse) and "authid" in verdict.text
