"""Daemons as the tests of security need them: with tokens, with TLS, reached from outside."""

import hashlib
import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from tests.e2e.harness import JOB_PYTHON, Daemon, free_port

#: Of a client, an admin and a viewer; long enough for a configuration.
TOKENS = {role: f"{role}-token-" + "0123456789" * 3 for role in ("client", "admin", "viewer")}


class GuardedDaemon(Daemon):
    """A daemon with `TOKENS`, listening plainly on loopback and on what else is named.

    `{port}` in a description is this daemon's own second port.
    """

    def __init__(self, folder: Path, *listen: str, extra: str = "", plain: bool = True) -> None:
        super().__init__(folder)
        self.second_port = free_port()
        loopback = [f"tcp:{self.port}:interface=127.0.0.1"] if plain else []
        self.settings: dict[str, Any] = {
            "listen": loopback + [one.replace("{port}", str(self.second_port)) for one in listen],
            "state_dir": "state",
            "platform": {
                "type": "local",
                "local": {"python": str(JOB_PYTHON), "count_cpu_devices": True},
            },
            "tokens": [
                {
                    "name": f"{role}-1",
                    "owner": role,
                    "role": role,
                    "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
                }
                for role, token in TOKENS.items()
            ],
        }
        self.extra = extra
        self.write()

    def write(self) -> None:
        """The configuration, as the settings are now. JSON is YAML too."""
        lines = [f"{key}: {json.dumps(value)}" for key, value in self.settings.items()]
        self.config.write_text("\n".join([*lines, self.extra]))

    def metric(self, name: str) -> list[float]:
        """The values of that metric."""
        text = self.get("/metrics", TOKENS["admin"])[1]
        found = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return [float(line.rpartition(" ")[2]) for line in found]


def outside_address() -> str | None:
    """An address of this machine's that isn't loopback; None: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks for the route
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def raw(
    host: str, port: int, request: bytes, context: ssl.SSLContext | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of what is answered to these bytes; status 0: nothing.

    The request should ask for the connection to be closed.
    """
    with socket.create_connection((host, port), timeout=20) as plain:
        there = plain if context is None else context.wrap_socket(plain, server_hostname=host)
        there.sendall(request)
        data = b""
        while True:
            try:
                piece = there.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            data += piece
            if b"\r\n\r\n" in data and data.startswith(b"HTTP/1.1 101"):
                break
        if context is not None:
            there.close()
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0].startswith("HTTP/"):
        return 0, {}, data
    pairs = (line.partition(":") for line in lines[1:])
    return int(lines[0].split()[1]), {n.strip().lower(): v.strip() for n, _, v in pairs}, body


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request's bytes. In the headers' names `_` is `-`; without `host`, none is sent."""
    lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or method in ("POST", "PUT", "DELETE"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def upgrade(path: str = "/ws", **headers: str) -> bytes:
    """The opening handshake of a WebSocket."""
    lines = [f"GET {path} HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    lines.append("Sec-WebSocket-Protocol: wamp.2.json")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def bearer(role: str) -> str:
    """The header `Authorization` of that role's token."""
    return f"Bearer {TOKENS[role]}"


def pid_of(daemon: Daemon) -> int:
    """Its process."""
    assert daemon.process is not None
    return daemon.process.pid


def hang_up(daemon: Daemon) -> None:
    """SIGHUP."""
    os.kill(pid_of(daemon), 1)
