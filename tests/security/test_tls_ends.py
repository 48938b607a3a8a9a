"""Connections over TLS whose peers never answer its end: none stays."""

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from tests.security.authority import Authority
from tests.security.daemons import GuardedDaemon, request, upgrade
from tests.security.test_tls import listener, trusting

LISTENS = "0A"
MakeGuarded = Callable[..., GuardedDaemon]


def connections(port: int) -> int:
    """How many that port's process has open; what only the kernel still knows has no inode."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    found = [line.split() for line in lines]
    local = f":{port:04X}"
    return sum(f[1].endswith(local) and f[3] != LISTENS and f[9] != "0" for f in found)


def test_nobody_keeps_what_the_daemon_has_ended(
    make_guarded: MakeGuarded, authority: Authority, tmp_path: Path
) -> None:
    daemon = make_guarded(listener(tmp_path / "tls", authority.issue("daemon"))).start()
    context = trusting(authority)
    asked = [
        request("GET", "/live", host="127.0.0.1"),
        request("POST", "/api/jobs", b"x", host="127.0.0.1"),
        upgrade("/ws", host="127.0.0.1").replace(b"wamp.2.json", b"telnet"),
        upgrade("/agent", host="127.0.0.1"),
    ]
    held: list[ssl.SSLSocket] = []
    try:
        for each in asked:
            plain = socket.create_connection(("127.0.0.1", daemon.second_port), timeout=20)
            held.append(context.wrap_socket(plain, server_hostname="127.0.0.1"))
            held[-1].sendall(each)
            assert held[-1].recv(1).startswith(b"H"), "it is answered"
        assert connections(daemon.second_port) > 0
        deadline = time.monotonic() + 60
        while connections(daemon.second_port):
            assert time.monotonic() < deadline, daemon.log_text()[-3000:]
            time.sleep(0.2)
    finally:
        for each_held in held:
            each_held.close()
