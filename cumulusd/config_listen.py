"""What the configuration's `listen` says: can it be listened on, and who gets in there?"""

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

from twisted.internet import endpoints

from cumulusd import activation, tls


def read_endpoint(description: str, folder: Path) -> str:
    """The description with absolute paths. Raises ValueError that says what is wrong with it."""
    if description.startswith(tls.SCHEME):
        try:
            listener = tls.parse_listener(description, folder)
            tls.load_certificate(listener)
        except tls.TlsUnusable as error:
            raise ValueError(f"{description!r} can't be listened on: {error}") from None
        return listener.description
    if is_inherited(description):
        try:
            activation.parse_inherited(description)
        except ValueError as error:
            raise ValueError(f"{description!r} is no endpoint: {error}") from None
        return description
    try:
        # Making an endpoint only reads the description: no reactor yet.
        endpoints.serverFromString(object(), description)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ValueError(
            f"{description!r} is no endpoint ({type(error).__name__}: {error}); "
            "for example tcp:50051:interface=127.0.0.1"
        ) from None
    return description


def open_to_others(listen: Sequence[str]) -> str | None:
    """What is wrong with listening there without tokens; None when only this machine gets in."""
    for description in listen:
        if not is_loopback(description):
            if is_inherited(description):
                return (
                    f"{description!r} is listened on by systemd, so it can't be told whether other "
                    "machines reach it, and there are no tokens: configure tokens, or listen on "
                    "127.0.0.1 until `cumulusd token create` has made the first"
                )
            return (
                f"{description!r} can be reached from other machines, and there "
                "are no tokens: configure tokens, or listen on 127.0.0.1 until "
                "`cumulusd token create` has made the first"
            )
    return None


def is_inherited(description: str) -> bool:
    """Does systemd listen there, and not the daemon itself?"""
    return description.startswith(activation.SCHEME)


def is_loopback(description: str) -> bool:
    """Can this endpoint be reached from this machine only? False also when it can't be told."""
    parts = re.split(r"(?<!\\):", description)
    kind, named, positional = parts[0], {}, []
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        if equals:
            named[key] = value.replace("\\", "")
        else:
            positional.append(part.replace("\\", ""))
    if kind == "unix":
        return True
    if kind not in ("tcp", "ssl"):
        # tcp6, systemd, haproxy, a plugin's: told only where the interface is named outright.
        return kind == "tcp6" and _is_loopback_address(named.get("interface", ""))
    interface = named.get("interface", positional[1] if kind == "tcp" and positional[1:] else "")
    return _is_loopback_address(interface)


def _is_loopback_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
