"""Where the Docker Engine is: a unix socket, TCP, or TCP with TLS and a client's certificate."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from OpenSSL.crypto import FILETYPE_PEM, X509, PKey, load_certificate, load_privatekey
from OpenSSL.crypto import Error as PemError
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import (
    Certificate,
    KeyPair,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from cumulusd.errors import InvalidArgument

CONNECT_TIMEOUT_S = 10.0
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_FORMS = "unix:///var/run/docker.sock, tcp://host:2375, or tcp://host:2376 with TLS files"


@attrs.frozen(kw_only=True)
class TlsFiles:
    """PEM files: who signed the engine's certificate, and the daemon's own certificate and key."""

    ca_cert: Path
    client_cert: Path
    client_key: Path


@attrs.frozen(kw_only=True)
class Endpoint:
    """One engine's address. Either `socket_path` is set, or `host` and `port` are."""

    socket_path: str | None = None
    host: str | None = None
    port: int | None = None
    tls: TlsFiles | None = None

    def __str__(self) -> str:
        if self.socket_path is not None:
            return f"unix://{self.socket_path}"
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host
        return f"tcp://{host}:{self.port}" + (" (TLS)" if self.tls else "")


def parse_endpoint(text: str, tls: TlsFiles | None = None) -> Endpoint:
    """Reads `unix:///path` or `tcp://host:port`; `tls` makes the latter TLS.

    Raises InvalidArgument that says what is wrong with it.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _malformed(text, str(error)) from None
    if parts.query or parts.fragment or parts.username or parts.password:
        raise _malformed(text, "it has more than an address")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
            raise _malformed(text, "the socket's path must be absolute")
        if tls is not None:
            raise _malformed(text, "TLS files are for tcp:// only")
        return Endpoint(socket_path=parts.path)
    if parts.scheme != "tcp":
        raise _malformed(text, f"unknown scheme {parts.scheme!r}")
    if parts.path not in ("", "/"):
        raise _malformed(text, "it has more than a host and a port")
    if not host or port is None or port == 0:
        raise _malformed(text, "host and port are required")
    return Endpoint(host=host, port=port, tls=tls)


def _malformed(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"{text!r} is no address of a Docker Engine: {why}", hint=f"use {_FORMS}"
    )


@implementer(IAgentEndpointFactory)
class EndpointFactory:
    """Gives treq the one engine's endpoint, whatever the URL says. TLS files are read once.

    Raises InvalidArgument when a file can't be read.
    """

    def __init__(self, reactor: Any, endpoint: Endpoint) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._tls: Any = None
        if endpoint.tls is not None:
            assert endpoint.host is not None
            self._tls = _client_tls(endpoint.host, endpoint.tls)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """The endpoint to connect to."""
        where = self._endpoint
        if where.socket_path is not None:
            unix: IStreamClientEndpoint = UNIXClientEndpoint(  # type: ignore[no-untyped-call]
                self._reactor, where.socket_path, timeout=CONNECT_TIMEOUT_S
            )
            return unix
        assert where.host is not None and where.port is not None
        tcp = HostnameEndpoint(self._reactor, where.host, where.port, timeout=CONNECT_TIMEOUT_S)
        return tcp if self._tls is None else wrapClientTLS(self._tls, tcp)


def _client_tls(host: str, files: TlsFiles) -> Any:
    """Twisted's creator of TLS connections, which checks the engine's name against `host`."""
    authorities = [_wrapped(one) for one in _certificates(files.ca_cert)]
    own, *chain = _certificates(files.client_cert)
    try:
        key: PKey = load_privatekey(FILETYPE_PEM, _read(files.client_key), passphrase=b"")
    except (PemError, ValueError, TypeError) as error:
        why = f"holds no private key in PEM without a passphrase ({error})"
        raise _unusable(files.client_key, why) from None
    mine = PrivateCertificate.fromCertificateAndKeyPair(  # type: ignore[no-untyped-call]
        _wrapped(own),
        KeyPair(key),  # type: ignore[no-untyped-call]
    )
    options: dict[str, Any] = {"extraCertChain": chain} if chain else {}
    return optionsForClientTLS(
        host,
        trustRoot=trustRootFromCertificates(authorities),  # type: ignore[no-untyped-call]
        clientCertificate=mine,
        extraCertificateOptions=options or None,
    )


def _wrapped(certificate: X509) -> Certificate:
    return Certificate(certificate)  # type: ignore[no-untyped-call]


def _certificates(path: Path) -> list[X509]:
    try:
        found = [load_certificate(FILETYPE_PEM, each) for each in _PEM.findall(_read(path))]
    except (PemError, ValueError) as error:
        raise _unusable(path, f"holds a damaged certificate ({error})") from None
    if not found:
        raise _unusable(path, "holds no certificate in PEM")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"can't be read ({error.strerror})") from None


def _unusable(path: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"the TLS file {path} {why}",
        hint="give ca_cert, client_cert and client_key as `docker context` uses them",
    )
