"""Which connections others can read along."""

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import StringTransport
from zope.interface import alsoProvides

from cumulusd.peers import is_secure


def transport(peer: Any) -> StringTransport:
    return StringTransport(hostAddress=IPv4Address("TCP", "10.0.0.1", 1), peerAddress=peer)


@pytest.mark.parametrize(
    ("peer", "secure"),
    [
        (IPv4Address("TCP", "127.0.0.1", 5), True),
        (IPv4Address("TCP", "127.8.9.1", 5), True),
        (IPv4Address("TCP", "10.0.0.2", 5), False),
        (IPv4Address("TCP", "128.0.0.1", 5), False),
        (IPv6Address("TCP", "::1", 5), True),
        (IPv6Address("TCP", "::ffff:127.0.0.1", 5), True),
        (IPv6Address("TCP", "::ffff:10.0.0.2", 5), False),
        (IPv6Address("TCP", "fe80::1%eth0", 5), False),
        (UNIXAddress(None), True),
        (UNIXAddress("/run/x"), True),
    ],
)
def test_plain_connections(peer: Any, secure: bool) -> None:
    assert is_secure(transport(peer)) is secure


def test_tls_from_anywhere() -> None:
    wrapped = transport(IPv4Address("TCP", "10.0.0.2", 5))
    alsoProvides(wrapped, ISSLTransport)
    assert is_secure(wrapped)


def test_no_connection_is_not_secure() -> None:
    assert not is_secure(None)
