"""Where the daemon listens: free, held by it, or taken by somebody else. Blocking, bounded."""

import errno
import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import attrs

from cumulusd.config import Config
from cumulusd.doctor.finding import Finding, fault, not_known, ok
from cumulusd.tls import SCHEME, parse_listener

CONNECT_TIMEOUT_S = 3.0
_MAX_ANSWER_BYTES = 1 << 20
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@attrs.frozen(kw_only=True)
class Listener:
    """A description, read. `interface` is empty for all of them."""

    interface: str
    port: int
    secure: bool

    @property
    def name(self) -> str:
        """In words."""
        host = f"[{self.interface}]" if ":" in self.interface else self.interface or "*"
        return f"{host}:{self.port}"

    @property
    def dialled(self) -> tuple[str, int]:
        """Where this machine finds it."""
        return _ANY.get(self.interface, self.interface), self.port


def read(description: str) -> Listener | None:
    """None for what has no port of its own here: a unix socket, systemd's, a plugin's."""
    if description.startswith(SCHEME):
        found = parse_listener(description, Path("/"))
        return Listener(interface=found.interface, port=found.port, secure=True)
    kind, *parts = re.split(r"(?<!\\):", description)
    if kind not in ("tcp", "tcp6"):
        return None
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    plain = [part for part in parts if "=" not in part]
    port = named.get("port", plain[0] if plain else "")
    interface = named.get("interface", plain[1] if plain[1:] else "").replace("\\", "")
    if not port.isdecimal():
        return None
    return Listener(
        interface=interface or ("::" if kind == "tcp6" else ""), port=int(port), secure=False
    )


def examine(config: Config, running: bool | None) -> Iterator[Finding]:
    """`running`: a daemon with this configuration; None: that isn't known."""
    for description in config.listen:
        listener = read(description)
        if listener is None or listener.port == 0:
            yield not_known("listener", f"{description}: can't be tried from here")
        else:
            yield _tried(listener, running)


def _tried(listener: Listener, running: bool | None) -> Finding:
    try:
        _bind(listener)
    except PermissionError:
        if running or is_cumulus(listener):
            return ok("listener", f"{listener.name} is held by the running daemon")
        return fault(
            "listener",
            f"{listener.name} may not be listened on by this user: ports below 1024 are root's",
            "take another port, or let systemd listen (cumulusd.socket, AmbientCapabilities=)",
        )
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return fault(
                "listener",
                f"{listener.interface} is no address of this machine",
                "name one that it has (ip address), or none to listen on all",
            )
        if error.errno != errno.EADDRINUSE:
            return fault(
                "listener", f"{listener.name} can't be listened on: {error.strerror}", None
            )
        return _in_use(listener, running)
    if running:
        return fault(
            "listener",
            f"{listener.name} is free: the running daemon doesn't listen there",
            "was `listen` changed? It counts from the daemon's next start",
        )
    return ok("listener", f"{listener.name} is free")


def _in_use(listener: Listener, running: bool | None) -> Finding:
    answers = is_cumulus(listener)
    if answers and running is not False:
        return ok("listener", f"{listener.name} is held by the running daemon")
    if answers:
        return fault(
            "listener",
            f"{listener.name} is held by another Cumulus daemon, not the one of this configuration",
            "stop that one (ss -ltnp shows its process), or listen elsewhere",
        )
    return fault(
        "listener",
        f"{listener.name} is in use, and what answers there is no Cumulus daemon",
        "see what it is (ss -ltnp), stop it, or listen elsewhere",
    )


def is_cumulus(listener: Listener) -> bool:
    """Does a Cumulus daemon answer there? What certificate it has doesn't matter here."""
    host, port = listener.dialled
    connection: http.client.HTTPConnection
    if listener.secure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, port, timeout=CONNECT_TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
    try:
        connection.request("GET", "/health", headers={"Host": f"localhost:{port}"})
        with connection.getresponse() as response:
            said = json.loads(response.read(_MAX_ANSWER_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return isinstance(said, dict) and "status" in said and "parts" in said


def _bind(listener: Listener) -> None:
    """Raises OSError when it can't be listened on. Nothing is ever accepted."""
    family = socket.AF_INET6 if ":" in listener.interface else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((listener.interface, listener.port))
