"""The daemon under a service manager: what that is told, and when, by systemd's protocol."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon

MakeDaemon = Callable[..., Daemon]
TIMEOUT_S = 60.0


class Manager:
    """Reads NOTIFY_SOCKET in the manager's place."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.heard: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)

    def wait(self, key: str, value: str = "1") -> dict[str, str]:
        """The next message that says so."""
        deadline = time.monotonic() + TIMEOUT_S
        while (left_s := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            data = self._socket.recv(65536).decode()
            self.heard.append(dict(line.split("=", 1) for line in data.splitlines()))
            if self.heard[-1].get(key) == value:
                return self.heard[-1]
        raise AssertionError(f"no {key}={value}: {self.heard}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def test_ready_reload_and_stop_are_told_in_order(make_daemon: MakeDaemon, manager: Manager) -> None:
    daemon = make_daemon(extra="log: {level: warn, format: text}\n")
    daemon.environment = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "900000"}
    daemon.start(wait=False)
    assert daemon.process is not None
    ready = manager.wait("READY")
    assert ready["STATUS"].startswith("Up: jobs 0 running")
    # It listens by then: nobody who waited for that is turned away.
    assert daemon.get("/health")[0] in (200, 503)
    before = manager.heard[:-1]
    assert [each["STATUS"] for each in before] == ["Starting: loading what is on disk"]
    assert all("EXTEND_TIMEOUT_USEC" in each for each in before)
    manager.wait("WATCHDOG")
    daemon.wait_healthy()

    # Only warnings so far; a reload lets it say more.
    assert " info " not in daemon.log_text()
    daemon.config.write_text(daemon.config.read_text().replace("level: warn", "level: info"))
    os.kill(daemon.process.pid, signal.SIGHUP)
    assert "MONOTONIC_USEC" in manager.wait("RELOADING")
    manager.wait("READY")
    assert "reloaded: certificates, tokens, log level\n" in daemon.log_text()

    # One that can't be used changes nothing, and the status says so.
    daemon.config.write_text(daemon.config.read_text() + "nonsense: 1\n")
    os.kill(daemon.process.pid, signal.SIGHUP)
    manager.wait("RELOADING")
    told = manager.wait("READY")["STATUS"]
    assert "NOT WELL: reload: the configuration can't be used" in told
    assert daemon.get("/health")[0] == 200

    daemon.process.send_signal(signal.SIGTERM)
    assert manager.wait("STOPPING")["STATUS"] == "Stopping"
    assert daemon.stop() == -signal.SIGTERM


def test_a_daemon_that_is_stopped_by_a_signal_feeds_no_watchdog(
    make_daemon: MakeDaemon, manager: Manager
) -> None:
    daemon = make_daemon()
    daemon.environment = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "300000"}
    daemon.start(wait=False)
    assert daemon.process is not None
    manager.wait("WATCHDOG")
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        manager._socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            for _ in range(20):  # what was on its way
                manager._socket.recv(65536)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    manager.wait("WATCHDOG")
