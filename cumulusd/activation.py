"""Sockets that systemd listens on and hands over (socket activation): while the daemon restarts
they stay open, so that connections wait and none is refused.

A description is Twisted's: `systemd:domain=INET:index=0` or `systemd:domain=INET6:name=cumulusd`;
of TLS, `ssl:systemd=cumulusd:privateKey=…` (the name, or the index).
"""

import os
import re
import socket
from typing import Any

import attrs
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString

SCHEME = "systemd:"
DOMAINS = ("INET", "INET6", "UNIX")
#: As systemd has it for FileDescriptorName=.
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,255}")


class NotHandedOver(Exception):
    """Systemd handed over no such socket, or another kind; the message says what to do."""


@attrs.frozen(kw_only=True)
class Inherited:
    """Which of the sockets: `which` is its name, or its index in digits."""

    which: str
    domain: str | None = None  #: None: whatever it is


def parse_inherited(description: str) -> Inherited:
    """Reads a `systemd:` description. Raises ValueError."""
    given: dict[str, str] = {}
    for part in description.removeprefix(SCHEME).split(":"):
        key, equals, value = part.partition("=")
        if not equals or key not in ("domain", "index", "name"):
            raise ValueError(f"{part!r} is not known here; known: domain=, index= or name=")
        given[key] = value
    if given.get("domain") not in DOMAINS:
        raise ValueError(f"domain= must be one of {', '.join(DOMAINS)}")
    if ("index" in given) == ("name" in given):
        raise ValueError("give either index= or name=")
    if "index" in given and not given["index"].isdecimal():
        raise ValueError(f"the index is {given['index']!r}")
    which = given.get("index") or given.get("name", "")
    if "name" in given and which.isdecimal():
        raise ValueError("a name of digits only would be an index")
    return Inherited(which=checked_name(which), domain=given["domain"])


def checked_name(which: str) -> str:
    """A name or an index. Raises ValueError."""
    if not _NAME.fullmatch(which):
        raise ValueError(f"{which!r} is no name of a socket (FileDescriptorName=)")
    return which


def inherited_endpoint(reactor: Any, wanted: Inherited) -> AdoptedStreamServerEndpoint:
    """Listens on the socket that was handed over. Raises NotHandedOver."""
    key = "index" if wanted.which.isdecimal() else "name"
    try:
        # Twisted took the list from the environment, so that no child sees it; it is asked.
        found: Any = serverFromString(  # type: ignore[no-untyped-call]
            reactor, f"systemd:domain=INET:{key}={wanted.which}"
        )
    except (IndexError, KeyError):
        raise NotHandedOver(
            f"systemd handed over no socket {wanted.which}: start cumulusd.socket (`systemctl"
            " enable --now cumulusd.socket`) and then the daemon by its unit, or listen on tcp:"
        ) from None
    with socket.socket(fileno=os.dup(found.fileno)) as looked_at:
        domain = looked_at.family.name.removeprefix("AF_")
        listens = looked_at.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        family = looked_at.family
    if wanted.domain is not None and domain != wanted.domain:
        raise NotHandedOver(
            f"the socket {wanted.which} that systemd handed over is of domain {domain}, not "
            f"{wanted.domain}: write domain={domain}"
        )
    if not listens:
        raise NotHandedOver(
            f"the socket {wanted.which} that systemd handed over doesn't listen: it must be a"
            " ListenStream= with Accept=no"
        )
    endpoint: AdoptedStreamServerEndpoint = AdoptedStreamServerEndpoint(  # type: ignore[no-untyped-call]
        reactor, found.fileno, family
    )
    return endpoint
