"""The routers that are measured, each a process: started, watched, and ended here."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.parts.errors import BenchError
from bench.parts.peer_python import installed, version_of
from bench.routing.peers import Codec, Loop, Peer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var/bench-crossbar"
CROSSBAR = "crossbar>=26,<27"
START_S = 120.0
_OPEN_FILES = 16_384


class Server:
    """One router. `pid` is the process whose CPU time and memory count."""

    name = ""

    def __init__(self) -> None:
        self.port = free_port()
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log = FOLDER / f"{self.name}-{self.port}.log"

    def start(self) -> None:
        """Returns when it serves."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder(),
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_raise_open_files,
            )
        deadline = time.monotonic() + START_S
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BenchError(f"{self.name} did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)
        self.pid = self.measured_pid(self._process.pid)

    def stop(self) -> None:
        """Ends it, and what it started."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            for pid in [*children(process.pid), process.pid]:
                os.kill(pid, 9)
            process.wait()

    def cpu_s(self) -> float:
        """CPU time so far, of all threads that live, in user and kernel.

        From schedstat, in ns; the kernel's `stat` has the same sum in ticks of 10 ms.
        """
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def rss_bytes(self) -> int:
        """Memory that it has now."""
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        """The most that it had since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
        raise BenchError(f"no {key} of process {self.pid}")

    def _serves(self) -> bool:
        try:
            loop = Loop()
            peer = Peer(loop, self.port, Codec("json"))
        except (OSError, BenchError):
            return False
        try:
            peer.ask(48, {}, "bench.echo", [], {"n": 1})
        except BenchError:
            return False
        finally:
            peer.close()
        return True

    # What differs

    def command(self) -> list[str]:
        raise NotImplementedError

    def folder(self) -> Path:
        return ROOT

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def measured_pid(self, pid: int) -> int:
        return pid


class Cumulusd(Server):
    """The daemon's router and transport in one process, open to all (tests/interop)."""

    name = "cumulusd"

    def command(self) -> list[str]:
        # The rate is judged for every message, but no client of this one reaches it.
        rate = ["--messages-per-s", "1000000000"]
        module = "tests.interop.open_router"
        return [sys.executable, "-m", module, "--port", str(self.port), *rate]


class Crossbar(Server):
    """Crossbar with one router worker, which alone is measured; its controller idles."""

    name = "crossbar"

    def folder(self) -> Path:
        return FOLDER / f"node-{self.port}"

    def command(self) -> list[str]:
        node = self.folder()
        node.mkdir(parents=True, exist_ok=True)
        (node / "config.json").write_text(json.dumps(_config(self.port), indent=1))
        return [str(FOLDER / "venv/bin/crossbar"), "start", "--cbdir", str(node), "--loglevel=warn"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    def measured_pid(self, pid: int) -> int:
        workers = children(pid)
        if len(workers) != 1:
            raise BenchError(f"Crossbar has {len(workers)} workers, not 1")
        return workers[0]


def install_crossbar() -> str:
    """Crossbar in an environment of its own, from PyPI; its version. Raises BenchError."""
    return version_of(installed(FOLDER / "venv", CROSSBAR), "crossbar")


def children(pid: int) -> list[int]:
    """Processes that a process started and that still are."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _raise_open_files() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard), hard))


def _config(port: int) -> dict[str, Any]:
    everything = {"call": True, "register": True, "publish": True, "subscribe": True}
    nothing = {"caller": False, "publisher": False}
    permission = {
        "uri": "",
        "match": "prefix",
        "allow": everything,
        "disclose": nothing,
        "cache": True,
    }
    return {
        "version": 2,
        "workers": [
            {
                "type": "router",
                "options": {"pythonpath": [str(Path(__file__).parent)]},
                "realms": [
                    {
                        "name": "cumulus",
                        "roles": [{"name": "anonymous", "permissions": [permission]}],
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
                                "type": "websocket",
                                "serializers": ["cbor", "msgpack", "json"],
                                "auth": {"anonymous": {"type": "static", "role": "anonymous"}},
                            },
                        },
                    }
                ],
                "components": [
                    {
                        "type": "class",
                        "classname": "crossbar_component.Bench",
                        "realm": "cumulus",
                        "role": "anonymous",
                    }
                ],
            }
        ],
    }
