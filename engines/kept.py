"""The one cluster that `script/swarm` keeps, with the daemon's configuration for it.

In the folder `var/swarm`: `cumulusd.yaml`, `client.token`, `admin.token`, the daemon's `state/`,
and the engines' data.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engines import sweep
from engines.cluster import Cluster, ClusterError
from engines.layout import WORKER_ROOT, Layout

__all__ = ["PORT", "Kept", "archived_image", "build_images", "build_ml_image", "configuration"]

PORT = 50051
IMAGES = ("job", "agent")
BUILD_TIMEOUT_S = 3600.0
_ROOT = Path(__file__).resolve().parents[1]
Say = Callable[[str], None]


def configuration(
    layout: Layout, token_hashes: Mapping[str, str], environ: Mapping[str, str], port: int = PORT
) -> dict[str, Any]:
    """The daemon's configuration for a cluster. Pure. `token_hashes`: role -> SHA-256."""
    address = layout.bridge_address
    jobs: dict[str, Any] = {"image": "cumulus-job:latest"}
    if bundle := environ.get("SSL_CERT_FILE"):
        jobs["ca_bundle"] = bundle
    if index := environ.get("UV_DEFAULT_INDEX") or environ.get("PIP_INDEX_URL"):
        jobs["index_url"] = index
    return {
        "listen": [f"tcp:{port}:interface=127.0.0.1", f"tcp:{port}:interface={address}"],
        # The agents come over a bridge of this machine, which nobody else is on: no TLS.
        "allow_plain_tokens": True,
        "state_dir": "state",
        "platform": {
            "type": "swarm",
            "swarm": {
                "endpoint": f"unix://{layout.socket(layout.manager)}",
                "agent_image": "cumulus-agent:latest",
                "advertise_url": f"ws://{address}:{port}",
                "worker_root": str(WORKER_ROOT),
                "enroll": [node.name for node in layout.workers],
                "count_cpu_devices": True,
            },
        },
        "jobs": jobs,
        "tokens": [
            {"name": role, "owner": "local", "role": role, "token_sha256": digest}
            for role, digest in sorted(token_hashes.items())
        ],
    }


class Kept:
    """The cluster under one folder. Its methods run one at a time, over all processes."""

    def __init__(self, folder: Path, say: Say, port: int = PORT) -> None:
        self.folder = folder
        self._port = port
        self._base = folder / "engines"
        self._say = say

    def up(self, nodes: int, workers: int, owned: bool = False) -> Cluster:
        """A cluster with images and configuration: the one that is up already, or a new one.

        A new one ends with this process when `owned`, else with `down`.
        """
        with self._alone():
            cluster = Cluster.open(self._base)
            if cluster is not None:
                there = (len(cluster.layout.nodes), len(cluster.workers))
                if there != (nodes, workers):
                    raise ClusterError(
                        f"a Swarm of {there[0]} nodes, {there[1]} of them workers, is up; "
                        "`script/swarm down` first"
                    )
                if broken := {n: code for n, code in cluster.status().items() if code is not None}:
                    raise ClusterError(
                        f"engines have ended (exit codes: {broken}); `script/swarm down` first"
                    )
                self._say("it is up already; looking at images and configuration")
            self._say("making the images (the first time takes minutes)")
            images = build_images()
            if cluster is None:
                self._remove_old()
                self._say(f"starting {nodes} engines, {workers} of them GPU workers")
                cluster = Cluster.create(self._base, nodes=nodes, workers=workers, owned=owned)
            try:
                self._load_images(cluster, images)
                self._write_configuration(cluster)
            except BaseException:
                self._say("it failed: taking the engines down")
                cluster.down()
                raise
            return cluster

    def down(self) -> bool:
        """Removes all of it. False when there was nothing."""
        with self._alone():
            there = self._base.exists() or self.folder.exists()
            if (cluster := Cluster.open(self._base)) is not None:
                self._say(f"taking down {len(cluster.layout.nodes)} engines")
                cluster.down()
            for tag in sweep.sweep_dead():
                self._say(f"removed what was left of {tag}")
            self._remove_old()
            return there

    def status(self) -> dict[str, Any]:
        """What is there, as JSON takes it."""
        cluster = Cluster.open(self._base)
        if cluster is None:
            return {"up": False, "nodes": []}
        engines = cluster.status()
        states: dict[str, str] = {}
        fault = None
        if cluster.api().is_up():
            for node in cluster.api().call("GET", "/nodes"):
                states[node["Description"]["Hostname"]] = node["Status"]["State"]
        else:
            fault = "the manager's engine does not answer"
        layout = cluster.layout
        nodes = [
            {
                "name": node.name,
                "address": node.address,
                "worker": node.worker,
                "engine": "running"
                if engines[node.name] is None
                else f"ended {engines[node.name]}",
                "swarm": states.get(node.name, "unknown"),
                "socket": str(layout.socket(node)),
            }
            for node in layout.nodes
        ]
        well = fault is None and all(
            node["engine"] == "running" and node["swarm"] == "ready" for node in nodes
        )
        return {
            "up": True,
            "well": well,
            "fault": fault,
            "tag": layout.tag,
            "nodes": nodes,
            "endpoint": f"unix://{cluster.endpoint}",
            "config": str(self.folder / "cumulusd.yaml"),
            "client_token": str(self.folder / "client.token"),
            "url": f"http://127.0.0.1:{self._port}",
            "daemon_listens": _listens("127.0.0.1", self._port),
        }

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder.with_suffix(".lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("another script/swarm is at work; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remove_old(self) -> None:
        """What a Swarm that is gone left in the folder: the machine may have been switched off."""
        marker = self._base / sweep.MARKER
        if marker.exists():
            sweep.sweep(marker.read_text().strip(), self._base)
        if daemons := _daemons_on(self.folder / "cumulusd.yaml"):
            numbers = ", ".join(map(str, daemons))
            self._say(
                f"a daemon still runs on {self.folder / 'cumulusd.yaml'} (process {numbers}), "
                "whose Swarm is gone: stop it. Its state is left"
            )
            for name in ("cumulusd.yaml", "client.token", "admin.token"):
                (self.folder / name).unlink(missing_ok=True)
        elif self.folder.exists():
            shutil.rmtree(self.folder)

    def _load_images(self, cluster: Cluster, images: Mapping[str, tuple[Path, str]]) -> None:
        for tag, (archive, image) in images.items():
            lacking = [
                node.name
                for node in cluster.layout.nodes
                if cluster.api(node).image_id(tag) != image
            ]
            if lacking:
                self._say(f"loading {tag} on {', '.join(lacking)}")
                cluster.load(archive, lacking)

    def _write_configuration(self, cluster: Cluster) -> None:
        hashes = {}
        for role in ("client", "admin"):
            path = self.folder / f"{role}.token"
            if not path.exists():
                _write(path, secrets.token_hex(24) + "\n", 0o600)
            hashes[role] = hashlib.sha256(path.read_text().strip().encode()).hexdigest()
        config = configuration(cluster.layout, hashes, os.environ, self._port)
        head = "# Made by script/swarm for the Swarm that it keeps; JSON is YAML too.\n"
        _write(self.folder / "cumulusd.yaml", head + json.dumps(config, indent=2) + "\n", 0o600)


def build_images() -> dict[str, tuple[Path, str]]:
    """Tag -> archive and image id of the job's and the agent's image, built where that is needed.

    ClusterError when they can't be built.
    """
    _build("all")
    images = {}
    for name in IMAGES:
        archive = _ROOT / f"var/images/cumulus-{name}.tar"
        images[f"cumulus-{name}:latest"] = (archive, archived_image(archive))
    return images


def build_ml_image() -> Path:
    """The archive of the job image's variant `ml`, built where that is needed. ClusterError."""
    _build("job", "--variant", "ml")
    return _ROOT / "var/images/cumulus-job-ml.tar"


def _build(*arguments: str) -> None:
    done = subprocess.run(
        [str(_ROOT / "images/build"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # its notes go to stderr as they come
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise ClusterError(f"images/build failed ({done.returncode}); it said why on stderr")


def archived_image(archive: Path) -> str:
    """The id of the image in a `docker save` archive."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        (entry,) = json.load(file)
        config = tar.extractfile(entry["Config"])
        assert config is not None
        return "sha256:" + hashlib.sha256(config.read()).hexdigest()


def _write(path: Path, text: str, mode: int) -> None:
    """All of it or nothing, with that mode from the start."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    draft.replace(path)


def _daemons_on(config: Path) -> list[int]:
    """Daemons of this machine whose command line names that file."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").split("\0")
            folder = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue
        if "cumulusd" not in " ".join(words):
            continue
        if any(
            os.path.join(folder, word.partition("=")[2] or word) == str(config) for word in words
        ):
            found.append(int(name))
    return found


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((address, port)) == 0
