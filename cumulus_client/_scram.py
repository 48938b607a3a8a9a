"""Logging in by WAMP-SCRAM: the key shows that it is known, and isn't sent. Imported when used."""

import asyncio
import hashlib
import hmac
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cumulus_wire import scram
from cumulus_wire.scram import Form

METHOD = Form.WAMP.value


class ScramFault(Exception):
    """The other end isn't to be trusted, or the key can't be used so; the message says why."""


class ScramLogin:
    """One exchange: `authextra` goes into HELLO, `answer` makes AUTHENTICATE of the CHALLENGE,
    `check` judges WELCOME."""

    def __init__(self, name: str, key: str) -> None:
        """`name`: the key's, by which the daemon knows it. Raises ScramFault."""
        if not scram.is_plain(name) or not scram.is_plain(key):
            raise ScramFault("only a key and a name of plain ASCII can be used without sending it")
        self._name, self._key = name, key
        self._nonce = scram.to_base64(os.urandom(scram.NONCE_BYTES))
        self._expected: bytes | None = None

    @property
    def authextra(self) -> dict[str, Any]:
        """Of HELLO."""
        return {"nonce": self._nonce, "channel_binding": None}

    async def answer(self, extra: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """AUTHENTICATE's signature and extra. The key is derived in a thread of its own: it takes
        tens of milliseconds, seconds at most. Raises ScramFault."""
        nonce, salt = extra.get("nonce"), extra.get("salt")
        if not scram.is_nonce(nonce) or not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramFault("its nonce doesn't go on from ours")
        salt_bytes = scram.from_base64(salt)
        if not salt_bytes or len(salt_bytes) < 8:
            raise ScramFault("its salt is none")
        iterations = _checked_costs(extra)
        executor = ThreadPoolExecutor(1, "cumulus-login")
        try:
            salted = await asyncio.get_running_loop().run_in_executor(
                executor, _derive, self._key, salt_bytes, extra
            )
        finally:
            executor.shutdown(wait=False)
        message = scram.auth_message(
            Form.WAMP,
            authid=self._name,
            client_nonce=self._nonce,
            nonce=nonce,
            salt=str(salt),
            iterations=iterations,
        )
        self._expected = scram.server_signature(scram.keys_of(salted).server_key, message)
        proof = scram.to_base64(scram.client_proof(salted, message))
        return proof, {"nonce": nonce, "channel_binding": None, "cbind_data": None}

    def check(self, authextra: Mapping[str, Any] | None) -> None:
        """Does the daemon know the key too? Raises ScramFault."""
        told = (authextra or {}).get("verifier")
        # The specification's text has base64 alone, its example RFC 5802's `v=` before it.
        shown = scram.from_base64(told.removeprefix("v=")) if isinstance(told, str) else None
        if (
            self._expected is None
            or shown is None
            or not hmac.compare_digest(shown, self._expected)
        ):
            raise ScramFault("it let us in without knowing the key itself")


def _checked_costs(extra: Mapping[str, Any]) -> int:
    """How often the function is to be applied. Raises ScramFault for what is too little to keep
    the key from who listens, or too much for this machine."""
    kdf, iterations, memory = extra.get("kdf"), extra.get("iterations"), extra.get("memory")
    if type(iterations) is not int or iterations < 1:
        raise ScramFault("its iterations are no number")
    if kdf == scram.PBKDF2:
        if not scram.MIN_PBKDF2_ITERATIONS <= iterations <= scram.MAX_PBKDF2_ITERATIONS:
            raise ScramFault(f"it asks for {iterations} iterations of PBKDF2")
        return iterations
    if kdf != scram.ARGON2:
        raise ScramFault(f"it asks for the unknown function {str(kdf)[:40]!r}")
    if type(memory) is not int or not 8 <= memory <= scram.MAX_ARGON2_MEMORY_KIB:
        raise ScramFault(f"it asks for {str(memory)[:40]} KiB of memory")
    if (
        iterations > scram.MAX_ARGON2_ITERATIONS
        or not scram.MIN_ARGON2_WORK_KIB <= iterations * memory <= scram.MAX_ARGON2_WORK_KIB
    ):
        raise ScramFault(f"it asks for {iterations} iterations of Argon2 with {memory} KiB")
    return iterations


def _derive(key: str, salt: bytes, extra: Mapping[str, Any]) -> bytes:
    iterations = extra["iterations"]
    if extra["kdf"] == scram.PBKDF2:
        return hashlib.pbkdf2_hmac("sha256", key.encode(), salt, iterations, scram.KEY_BYTES)
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    function = Argon2id(
        salt=salt,
        length=scram.KEY_BYTES,
        iterations=iterations,
        lanes=1,
        memory_cost=extra["memory"],
    )
    return function.derive(key.encode())
