"""What is kept of a token for WAMP-SCRAM: made once, when its text is known."""

import os
from collections.abc import Callable

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from cumulus_wire import scram
from cumulus_wire.scram import Form
from cumulusd.identity import ScramCredential

#: What a client computes for each login. Tokens are random, so this needn't be more than what is
#: held to be the least for passwords that people choose.
ITERATIONS = 2
MEMORY_KIB = 19 * 1024
SALT_BYTES = 16


def make_scram(
    token: str, random_bytes: Callable[[int], bytes] = os.urandom
) -> ScramCredential | None:
    """The keys of that token, in both forms of the protocol; None for a token that isn't printable
    ASCII, which logs in by ticket only. Takes tens of milliseconds: not for the reactor's thread.
    """
    if not scram.is_plain(token):
        return None
    salt = random_bytes(SALT_BYTES)
    function = Argon2id(
        salt=salt,
        length=scram.KEY_BYTES,
        iterations=ITERATIONS,
        lanes=1,
        memory_cost=MEMORY_KIB,
    )
    salted = function.derive(token.encode())
    keys = scram.keys_of(scram.in_form(Form.WAMP, scram.ARGON2, salted))
    autobahn = scram.keys_of(scram.in_form(Form.AUTOBAHN, scram.ARGON2, salted))
    return ScramCredential(
        kdf=scram.ARGON2,
        salt=salt.hex(),
        iterations=ITERATIONS,
        memory=MEMORY_KIB,
        stored_key=keys.stored_key.hex(),
        server_key=keys.server_key.hex(),
        autobahn_keys=(autobahn.stored_key.hex(), autobahn.server_key.hex()),
    )
