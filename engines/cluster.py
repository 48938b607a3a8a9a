"""A cluster as its maker and its users hold it: create, open, form the Swarm, down."""

import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engines import host, network, sweep
from engines.commands import ToolError, run
from engines.docker_api import DockerApi, DockerError
from engines.layout import TAG_PREFIX, Layout, NodeLayout, plan

__all__ = ["Cluster", "ClusterError"]

GUARDIAN_TIMEOUT_S = 60.0
CONTROL_TIMEOUT_S = 60.0
ENGINE_TIMEOUT_S = 60.0
SWARM_TIMEOUT_S = 60.0
DOWN_TIMEOUT_S = 300.0
_ROOT = Path(__file__).resolve().parents[1]


class ClusterError(Exception):
    """The cluster couldn't be made, or doesn't do what it was asked."""


class Cluster:
    """One cluster. Made by `create`, found again by `open`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._owner: socket.socket | None = None

    # --- making and finding ---------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        base: Path,
        *,
        nodes: int = 3,
        workers: int = 2,
        owned: bool = True,
        tree: Path | None = None,
    ) -> "Cluster":
        """Engines up and joined as a Swarm. With `owned` it ends with this process at the latest.

        `base` must not exist. `tree`: the file system to run the engines in (`release.make_tree`),
        without it this machine's. ClusterError when it can't be made; then nothing is left of it.
        """
        if os.geteuid() != 0:
            raise ClusterError("making engines and network namespaces needs root")
        if base.exists():
            raise ClusterError(f"{base} exists; a cluster needs a folder of its own")
        sweep.sweep_dead()
        cluster = cls._launch(base, nodes, workers, owned, tree)
        try:
            if owned:
                cluster._owner = cluster._connect()
                cluster._ask(cluster._owner, {"do": "own"})
            cluster._form_swarm()
        except (DockerError, ClusterError, ToolError) as error:
            words = cluster._last_words()
            cluster.down()
            raise ClusterError(f"no cluster: {error}{words}") from error
        except BaseException:
            cluster.down()
            raise
        return cluster

    @classmethod
    def _launch(
        cls, base: Path, nodes: int, workers: int, owned: bool, tree: Path | None
    ) -> "Cluster":
        rng = random.SystemRandom()
        with host.alone():  # two makers must not choose the same subnet
            subnet = network.choose_subnet(network.taken_networks(), rng)
        layout = plan(
            TAG_PREFIX + secrets.token_hex(3)[:5],
            base,
            subnet,
            min(network.host_mtu(), 1500),
            nodes,
            workers,
            tree,
        )
        command = [sys.executable, "-m", "engines.guardian", layout.to_json()]
        done = subprocess.run(
            command + ["--owned"] * owned,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GUARDIAN_TIMEOUT_S,
        )
        cluster = cls(layout)
        if done.returncode != 0:
            cluster._wait_gone()
            raise ClusterError(f"no cluster: {done.stderr.strip()}")
        return cluster

    @classmethod
    def open(cls, base: Path) -> "Cluster | None":
        """The cluster in that folder; None when there is none, or its guardian is gone."""
        try:
            layout = Layout.from_json((base / "cluster.json").read_text())
        except FileNotFoundError:
            return None
        return cls(layout) if host.is_alive(layout.tag) else None

    # --- using ----------------------------------------------------------------------------------

    @property
    def manager(self) -> NodeLayout:
        return self.layout.manager

    @property
    def workers(self) -> tuple[NodeLayout, ...]:
        return self.layout.workers

    @property
    def endpoint(self) -> Path:
        """The unix socket of the manager's engine."""
        return self.layout.socket(self.manager)

    def api(self, node: NodeLayout | str | None = None) -> DockerApi:
        """The engine of a node; without one, the manager's."""
        if isinstance(node, str):
            node = self.layout.named(node)
        return DockerApi(self.layout.socket(node or self.manager))

    def node_id(self, name: str) -> str:
        """Swarm's id of the node with that host name."""
        for node in self.api().call("GET", "/nodes"):
            if node["Description"]["Hostname"] == name:
                return str(node["ID"])
        raise ClusterError(f"no node {name} in the Swarm")

    def kill(self, name: str) -> None:
        """Ends a node's engine and all its containers at once, as when its power fails."""
        self._request({"do": "kill", "node": name})

    def start(self, name: str) -> None:
        """Starts the engine of a node that was killed; comes back when it answers."""
        self._request({"do": "start", "node": name})
        self._wait_up(self.layout.named(name))

    def cut(self, name: str) -> None:
        """Pulls the node's network cable. Its engine's socket still answers."""
        self._request({"do": "cut", "node": name})

    def mend(self, name: str) -> None:
        self._request({"do": "mend", "node": name})

    def update_node(self, name: str, **change: Any) -> None:
        """Changes a node's Spec as an operator does: `Labels` are added to those it has, and taken
        off where they are None; `Availability` is `active`, `pause` or `drain`."""
        path, wanted = f"/nodes/{self.node_id(name)}", change.pop("Labels", {})
        deadline = time.monotonic() + CONTROL_TIMEOUT_S
        while True:
            node = self.api().call("GET", path)
            labels = {**(node["Spec"].get("Labels") or {}), **wanted}
            labels = {label: text for label, text in labels.items() if text is not None}
            spec = {**node["Spec"], **change, "Labels": labels}
            try:
                version = str(node["Version"]["Index"])
                self.api().call("POST", f"{path}/update", spec, query={"version": version})
                return
            except DockerError as error:  # somebody else's update, or the node's own, came between
                if "out of sequence" not in str(error) or time.monotonic() > deadline:
                    raise

    def remove_node(self, name: str) -> None:
        """Takes a worker out of the Swarm, as an operator does; its engine and disk stay."""
        node_id = self.node_id(name)
        self.api(name).call("POST", "/swarm/leave", query={"force": "1"})
        self.api().call("DELETE", f"/nodes/{node_id}", query={"force": "1"})

    def add_node(self, name: str) -> None:
        """Lets a worker that was removed join again; Swarm gives it another id."""
        self._join(self.layout.named(name))
        self.wait_ready()

    def status(self) -> dict[str, int | None]:
        """Node's name -> None while its engine runs, else the exit code."""
        return dict(self._request({"do": "status"}))

    def inside(self, name: str, *command: str, timeout_s: float = 30.0) -> str:
        """A command in the node's network namespace: its stdout."""
        namespace = self.layout.network_namespace(self.layout.named(name))
        return run("nsenter", f"--net=/run/netns/{namespace}", "--", *command, timeout_s=timeout_s)

    def load(self, archive: Path, names: list[str] | None = None) -> None:
        """Loads a `docker save` archive on the nodes (all without `names`), two at a time."""
        chosen = [self.layout.named(name) for name in names] if names else list(self.layout.nodes)

        def load_on(node: NodeLayout) -> None:
            with open(archive, "rb") as file:
                self.api(node).load(file)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(load_on, chosen))

    # --- the end --------------------------------------------------------------------------------

    def down(self) -> None:
        """Removes all of it; comes back when nothing is left. May be repeated."""
        try:
            self._request({"do": "down"})
        except (OSError, ClusterError):
            pass  # it is ending already, or killed: the sweep below tells
        finally:
            if self._owner is not None:
                self._owner.close()
                self._owner = None
        self._wait_gone()

    def _wait_gone(self) -> None:
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        while host.is_alive(self.layout.tag):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"cluster {self.layout.tag} is not gone after {DOWN_TIMEOUT_S:g} s; "
                    f"see {self.layout.base / 'guardian.log'}"
                )
            time.sleep(0.05)
        sweep.sweep_dead()  # where guardian and warden were killed
        if self.layout.base.exists():
            raise ClusterError(f"{self.layout.base} was not removed; see its guardian.log")

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # --- within ---------------------------------------------------------------------------------

    def _form_swarm(self) -> None:
        for node in self.layout.nodes:
            self._wait_up(node)
        manager = self.api()
        address = self.manager.address
        manager.call(
            "POST",
            "/swarm/init",
            {"ListenAddr": f"{address}:2377", "AdvertiseAddr": address, "DataPathAddr": address},
        )
        for node in self.layout.nodes[1:]:
            self._join(node)
        self.wait_ready()
        self._apply_firewall()

    def _join(self, node: NodeLayout) -> None:
        token = self.api().call("GET", "/swarm")["JoinTokens"]["Worker"]
        self.api(node).call(
            "POST",
            "/swarm/join",
            {
                "ListenAddr": f"{node.address}:2377",
                "AdvertiseAddr": node.address,
                "DataPathAddr": node.address,
                "RemoteAddrs": [f"{self.manager.address}:2377"],
                "JoinToken": token,
            },
        )

    def _apply_firewall(self) -> None:
        """As on a real worker: job containers reach neither nodes nor this machine."""
        address = self.layout.bridge_address
        for node in self.layout.nodes:
            self.inside(
                node.name,
                str(_ROOT / "provision/firewall.sh"),
                "apply",
                *("--deny", self.layout.subnet, "--dns", address),
            )

    def _wait_up(self, node: NodeLayout) -> None:
        deadline = time.monotonic() + ENGINE_TIMEOUT_S
        while not self.api(node).is_up():
            code = self.status()[node.name]
            if code is not None:
                raise ClusterError(f"the engine of {node.name} ended with exit code {code}")
            if time.monotonic() > deadline:
                raise ClusterError(f"no engine of {node.name} within {ENGINE_TIMEOUT_S:g} s")
            time.sleep(0.03)

    def wait_ready(self, timeout_s: float = SWARM_TIMEOUT_S) -> None:
        """Returns once the manager sees every node as ready."""
        deadline = time.monotonic() + timeout_s
        wanted = {node.name for node in self.layout.nodes}
        while True:
            nodes = self.api().call("GET", "/nodes")
            ready = {n["Description"]["Hostname"] for n in nodes if n["Status"]["State"] == "ready"}
            if ready == wanted:
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"only {sorted(ready)} of {sorted(wanted)} joined the Swarm")
            time.sleep(0.05)

    def _request(self, request: dict[str, Any]) -> Any:
        with self._connect() as connection:
            return self._ask(connection, request)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONTROL_TIMEOUT_S)
        try:
            connection.connect(str(self.layout.control))
        except BaseException:
            connection.close()
            raise
        return connection

    def _ask(self, connection: socket.socket, request: dict[str, Any]) -> Any:
        connection.sendall(json.dumps(request).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            more = connection.recv(65_536)
            if not more:
                raise ClusterError("the guardian hung up")
            line += more
        answer = json.loads(line)
        if "error" in answer:
            raise ClusterError(str(answer["error"]))
        return answer["ok"]

    def _last_words(self) -> str:
        """The ends of the engines' logs: what says why."""
        words = ""
        for node in self.layout.nodes:
            log = self.layout.folder(node) / "engine.log"
            if log.exists():
                tail = log.read_text(errors="replace").splitlines()[-8:]
                words += f"\n--- {node.name}:\n" + "\n".join(tail)
        return words
