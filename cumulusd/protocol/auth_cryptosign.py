"""WAMP-cryptosign: a peer shows that it holds the private half of an Ed25519 key."""

import hmac
import re
from collections.abc import Callable

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cumulusd.identity import Authenticator, Principal
from cumulusd.protocol import messages
from cumulusd.protocol.auth_verdicts import Accept, NotBegun, Refuse, authextra_of
from cumulusd.protocol.messages import Message, wamp

METHOD = "cryptosign"
CHALLENGE_BYTES = 32
_SIGNATURE_BYTES = 64
_PUBLIC_KEY = re.compile(r"[0-9a-fA-F]{64}")
_SIGNED = re.compile(rf"[0-9a-fA-F]{{{2 * (_SIGNATURE_BYTES + CHALLENGE_BYTES)}}}")


def begin(
    hello: Message, authenticator: Authenticator, random_bytes: Callable[[int], bytes]
) -> tuple[Message, "CryptosignProof"]:
    """The CHALLENGE, for unknown keys too, and what judges its answer. Raises NotBegun."""
    key = authextra_of(hello, METHOD).get("pubkey")
    if not isinstance(key, str) or not _PUBLIC_KEY.fullmatch(key):
        raise NotBegun(f"{METHOD}: authextra.pubkey must be an Ed25519 public key in hex")
    challenge = random_bytes(CHALLENGE_BYTES)
    proof = CryptosignProof(challenge, key.lower(), hello.authid or None, authenticator)
    return wamp.Challenge(METHOD, {"challenge": challenge.hex(), "channel_binding": None}), proof


@attrs.frozen
class CryptosignProof:
    """One exchange."""

    _challenge: bytes
    _public_key: str
    _authid: str | None
    _authenticator: Authenticator

    def judge(self, answer: Message) -> Accept | Refuse:
        """The key's principal, if the signature is the key's and of this very challenge."""
        signed = self._is_signed(answer.signature)
        principal = self._principal()
        if not signed or principal is None:
            return Refuse(
                messages.NOT_AUTHENTICATED,
                f"the login by {METHOD} failed: the key is not known to this daemon (or not as the "
                "authid's), or the signature is not that key's of this challenge; check the key, "
                "or ask the daemon's operator",
            )
        return Accept(principal, METHOD)

    def _principal(self) -> Principal | None:
        """Who has that key: the one whom authid names, if it names one."""
        if self._authid is None:
            credential = self._authenticator.credential_of_key(self._public_key)
        else:
            credential = self._authenticator.credential(self._authid)
        if credential is None or self._public_key not in credential.public_keys:
            return None
        return credential.principal

    def _is_signed(self, signature: object) -> bool:
        if not isinstance(signature, str) or not _SIGNED.fullmatch(signature):
            return False
        data = bytes.fromhex(signature)
        if not hmac.compare_digest(data[_SIGNATURE_BYTES:], self._challenge):
            return False
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self._public_key))
            key.verify(data[:_SIGNATURE_BYTES], self._challenge)
        except (InvalidSignature, ValueError):
            return False
        return True
