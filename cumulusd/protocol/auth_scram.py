"""WAMP-SCRAM: a peer shows that it has the token of a name, without sending it.

The password is the token, the authid its name. The key derivation is the client's work alone: what
the daemon computes for a login are a few hashes, whatever the costs are.
"""

import hashlib
import hmac
from collections.abc import Callable

import attrs

from cumulus_wire import scram
from cumulus_wire.scram import Form, Keys
from cumulusd.identity import Authenticator, Credential, ScramCredential
from cumulusd.protocol import messages
from cumulusd.protocol.auth_verdicts import Accept, NotBegun, Refuse, authextra_of
from cumulusd.protocol.messages import Message, wamp
from cumulusd.scram_keys import ITERATIONS, MEMORY_KIB, SALT_BYTES

_REFUSED = (
    "the login by {method} failed: there is no such name, its token is another or has expired, or "
    "it can only be used as a ticket; check the token and its name, or ask the daemon's operator"
)


def begin(
    form: Form,
    hello: Message,
    authenticator: Authenticator,
    *,
    random_bytes: Callable[[int], bytes],
    names_secret: bytes,
) -> tuple[Message, "ScramProof"]:
    """The CHALLENGE, and what judges its answer. A name that isn't there gets a challenge of its
    own, always the same but for the nonce. Raises NotBegun."""
    authextra = authextra_of(hello, form.value)
    authid, client_nonce = hello.authid, authextra.get("nonce")
    if not scram.is_plain(authid or ""):
        raise NotBegun(f"{form.value}: authid must be the token's name, which is plain ASCII")
    if not scram.is_nonce(client_nonce):
        raise NotBegun(
            f"{form.value}: authextra.nonce must be base64 of {scram.NONCE_BYTES} random bytes"
        )
    made_up = _made_up(authid, names_secret)
    known = _usable(authenticator.credential(authid), form)
    shown = known or made_up
    nonce = client_nonce + scram.to_base64(random_bytes(scram.NONCE_BYTES))
    salt = scram.to_base64(bytes.fromhex(shown.salt))
    extra = {
        "nonce": nonce,
        "salt": salt,
        "kdf": form.kdf(shown.kdf),
        "iterations": shown.iterations,
        "memory": shown.memory,
    }
    if form is Form.AUTOBAHN and shown.memory is None:
        del extra["memory"]
    signed = scram.auth_message(
        form,
        authid=authid,
        client_nonce=client_nonce,
        nonce=nonce,
        salt=salt,
        iterations=shown.iterations,
    )
    proof = ScramProof(form, authid, nonce, signed, known, made_up, authenticator)
    return wamp.Challenge(form.value, extra), proof


@attrs.frozen
class ScramProof:
    """One exchange."""

    _form: Form
    _authid: str
    _nonce: str
    _signed: bytes
    _challenged: ScramCredential | None  #: None: there is none of that name
    _made_up: ScramCredential
    _authenticator: Authenticator

    def judge(self, answer: Message) -> Accept | Refuse:
        """The principal, if the proof is right and its token is still the one it was."""
        keys = _keys(self._challenged or self._made_up, self._form)
        proof = scram.from_base64(answer.signature) or b""
        shown = scram.is_proof(keys, self._signed, proof)
        credential = self._authenticator.credential(self._authid)
        # It may have been revoked, have expired or been replaced since.
        held = _usable(credential, self._form)
        still = held is not None and held == self._challenged
        if not (shown and still and self._repeats(answer.extra or {})) or credential is None:
            text = _REFUSED.format(method=self._form.value)
            return Refuse(messages.NOT_AUTHENTICATED, text)
        signature = scram.to_base64(scram.server_signature(keys.server_key, self._signed))
        verifier = "verifier" if self._form is Form.WAMP else "scram_server_signature"
        return Accept(credential.principal, self._form.value, {verifier: signature})

    def _repeats(self, extra: dict[str, object]) -> bool:
        """Does AUTHENTICATE say again what was agreed on?"""
        if self._form is Form.AUTOBAHN:
            return True
        bound = extra.get("channel_binding"), extra.get("cbind_data")
        return extra.get("nonce") == self._nonce and bound == (None, None)


def _usable(credential: Credential | None, form: Form) -> ScramCredential | None:
    if credential is None or credential.scram is None:
        return None
    if form is Form.AUTOBAHN and credential.scram.autobahn_keys is None:
        return None
    return credential.scram


def _keys(credential: ScramCredential, form: Form) -> Keys:
    stored_key, server_key = credential.stored_key, credential.server_key
    if form is Form.AUTOBAHN:
        assert credential.autobahn_keys is not None, "it was asked for"
        stored_key, server_key = credential.autobahn_keys
    return Keys(bytes.fromhex(stored_key), bytes.fromhex(server_key))


def _made_up(authid: str, secret: bytes) -> ScramCredential:
    """What a name that isn't there has: nobody knows a password for it."""

    def derived(what: str) -> str:
        data = what.encode() + b"\0" + authid.encode(errors="surrogatepass")
        return hmac.new(secret, data, hashlib.sha256).hexdigest()

    stored_key, server_key = derived("stored"), derived("server")
    return ScramCredential(
        kdf=scram.ARGON2,
        salt=derived("salt")[: 2 * SALT_BYTES],
        iterations=ITERATIONS,
        memory=MEMORY_KIB,
        stored_key=stored_key,
        server_key=server_key,
        autobahn_keys=(stored_key, server_key),
    )
