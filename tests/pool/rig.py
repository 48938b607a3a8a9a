"""A real daemon with its simulated pool: engine and agents in a process each."""

import contextlib
import hashlib
import json
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.e2e.harness import REPOSITORY, Daemon
from tests.pool.history import make_history

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class PoolDaemon(Daemon):
    """`twistd -n cumulusd` on the pool's engine. `token`: an admin's."""

    def __init__(self, folder: Path) -> None:
        self.stand_in(folder)
        self.token = secrets.token_urlsafe(32)
        config = {
            "listen": [f"tcp:{self.port}:interface=127.0.0.1"],
            "state_dir": "state",
            "allow_plain_tokens": True,
            "platform": {
                "type": "swarm",
                "swarm": {
                    "endpoint": f"unix://{folder}/engine.sock",
                    "agent_image": "cumulus-agent:latest",
                    "advertise_url": f"ws://127.0.0.1:{self.port}",
                    "worker_root": "/var/lib/cumulus",
                },
            },
            "jobs": {
                "image": "cumulus-job:latest",
                "max_queued": 1_000_000,
                "max_queued_per_owner": 1_000_000,
            },
            "tokens": [
                {
                    "name": "bench",
                    "owner": "bench",
                    "role": "admin",
                    "token_sha256": hashlib.sha256(self.token.encode()).hexdigest(),
                }
            ],
        }
        self.config.write_text(json.dumps(config))

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """As there, as the admin."""
        return super().get(path, token or self.token)

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics, by name with labels."""
        status, text = self.get("/metrics")
        if status != 200:
            raise AssertionError(f"/metrics: {status} {text}")
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


@attrs.frozen(kw_only=True)
class Used:
    """What a process has used so far, all threads, and what it holds."""

    at: float
    cpu_s: float
    rss_bytes: int
    written_bytes: int  #: by write calls to files
    read_bytes: int

    @classmethod
    def of(cls, pid: int) -> "Used":
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return cls(
            at=time.monotonic(),
            cpu_s=(int(stat[11]) + int(stat[12])) / _TICKS_PER_S,
            rss_bytes=int(stat[21]) * resource.getpagesize(),
            written_bytes=int(io["wchar"]),
            read_bytes=int(io["rchar"]),
        )


class Pool:
    """One daemon and its pool; `running` makes and ends it."""

    def __init__(self, folder: Path, workers: int, devices: int) -> None:
        self.folder = folder
        self.workers = workers
        self.devices = devices
        self.daemon = PoolDaemon(folder)
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, ready_s: float, starts: int) -> list[float]:
        """Starts all three, the daemon `starts` times, the agents before the last of these; how
        many seconds it took each time until it answered. Returns once all agents are there, within
        `ready_s`."""
        self._spawn("engine", str(self.folder), str(self.workers), str(self.devices))
        _wait_for(self.folder / "engine.sock")
        took_s = []
        for left in reversed(range(starts)):
            if left == 0:
                self._spawn("agents", str(self.folder), str(self.daemon.port), str(self.devices))
            begun = time.monotonic()
            self.daemon.start(wait=False)
            self._wait_for_answer(ready_s)
            took_s.append(time.monotonic() - begun)
            if left:
                self.daemon.stop()
        self.daemon.wait_healthy(timeout_s=ready_s)
        deadline = time.monotonic() + ready_s
        while self.present() < self.workers:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.present()} of {self.workers} agents: {self.daemon.log_text()[-3000:]}"
                )
            time.sleep(0.2)
        return took_s

    def present(self) -> int:
        """How many agents the daemon knows."""
        return int(self.daemon.metrics().get("cumulus_agents_connected", 0))

    def used(self) -> Used:
        """By the daemon."""
        assert self.daemon.process is not None
        return Used.of(self.daemon.process.pid)

    def engine_requests(self) -> tuple[Mapping[str, int], int]:
        """(requests by kind so far, bytes of JSON in their answers)."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(60)
            control.connect(str(self.folder / "pool.sock"))
            control.sendall(b'{"t": "count"}\n')
            with control.makefile("rb") as lines:
                for line in lines:
                    told = json.loads(line)
                    if told["t"] == "count":
                        return told["requests"], told["bytes"]
        raise AssertionError("the engine has ended")

    def stop(self) -> None:
        """Ends all three."""
        try:
            self.daemon.stop()
        finally:
            for process in reversed(self._started):
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(20)

    def _wait_for_answer(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.daemon.get("/health/live")
                return
            except OSError:
                process = self.daemon.process
                if time.monotonic() > deadline or process is None or process.poll() is not None:
                    raise AssertionError(self.daemon.log_text()[-3000:]) from None
            time.sleep(0.02)

    def _spawn(self, what: str, *arguments: str) -> None:
        with open(self.folder / f"{what}.log", "ab") as log:
            self._started.append(
                subprocess.Popen(
                    [sys.executable, "-m", f"tests.pool.{what}", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=REPOSITORY,
                )
            )


@contextlib.contextmanager
def running(
    workers: int, devices: int, history: int, *, ready_s: float = 300.0, starts: int = 1
) -> Iterator[tuple[Pool, list[float]]]:
    """A pool with that many jobs of history, and as `Pool.start` how long the daemon took."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Short: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="cumulus-pool-"))
    pool = Pool(folder, workers, devices)
    try:
        if history:
            make_history(pool.daemon.state_dir, history, time.time())
        yield pool, pool.start(ready_s, starts)
    finally:
        pool.stop()
        shutil.rmtree(folder)


def _wait_for(path: Path, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise AssertionError(f"no {path} after {timeout_s:g} s")
        time.sleep(0.02)
