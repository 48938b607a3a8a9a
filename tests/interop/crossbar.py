"""Crossbar, the reference router, as a peer to compare with: for the black-box suite and the bench.

It is installed from PyPI into an environment of its own under var/, once, and runs from a folder of
its own, with one realm in which everybody may do everything.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VERSION = "26.10.1"
REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = REPOSITORY / "var/interop/crossbar"
INSTALL_TIMEOUT_S = 420.0
START_TIMEOUT_S = 90.0
#: As the daemon's own default, so that both can be asked the same.
MAX_MESSAGE_BYTES = 2 * 1024 * 1024


class NoCrossbar(Exception):
    """It could not be installed."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def make_environment(folder: Path, requirement: str, timeout_s: float) -> Path:
    """An environment with this one package and what it needs; its Python. Quick when it is there.

    Raises subprocess.SubprocessError when it can't be made within `timeout_s`.
    """
    python = folder / "bin/python"
    stamp = folder / ".cumulus-setup"
    wanted = f"{requirement}\n{sys.version}\n{folder}\n"
    with locked(folder.with_suffix(".lock")):
        if stamp.exists() and stamp.read_text() == wanted and python.exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        uv = Path(sys.executable).with_name("uv")
        environment = dict(os.environ)
        if "PIP_CERT" in environment:  # uv reads its own variables only
            environment.setdefault("SSL_CERT_FILE", environment["PIP_CERT"])
        if uv.exists():
            make = [str(uv), "venv", "--quiet", "--python", sys.executable, str(folder)]
            install = [str(uv), "pip", "install", "--quiet", "--python", str(python), requirement]
        else:
            make = [sys.executable, "-m", "venv", str(folder)]
            install = [str(python), "-m", "pip", "install", "--quiet", requirement]
        ends = time.monotonic() + timeout_s
        for step in (make, install):
            subprocess.run(
                step,
                check=True,
                capture_output=True,
                env=environment,
                timeout=max(1.0, ends - time.monotonic()),
            )
        stamp.write_text(wanted)
    return python


def install() -> Path:
    """The command `crossbar`. Raises NoCrossbar, saying why."""
    try:
        python = make_environment(ENVIRONMENT, f"crossbar=={VERSION}", INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        raise NoCrossbar(error.stderr.decode(errors="replace")[-2000:]) from error
    except subprocess.TimeoutExpired as error:
        raise NoCrossbar(f"not installed within {INSTALL_TIMEOUT_S:g} s") from error
    return python.with_name("crossbar")


def config(port: int, realm: str, tickets: Mapping[str, str]) -> dict[str, Any]:
    """A node with one router: anonymous at /ws, by ticket (authid -> ticket) at /tickets."""
    websocket: dict[str, Any] = {
        "type": "websocket",
        "serializers": ["cbor", "msgpack", "json"],
        "options": {"max_message_size": MAX_MESSAGE_BYTES, "fail_by_drop": False},
    }
    everything = {
        "uri": "",
        "match": "prefix",
        "allow": dict.fromkeys(("call", "register", "publish", "subscribe"), True),
        "disclose": {"caller": False, "publisher": False},
        "cache": True,
    }
    principals = {name: {"ticket": ticket, "role": "everybody"} for name, ticket in tickets.items()}
    return {
        "version": 2,
        "controller": {},
        "workers": [
            {
                "type": "router",
                "realms": [
                    {
                        "name": realm,
                        "roles": [{"name": "everybody", "permissions": [everything]}],
                    }
                ],
                "transports": [
                    {
                        "type": "web",
                        "endpoint": {
                            "type": "tcp",
                            "port": port,
                            "interface": "127.0.0.1",
                            "backlog": 1024,
                        },
                        "paths": {
                            "/": {"type": "json", "value": {}},
                            "ws": {
                                **websocket,
                                "auth": {"anonymous": {"type": "static", "role": "everybody"}},
                            },
                            "tickets": {
                                **websocket,
                                "auth": {"ticket": {"type": "static", "principals": principals}},
                            },
                        },
                    }
                ],
            }
        ],
    }


class Crossbar:
    """One Crossbar node on a loopback port of its own, with its state under `folder`."""

    def __init__(
        self, folder: Path, *, realm: str = "cumulus", tickets: Mapping[str, str] | None = None
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"ws://127.0.0.1:{self.port}/ws"
        self.tickets_url = f"ws://127.0.0.1:{self.port}/tickets"
        self.log = folder / "crossbar.log"
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config(self.port, realm, tickets or {})))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Crossbar":
        """Returns when it takes connections. Raises NoCrossbar when it can't be installed."""
        command = install()
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [str(command), "start", "--cbdir", str(self._folder), "--loglevel", "warn"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                # Nothing of this environment's is its.
                env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"Crossbar ended: {self.log_text()}")
            if self._serves("ws") and self._serves("tickets"):
                return self
            time.sleep(0.1)
        self.stop()
        raise AssertionError(f"Crossbar not up in {START_TIMEOUT_S:g} s: {self.log_text()}")

    def _serves(self, path: str) -> bool:
        """The port is open before its paths are there."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5.0) as probe:
                probe.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                return b" 404 " not in probe.recv(64)
        except OSError:
            return False

    @property
    def router_pid(self) -> int:
        """The process that routes (a worker of the node's controller): whose CPU time counts."""
        assert self._process is not None
        controller = self._process.pid
        text = Path(f"/proc/{controller}/task/{controller}/children").read_text()
        for pid in map(int, text.split()):
            if b"crossbar" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError(f"Crossbar has no router process: {self.log_text()}")

    def stop(self) -> None:
        """Ends it with all its processes."""
        if self._process is None:
            return
        group, self._process = self._process, None
        group.send_signal(signal.SIGTERM)
        try:
            group.wait(15.0)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(group.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        group.wait(10.0)

    def log_text(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace")[-4000:]
