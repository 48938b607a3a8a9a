"""Listeners that speak TLS: what an `ssl:` description says, and what is in the files it names.

A description is Twisted's: `ssl:PORT:privateKey=FILE:certKey=FILE:certChain=FILE:interface=IP`.
In PORT's place stands `systemd=NAME` for a socket that systemd hands over. `certKey` may hold the
whole chain, the daemon's own certificate first, and defaults to the file of the key; `certChain`
(or Twisted's `extraCertChain`) names the rest where it stands apart.
"""

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import SSL
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions

from cumulusd.activation import checked_name

SCHEME = "ssl:"
#: Of TLS 1.2, all with forward secrecy and authenticated encryption; those of 1.3 are all so.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: No key or chain is longer; something else stands at that path.
MAX_FILE_BYTES = 1 << 20
_BACKLOG = 50
_KEYS = (
    "port",
    "systemd",
    "interface",
    "backlog",
    "privateKey",
    "certKey",
    "certChain",
    "extraCertChain",
)
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?P<kind>[A-Z0-9 ]*PRIVATE KEY)-----.*?-----END (?P=kind)-----", re.DOTALL
)


class TlsUnusable(ValueError):
    """That listener can't speak TLS; the message names the file and the reason."""


@attrs.frozen(kw_only=True)
class TlsListener:
    """An `ssl:` description, read. Paths are absolute."""

    port: int = 0
    inherited: str | None = None  #: name or index of a socket that systemd hands over; no port then
    interface: str = ""
    backlog: int = _BACKLOG
    private_key: Path
    certificate: Path
    chain: Path | None = None

    @property
    def name(self) -> str:
        """Where it listens, in logs and metrics."""
        if self.inherited is not None:
            return f"systemd:{self.inherited}"
        host = f"[{self.interface}]" if ":" in self.interface else self.interface or "*"
        return f"{host}:{self.port}"

    @property
    def description(self) -> str:
        """As text again."""
        place = str(self.port) if self.inherited is None else f"systemd={self.inherited}"
        parts = [f"{SCHEME}{place}", _part("privateKey", self.private_key)]
        parts.append(_part("certKey", self.certificate))
        if self.chain is not None:
            parts.append(_part("certChain", self.chain))
        if self.interface:
            parts.append(_part("interface", self.interface))
        if self.backlog != _BACKLOG:
            parts.append(f"backlog={self.backlog}")
        return ":".join(parts)


@attrs.frozen(kw_only=True)
class Certificate:
    """What is in a listener's files, ready to be used."""

    context: SSL.Context
    expires_at: float  #: unix seconds
    fingerprint: str  #: of its public key, as curl's --pinnedpubkey takes it


def parse_listener(description: str, folder: Path) -> TlsListener:
    """Reads a description; relative paths start at `folder`. Raises TlsUnusable."""
    given: dict[str, str] = {}
    for index, part in enumerate(re.split(r"(?<!\\):", description.removeprefix(SCHEME))):
        key, equals, value = part.partition("=")
        if not equals and index == 0:
            key, value = "port", part
        elif key not in _KEYS or not equals:
            raise TlsUnusable(f"{key!r} is not known here; known: {', '.join(_KEYS)}")
        given[key] = re.sub(r"\\(.)", r"\1", value)
    port, backlog = given.get("port", ""), given.get("backlog", str(_BACKLOG))
    inherited = given.get("systemd")
    if inherited is not None:
        if {"port", "interface", "backlog"} & given.keys():
            raise TlsUnusable("systemd= names a socket that listens already: no port or interface")
        try:
            port = "0"
            checked_name(inherited)
        except ValueError as error:
            raise TlsUnusable(str(error)) from None
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise TlsUnusable(f"the port is {port!r}")
    if not backlog.isdecimal() or not int(backlog):
        raise TlsUnusable(f"the backlog is {backlog!r}")
    key_file = given.get("privateKey")
    if not key_file:
        raise TlsUnusable("privateKey=FILE is missing, and certKey=FILE unless it is in that file")
    chain = given.get("certChain") or given.get("extraCertChain")
    return TlsListener(
        port=int(port),
        inherited=inherited,
        interface=given.get("interface", ""),
        backlog=int(backlog),
        private_key=_absolute(key_file, folder),
        certificate=_absolute(given.get("certKey") or key_file, folder),
        chain=None if chain is None else _absolute(chain, folder),
    )


def load_certificate(listener: TlsListener) -> Certificate:
    """Reads the files. TLS 1.2 and newer. Raises TlsUnusable."""
    key = _key(listener.private_key)
    own, *rest = _certificates(listener.certificate)
    if listener.chain is not None:
        rest += _certificates(listener.chain)
    if _public(key) != _public(own):
        raise TlsUnusable(
            f"the key in {listener.private_key} is not that of the certificate in "
            f"{listener.certificate} (its first one must be the daemon's own)"
        )
    try:
        # Twisted's types still name pyOpenSSL's own objects, which that would rather not be given.
        held: dict[str, Any] = {"privateKey": key, "certificate": own, "extraCertChain": rest}
        context = CertificateOptions(acceptableCiphers=_ciphers(), **held).getContext()
    except (SSL.Error, TypeError, ValueError) as error:
        raise TlsUnusable(f"OpenSSL takes {listener.certificate} for no use: {error}") from error
    pin = base64.b64encode(hashlib.sha256(_public(own)).digest()).decode()
    return Certificate(
        context=context,
        expires_at=own.not_valid_after_utc.timestamp(),
        fingerprint=f"sha256//{pin}",
    )


def _ciphers() -> Any:
    return AcceptableCiphers.fromOpenSSLCipherString(CIPHERS)  # type: ignore[no-untyped-call]


def _key(path: Path) -> PrivateKeyTypes:
    found = _PRIVATE_KEY.search(_read(path))
    if found is None:
        raise TlsUnusable(f"there is no private key in {path}, which must be PEM")
    try:
        return load_pem_private_key(found[0], password=None)
    except TypeError:
        raise TlsUnusable(
            f"the key in {path} is encrypted; give one without a passphrase"
        ) from None
    except Exception as error:
        # Whatever the library says of it, it can't be used. What it holds is told to nobody.
        raise TlsUnusable(
            f"the private key in {path} can't be read: {type(error).__name__}"
        ) from None


def _certificates(path: Path) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except TlsUnusable:
        raise
    except Exception:
        # An empty file, one in DER, a damaged one: the library has many words for it.
        raise TlsUnusable(
            f"there is no certificate in {path}, which must be PEM, or it is damaged"
        ) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TlsUnusable(f"{path} can't be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise TlsUnusable(f"{path} is over {MAX_FILE_BYTES} bytes")
    return data


def _public(holder: PrivateKeyTypes | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _absolute(text: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / Path(text).expanduser()))


def _part(key: str, value: object) -> str:
    return f"{key}={quoteStringArgument(str(value))}"  # type: ignore[no-untyped-call]
