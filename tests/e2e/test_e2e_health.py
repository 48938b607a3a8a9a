"""/health as a load balancer asks it: 200 only while every part works, else 503 naming which."""

import socket
import time
from collections.abc import Callable

from tests.e2e.harness import Daemon
from tests.raw_websocket import HANDSHAKE

MakeDaemon = Callable[..., Daemon]


def until(condition: Callable[[], bool], daemon: Daemon) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, daemon.log_text()[-3000:]
        time.sleep(0.05)


def test_every_part_is_named(daemon: Daemon) -> None:
    status, health = daemon.get("/health")
    assert status == 200
    assert health["parts"] == dict.fromkeys(
        ("platform", "store", "router", "journals", "disk", "accepting"), "ok"
    )
    assert daemon.get("/health/live")[0] == 200


def test_a_router_that_takes_no_connection_is_unhealthy_and_says_why(
    make_daemon: MakeDaemon,
) -> None:
    # One is the embedded agent's.
    daemon = make_daemon(extra="router: {max_connections: 2}\n").start()
    until(lambda: "cumulus_agents_connected 1.0" in daemon.get("/metrics")[1], daemon)
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as peer:
        peer.sendall(HANDSHAKE)
        assert b"101" in peer.recv(4096)
        status, health = daemon.get("/health")
        assert status == 503 and health["status"] == "unhealthy"
        assert "max_connections" in health["parts"].pop("router")
        assert set(health["parts"].values()) == {"ok"}
        assert daemon.get("/health/live")[0] == 200
        assert 'cumulus_part_ok{part="router"} 0.0' in daemon.get("/metrics")[1]
    until(lambda: daemon.get("/health")[0] == 200, daemon)
