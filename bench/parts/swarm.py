"""The Swarm that `script/swarm` keeps, and a daemon on it."""

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.parts import bare
from bench.parts.errors import BenchError
from cumulus_client import CumulusClient
from engines.cluster import Cluster
from engines.kept import PORT
from tests.e2e.harness import Daemon

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var/swarm"
WORKERS = 2
_SCRIPT = ROOT / "script/swarm"
#: The first time the images are built.
_UP_S = 900.0
_DOWN_S = 180.0
_USABLE_S = 90.0


class KeptSwarm:
    """One that is up. Its engines are asked through `cluster`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.token = (FOLDER / "client.token").read_text().strip()

    @property
    def job_image(self) -> str:
        """The id of the image that jobs run in. Raises BenchError."""
        found = self.cluster.api().image_id("cumulus-job:latest")
        if found is None:
            raise BenchError("the Swarm's engines don't have cumulus-job:latest")
        return found

    def clear(self) -> None:
        """Removes bare services, and their files, that a module left which was killed."""
        bare.remove_all(self.cluster.api())

    def version(self) -> str:
        """Of its engines."""
        return str(self.cluster.api().call("GET", "/version")["Version"])


class KeptDaemon(Daemon):
    """`twistd -n cumulusd` on the configuration that `script/swarm` wrote."""

    def __init__(self, swarm: KeptSwarm) -> None:
        self.swarm = swarm
        self.folder = FOLDER
        self.port = PORT
        self.url = f"http://127.0.0.1:{self.port}"
        self.state_dir = FOLDER / "state"
        self.config = FOLDER / "cumulusd.yaml"
        self.log = FOLDER / "bench.log"
        self.environment = {}
        self.process = None

    def start(self, wait: bool = True) -> "KeptDaemon":
        """Returns when all workers can take jobs, and nothing is left of what a module did that was
        killed."""
        self.swarm.clear()
        super().start(wait)
        deadline = time.monotonic() + _USABLE_S
        while wait:
            workers = self.get("/api/workers")[1]["workers"]
            usable = sum(bool(worker["usable"] and worker["devices"]) for worker in workers)
            if usable >= WORKERS:
                break
            if time.monotonic() > deadline:
                raise BenchError(f"{usable} of {WORKERS} workers can be used: {workers}")
            time.sleep(0.1)
        if wait:
            self.cancel_all()
        return self

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """As there, as the client."""
        return super().get(path, token or self.swarm.token)

    def cancel_all(self) -> None:
        """Cancels whatever of ours has not ended, and waits until it has."""
        with CumulusClient(self.url, self.swarm.token) as client:
            for job in client.list_jobs(active=True):
                client.cancel_job(job["job_id"])
            deadline = time.monotonic() + 60.0
            while client.list_jobs(active=True):
                if time.monotonic() > deadline:
                    raise BenchError("jobs are not gone 60 s after they were cancelled")
                time.sleep(0.1)

    def agents(self) -> list[int]:
        """Processes of the agents."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"cumulusd.agent" in words:
                found.append(int(entry.name))
        return found


def kept() -> tuple[KeptSwarm | None, str]:
    """The one that is up; or why there is none to be used."""
    if os.geteuid() != 0:
        return None, "a Swarm needs root"
    asked = subprocess.run(
        [_SCRIPT, "status", "--json"], capture_output=True, text=True, timeout=60
    )
    if asked.returncode:
        return None, "no Swarm is up"
    status = json.loads(asked.stdout)
    if status["daemon_listens"]:
        return None, f"a daemon listens at {status['url']} already: stop it"
    cluster = Cluster.open(FOLDER / "engines")
    if cluster is None or len(cluster.workers) < WORKERS:
        return None, f"the Swarm that is up has under {WORKERS} workers"
    return KeptSwarm(cluster), ""


@contextlib.contextmanager
def held() -> Iterator[str]:
    """A Swarm is up meanwhile: that which is there, or one of our own, which then goes. Gives why
    there is none, else nothing."""
    found, why = kept()
    if found is not None or why != "no Swarm is up":
        yield why
        return
    holder = subprocess.Popen(
        [_SCRIPT, "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        yield _until_ready(holder)
    finally:
        with contextlib.suppress(BrokenPipeError):
            holder.stdin.close()
        try:
            holder.wait(_DOWN_S)
        finally:
            if holder.poll() is None:
                holder.terminate()
            holder.stdout.close()


def _until_ready(holder: "subprocess.Popen[bytes]") -> str:
    assert holder.stdout is not None
    ready, _, _ = select.select([holder.stdout], [], [], _UP_S)
    if ready and holder.stdout.readline().strip() == b"ready":
        return ""
    return "script/swarm could not make one; it said why above"
