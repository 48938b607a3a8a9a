"""A real daemon on a real Swarm, with the face of the local harness: the same tests run on both."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.cluster import Cluster
from engines.kept import configuration
from tests.e2e.harness import Daemon

TOKENS = {role: f"a-token-of-the-{role}-of-these-tests" for role in ("client", "admin")}
#: The token of another owner's client.
STRANGER = "a-token-of-somebody-else-altogether"


class SwarmDaemon(Daemon):
    """`twistd -n cumulusd` for a cluster; users' scripts get the client's token."""

    def __init__(
        self, folder: Path, cluster: Cluster, images: Mapping[str, str], *, enroll: bool = True
    ) -> None:
        """`images`: tag -> id. By their ids, as other tests of the session move the tags."""
        self.cluster = cluster
        self.stand_in(folder)
        hashes = {
            role: hashlib.sha256(token.encode()).hexdigest() for role, token in TOKENS.items()
        }
        config = configuration(cluster.layout, hashes, os.environ, self.port)
        config["jobs"]["image"] = images["cumulus-job:latest"]
        config["platform"]["swarm"]["agent_image"] = images["cumulus-agent:latest"]
        if not enroll:
            config["platform"]["swarm"]["enroll"] = []
        stranger = hashlib.sha256(STRANGER.encode()).hexdigest()
        config["tokens"].append(
            {"name": "bob", "owner": "bob", "role": "client", "token_sha256": stranger}
        )
        self.config.write_text(json.dumps(config))

    def script(self, text: str, name: str = "user_script.py") -> Path:
        """As there; the client in it has its token."""
        with_token = f'CumulusClient("{self.url}", "{TOKENS["client"]}")'
        return super().script(text.replace('CumulusClient("{URL}")', with_token), name)

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """As there, as the client."""
        return super().get(path, token or TOKENS["client"])

    # -- what is left of jobs

    def services(self) -> list[str]:
        """Names of the jobs' services."""
        named = [s["Spec"]["Name"] for s in self.cluster.api().call("GET", "/services")]
        return [name for name in named if name.startswith("cumulus-job-")]

    def containers(self) -> list[str]:
        """Names of the jobs' containers on all nodes, those that have ended too."""
        found = []
        for node in self.cluster.layout.nodes:
            api = self.cluster.api(node)
            if api.is_up():
                for container in api.call("GET", "/containers/json", query={"all": "1"}):
                    found += [f"{node.name}{name}" for name in container["Names"]]
        return [name for name in found if "cumulus-job-" in name]

    def folders(self, kind: str = "jobs") -> list[Path]:
        """Job folders on all workers; or those of their `grants`, or what they `kept`."""
        roots = [self.cluster.layout.worker_root(node) for node in self.cluster.layout.workers]
        return [path for root in roots for path in (root / kind).glob("job_*")]

    def partitions(self) -> dict[str, list[dict[str, Any]]]:
        """Worker's name -> the partitions in its agent's ledger."""
        found = {}
        for node in self.cluster.layout.workers:
            ledger = self.cluster.layout.worker_root(node) / "ledger.json"
            text = ledger.read_text() if ledger.exists() else "{}"
            found[node.name] = list(json.loads(text).get("partitions", []))
        return found

    def reserved_units(self) -> dict[str, int]:
        """Worker's name -> the units that Swarm has reserved there for tasks not yet over."""
        api = self.cluster.api()
        names = {n["ID"]: n["Description"]["Hostname"] for n in api.call("GET", "/nodes")}
        units = {node.name: 0 for node in self.cluster.layout.workers}
        over = {"complete", "failed", "shutdown", "rejected", "remove", "orphaned"}
        for task in api.call("GET", "/tasks"):
            if task["Status"]["State"] in over or "NodeID" not in task:
                continue
            for resource in (
                task["Spec"]
                .get("Resources", {})
                .get("Reservations", {})
                .get("GenericResources", [])
            ):
                discrete = resource["DiscreteResourceSpec"]
                if discrete["Kind"] == "cumulus_gpu0":
                    units[names[task["NodeID"]]] += int(discrete["Value"])
        return units

    def leftovers(self) -> list[str]:
        """Services, containers, folders and partitions of jobs, wherever they are."""
        left = [f"service {name}" for name in self.services()]
        left += [f"container {name}" for name in self.containers()]
        left += [f"folder {path}" for path in (*self.folders(), *self.folders("grants"))]
        left += [f"kept folder {path}" for path in self.folders("kept")]
        for worker, partitions in self.partitions().items():
            left += [f"partition on {worker}: {partition}" for partition in partitions]
        return left

    def wait_usable(self, workers: int = 2, timeout_s: float = 60.0) -> None:
        """Returns once so many workers have their agent and a device."""
        deadline = time.monotonic() + timeout_s
        while True:
            text = super().get("/metrics", TOKENS["admin"])[1]
            if f'cumulus_workers{{state="ready"}} {float(workers)}' in text:
                return
            assert time.monotonic() < deadline, text + self.log_text()[-4000:]
            time.sleep(0.1)


@contextmanager
def on_cluster(made: SwarmDaemon, workers: int = 2) -> Iterator[SwarmDaemon]:
    """Started and usable; in the end stopped, and nothing of it left on the cluster."""
    try:
        made.start()
        made.wait_usable(workers)
        yield made
    finally:
        try:
            made.stop()
        finally:
            clear_cluster(made.cluster)


def clear_cluster(cluster: Cluster) -> None:
    """Takes all daemons' services, secrets and labels off, and waits until no agent runs: the next
    daemon is another instance, and would leave the nodes to this one."""
    api = cluster.api()
    for kind in ("services", "secrets"):
        for each in api.call("GET", f"/{kind}") or ():
            if "cumulus.instance" in each["Spec"].get("Labels", {}):
                api.call("DELETE", f"/{kind}/{each['ID']}")
    for node in cluster.layout.nodes:
        cluster.update_node(node.name, Labels={"cumulus.worker": None, "cumulus.instance": None})
    deadline = time.monotonic() + 60.0
    while any(_agents_running(cluster, node.name) for node in cluster.layout.nodes):
        assert time.monotonic() < deadline, "agents run on after their services are gone"
        time.sleep(0.2)


def _agents_running(cluster: Cluster, name: str) -> bool:
    query = {"filters": json.dumps({"label": ["cumulus.agent"]})}
    return bool(cluster.api(name).call("GET", "/containers/json", query=query))


def processes_with(words: str) -> list[int]:
    """Processes of this machine, those in containers too, whose command line holds `words`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if words.encode() in command:
                found.append(int(entry.name))
    return found
