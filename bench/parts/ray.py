"""Ray, in an environment of its own: var/bench-ray."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.parts.errors import BenchError
from tests.e2e.harness import free_port

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var/bench-ray"
REQUIREMENT = "ray[default]>=2.9"
_START_S = 180.0
_ASK_S = 120.0
_INSTALL_S = 300.0
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}


def python() -> tuple[Path | None, str]:
    """The interpreter that has Ray, installed if need be; or why there is none."""
    found = FOLDER / "bin/python"
    if not found.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True, timeout=300)
    look = [str(found), "-c", "import ray"]
    if subprocess.run(look, capture_output=True, timeout=_ASK_S).returncode:
        print(f"installing {REQUIREMENT} into {FOLDER}", file=sys.stderr)
        install = [str(found), "-m", "pip", "install", "--quiet", REQUIREMENT]
        try:
            done = subprocess.run(install, capture_output=True, text=True, timeout=_INSTALL_S)
        except subprocess.TimeoutExpired:
            return None, f"Ray was not installed within {_INSTALL_S:.0f} s"
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            return None, f"Ray can't be installed here: {said[0]}"
    return found, ""


class Node:
    """A Ray node of our own. `address` is the driver's, `dashboard` what `ray job submit` asks."""

    def __init__(self, folder: Path, python: Path, *, dashboard: bool) -> None:
        self.python = python
        self.version = ""
        self._folder = folder
        self._port, self._dashboard_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.dashboard = f"http://127.0.0.1:{self._dashboard_port}" if dashboard else ""

    def environment(self) -> dict[str, str]:
        """For whoever talks to it."""
        return {**os.environ, **_ENVIRONMENT}

    def command(self, *arguments: str) -> list[str]:
        """`ray` with these."""
        return [str(self.python.with_name("ray")), *arguments]

    def wait_up(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        """Returns when it serves. Raises BenchError."""
        deadline = time.monotonic() + _START_S
        look = self.command("status", "--address", self.address)
        if self.dashboard:
            look = self.command("job", "list", "--address", self.dashboard)
        while subprocess.run(
            look, capture_output=True, env=self.environment(), timeout=_ASK_S
        ).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"Ray did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.5)
        ask = [str(self.python), "-c", "import ray; print(ray.__version__)"]
        done = subprocess.run(ask, check=True, capture_output=True, text=True, timeout=_ASK_S)
        self.version = done.stdout.strip()

    def start(self, log: Path) -> "subprocess.Popen[bytes]":
        """Its process, a session of its own."""
        shown = (
            ["--include-dashboard=true", f"--dashboard-port={self._dashboard_port}"]
            if self.dashboard
            else ["--include-dashboard=false"]
        )
        with log.open("wb") as said:
            return subprocess.Popen(
                self.command(
                    *("start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
                    *(f"--port={self._port}", f"--temp-dir={self._folder}", *shown),
                ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,
            )


@contextlib.contextmanager
def node(python: Path, *, dashboard: bool = False) -> Iterator[Node]:
    """One that serves, and is gone afterwards. Raises BenchError."""
    # Its sockets lie below: a path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-") as name:
        made = Node(Path(name), python, dashboard=dashboard)
        log = Path(name) / "log"
        process = made.start(log)
        try:
            made.wait_up(process, log)
            yield made
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
