"""WAMP-SCRAM: what both ends compute of a password and of the messages that passed between them.

After RFC 5802, RFC 7677 and "Salted Challenge Response Authentication" of WAMP's advanced profile,
without channel binding. Autobahn and Crossbar speak an older form of it, called `scram`::

                           wamp-scram                      scram
    CHALLENGE kdf          argon2id13, pbkdf2              argon2id-13, pbkdf2
    salted password        the 32 bytes of the function    with Argon2: their base64, unpadded
    authid in the message  `,` and `=` escaped             as it is
    c= in the message      biws (of `n,,`)                 empty
    AUTHENTICATE           repeats the nonce               has the proof alone
    WELCOME authextra      verifier                        scram_server_signature
"""

import base64
import binascii
import hashlib
import hmac
from enum import StrEnum
from typing import NamedTuple, TypeGuard

#: HELLO's nonce is at most so long, and any printable ASCII but a comma.
MAX_NONCE_CHARACTERS = 256
NONCE_BYTES = 16
KEY_BYTES = 32

ARGON2 = "argon2id13"
PBKDF2 = "pbkdf2"

#: What a client computes at most for a daemon that it doesn't know yet: a hostile one must not keep
#: it busy or take its memory.
MAX_ARGON2_ITERATIONS = 4096
MAX_ARGON2_MEMORY_KIB = 256 * 1024
#: Passes times KiB: some ten seconds of a slow core.
MAX_ARGON2_WORK_KIB = 4 * 1024 * 1024
#: Less makes guessing easy for who listens in, or poses as the daemon.
MIN_ARGON2_WORK_KIB = 4 * 1024
MAX_PBKDF2_ITERATIONS = 2_000_000
MIN_PBKDF2_ITERATIONS = 4096


class Form(StrEnum):
    """The two forms, by the names of their authentication methods."""

    WAMP = "wamp-scram"
    AUTOBAHN = "scram"

    def kdf(self, kdf: str) -> str:
        """What that function is called in this form's CHALLENGE."""
        return "argon2id-13" if self is Form.AUTOBAHN and kdf == ARGON2 else kdf


class Keys(NamedTuple):
    """What the server keeps of a salted password; neither lets anybody log in."""

    stored_key: bytes
    server_key: bytes


def keys_of(salted_password: bytes) -> Keys:
    """The server's keys."""
    client_key = _hmac(salted_password, b"Client Key")
    return Keys(hashlib.sha256(client_key).digest(), _hmac(salted_password, b"Server Key"))


def in_form(form: Form, kdf: str, salted_password: bytes) -> bytes:
    """The salted password as that form takes it, from the bytes that the function gave."""
    if form is Form.AUTOBAHN and kdf == ARGON2:
        return base64.b64encode(salted_password).rstrip(b"=")
    return salted_password


def auth_message(
    form: Form, *, authid: str, client_nonce: str, nonce: str, salt: str, iterations: int
) -> bytes:
    """What both ends sign: the exchange so far. `nonce` is the server's, which begins with the
    client's; `salt` is base64, as in the CHALLENGE."""
    binding = ""
    if form is Form.WAMP:
        authid = authid.replace("=", "=3D").replace(",", "=2C")
        binding = "biws"
    return (
        f"n={authid},r={client_nonce},r={nonce},s={salt},i={iterations},c={binding},r={nonce}"
    ).encode()


def client_proof(salted_password: bytes, message: bytes) -> bytes:
    """What shows the server that the client has the password."""
    client_key = _hmac(salted_password, b"Client Key")
    stored_key = hashlib.sha256(client_key).digest()
    return _xor(client_key, _hmac(stored_key, message))


def is_proof(keys: Keys, message: bytes, proof: bytes) -> bool:
    """Does that proof show it? In constant time."""
    if len(proof) != KEY_BYTES:
        return False
    client_key = _xor(proof, _hmac(keys.stored_key, message))
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), keys.stored_key)


def server_signature(server_key: bytes, message: bytes) -> bytes:
    """What shows the client that the server knows its password's keys."""
    return _hmac(server_key, message)


def is_plain(text: str) -> bool:
    """Is that printable ASCII? Then SASLprep leaves it as it is; nothing else is taken here."""
    return bool(text) and text.isascii() and text.isprintable()


def is_nonce(value: object) -> TypeGuard[str]:
    """May that be a nonce?"""
    return (
        isinstance(value, str)
        and len(value) <= MAX_NONCE_CHARACTERS
        and is_plain(value)
        and "," not in value
    )


def to_base64(data: bytes) -> str:
    """As text, canonical."""
    return base64.b64encode(data).decode()


def from_base64(text: object) -> bytes | None:
    """The bytes; None when it is no base64, or could be written another way."""
    if not isinstance(text, str):
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if to_base64(data) == text else None


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(left, right, strict=True))
