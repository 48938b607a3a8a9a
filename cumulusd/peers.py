"""Where a connection comes from, and whether others could read along. Pure."""

import ipaddress
from typing import Any

from twisted.internet.interfaces import ISSLTransport

#: Why a token isn't taken over a connection that is not secure, and what to do.
PLAIN_TOKEN = (
    "tokens are not taken over an unencrypted connection, on which others can read them: use "
    "https:// or wss:// (listen on an ssl: endpoint), or a TLS proxy or tunnel on the daemon's "
    "machine; on a network that is trusted the daemon's operator may set `allow_plain_tokens: true`"
)


def is_secure(transport: Any) -> bool:
    """Does nobody on a network see what goes over this connection?

    True for TLS, and for what doesn't leave this machine: unix sockets and loopback. False also
    where it can't be told.
    """
    if ISSLTransport.providedBy(transport):
        return True
    try:
        peer = transport.getPeer()
    except AttributeError:  # no connection any more
        return False
    if type(peer).__name__ == "UNIXAddress":
        return True
    return is_loopback_address(getattr(peer, "host", None))


def is_loopback_address(text: Any) -> bool:
    """Is that IP address one of this machine's own, 127.0.0.0/8 or ::1?"""
    if not isinstance(text, str):
        return False
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
