"""Ray, in an environment of its own: var/bench-ray."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.parts.errors import BenchError
from bench.parts.leftovers import end_below
from bench.parts.peer_python import installed, version_of
from tests.e2e.harness import free_port

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var/bench-ray"
REQUIREMENT = "ray[default]>=2.9"
_START_S = 180.0
_ASK_S = 120.0
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}


def python() -> tuple[Path | None, str]:
    """The interpreter that has Ray, installed if need be; or why there is none."""
    try:
        return installed(FOLDER, REQUIREMENT), ""
    except BenchError as error:
        return None, str(error)


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
        self.version = version_of(self.python, "ray")

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
            # It would take half a minute to end by itself, and leave workers for a while.
            end_below(process.pid)
            process.kill()
            process.wait(30)
