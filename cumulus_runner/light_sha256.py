"""SHA-256 without `hashlib`, whose import brings OpenSSL and takes longer than a small hash."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Digest(Protocol):
        """What is used of hashlib's."""

        def update(self, data: bytes, /) -> None: ...
        def hexdigest(self) -> str: ...


#: Above it OpenSSL's speed makes up for its import.
LIGHT_BYTES = 1 << 20


def sha256(expected_bytes: int) -> Digest:
    """A digest of about so many bytes. Any interpreter gives one: where it has no module of its own
    for that, hashlib's."""
    if expected_bytes <= LIGHT_BYTES:
        for name in ("_sha2", "_sha256"):  # since 3.12, before
            try:
                digest: Digest = __import__(name).sha256()
                return digest
            except (ImportError, AttributeError):
                continue
    import hashlib

    return hashlib.sha256()
