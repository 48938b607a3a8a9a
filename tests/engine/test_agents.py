"""The daemon on a real Swarm: it enrols nodes, keeps their agents, and gives each its own token."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from engines.cluster import Cluster
from tests.engine.swarm_daemon import clear_cluster

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]
TOKEN = "a-client-token-of-this-test-0123"
ADMIN = "an-admin-token-of-this-test-0123"
#: Nobody reads what is in it, only that jobs get this one.
BUNDLE = "-----BEGIN CERTIFICATE-----\na company's\n-----END CERTIFICATE-----\n"
SECRET_FILE = "cumulus_agent_token"

SCRIPT = """\
import os, ssl
print("uid", os.getuid())
print("bundle", os.environ["SSL_CERT_FILE"], open(os.environ["SSL_CERT_FILE"]).readline().strip())
"""


class Daemon:
    """`twistd -n cumulusd` on the cluster, with a state of its own."""

    def __init__(self, folder: Path, cluster: Cluster, *enroll: str) -> None:
        folder.mkdir()
        self.cluster = cluster
        self.folder = folder
        self.state = folder / "state"
        self.log = folder / "log"
        address = cluster.layout.bridge_address
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        (folder / "bundle.pem").write_text(BUNDLE)
        self.config = folder / "cumulusd.yaml"
        self.config.write_text(
            json.dumps(
                {
                    "listen": [f"tcp:{port}:interface={one}" for one in ("127.0.0.1", address)],
                    "allow_plain_tokens": True,
                    "state_dir": "state",
                    "platform": {
                        "type": "swarm",
                        "swarm": {
                            "endpoint": f"unix://{cluster.endpoint}",
                            "agent_image": "cumulus-agent:latest",
                            "advertise_url": f"ws://{address}:{port}",
                            "enroll": list(enroll),
                            "count_cpu_devices": True,
                        },
                    },
                    "jobs": {"image": "cumulus-job:latest", "ca_bundle": "bundle.pem"},
                    "tokens": [token("me", "client", TOKEN), token("ops", "admin", ADMIN)],
                }
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when /health gives 200."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile="),
                    *("cumulusd", "--config", str(self.config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self.until(lambda: self.ask("/health")[0] == 200)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """(0, None) while nobody listens."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        request.add_header("Authorization", f"Bearer {ADMIN}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, None

    def fetch(self, path: str, token: str) -> str:
        """The id of the image in the archive there, which is read to its end and not kept."""
        request = urllib.request.Request(self.url + path)
        request.add_header("Authorization", f"Bearer {token}")
        image_id = ""
        with (
            urllib.request.urlopen(request, timeout=60) as answer,
            tarfile.open(fileobj=answer, mode="r|") as archive,
        ):
            for entry in archive:
                if entry.name == "manifest.json":
                    file = archive.extractfile(entry)
                    assert file is not None
                    config = str(json.load(file)[0]["Config"])
                    image_id = "sha256:" + config.rpartition("/")[2].removesuffix(".json")
        return image_id

    def tried(self, body: dict[str, str]) -> Any:
        """What is told of a worker once it has been tried."""
        status, told = self.ask("/provision/status", body)
        return told if status == 200 and told["state"] in ("ready", "failed") else None

    def left(self, body: dict[str, str]) -> Any:
        """The answer to its leaving; None while jobs are still being cleared from it."""
        status, told = self.ask("/provision/leave", body)
        return None if status == 409 else (status, told)

    def run(self) -> "subprocess.CompletedProcess[str]":
        """A job of one small script."""
        script = self.folder / "script.py"
        script.write_text(SCRIPT)
        command = [str(Path(sys.executable).with_name("cumulus")), "run", "--gpu-memory", "0.2"]
        return subprocess.run(
            [*command, "--duration", "60", str(script)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "CUMULUS_SERVER_URL": self.url, "CUMULUS_API_KEY": TOKEN},
        )

    def is_idle(self) -> bool:
        """Has every job's worker been cleared? A result comes before that."""
        _, jobs = self.ask("/api/jobs")
        return all(job["phase"] == "ended" for job in jobs or ())

    def provision_token(self) -> str:
        made = subprocess.run(
            [
                *(sys.executable, "-m", "cumulusd.cli", "provision-token", "create"),
                *("--config", str(self.config)),
            ],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        return made.stdout.strip()

    def instance(self) -> str:
        node = self.node(self.cluster.workers[0].name)
        return str(node["Spec"]["Labels"]["cumulus.instance"])

    def node(self, name: str) -> dict[str, Any]:
        node: dict[str, Any] = self.cluster.api().call(
            "GET", f"/nodes/{self.cluster.node_id(name)}"
        )
        return node

    def until(self, true: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            if found := true():
                return found
            time.sleep(0.1)
        raise AssertionError(f"it never became true: {self.log.read_text()[-6000:]}")


def token(name: str, role: str, secret: str) -> dict[str, str]:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return {"name": name, "owner": name, "role": role, "token_sha256": digest}


def agents(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Node id -> agent service."""
    services = cluster.api().call("GET", "/services")
    return {
        one["Spec"]["Labels"]["cumulus.agent"]: one
        for one in services
        if "cumulus.agent" in one["Spec"].get("Labels", {})
    }


def secrets(cluster: Cluster) -> list[str]:
    return sorted(one["Spec"]["Name"] for one in cluster.api().call("GET", "/secrets") or ())


@pytest.fixture
def clean(cluster: Cluster, cluster_images: dict[str, str]) -> Iterator[Cluster]:
    """The cluster with the images, left without anything of ours."""
    yield cluster
    clear_cluster(cluster)


@pytest.fixture
def daemons(clean: Cluster, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    made: list[Daemon] = []

    def make(*enroll: str) -> Daemon:
        made.append(Daemon(tmp_path / f"daemon{len(made)}", clean, *enroll))
        made[-1].start()
        return made[-1]

    yield make
    with ExitStack() as ending:
        for one in made:
            ending.callback(one.end)
        for one in made:
            if one.process is not None:
                one.until(one.is_idle)


def test_enrolled_at_the_start_and_taken_up_again(
    clean: Cluster, daemons: Callable[..., Daemon]
) -> None:
    names = [node.name for node in clean.workers]
    daemon = daemons(*names)
    # At once: no agent can be there yet. It waits, and is no 503.
    ran = daemon.run()
    assert ran.returncode == 0, ran.stderr + daemon.log.read_text()[-6000:]
    assert "uid 1000" in ran.stdout
    assert "bundle /var/lib/cumulus/ca-bundle.pem -----BEGIN CERTIFICATE-----" in ran.stdout
    ids = {clean.node_id(name) for name in names}
    assert set(agents(clean)) == ids
    for node_id, service in agents(clean).items():
        container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
        assert container["Image"].startswith("sha256:")
        assert not any("docker.sock" in str(mount) for mount in container["Mounts"])
        own = [one for one in container["Secrets"] if one["File"]["Name"] == SECRET_FILE]
        assert [one["SecretName"] for one in own] == [f"cumulus-agent-{node_id}-1"]

    # Killed: the agents come back to it by themselves, with the tokens they have.
    daemon.end(signal.SIGKILL)
    before = {key: one["Version"] for key, one in agents(clean).items()}
    daemon.start()
    assert daemon.run().returncode == 0
    assert {key: one["Version"] for key, one in agents(clean).items()} == before

    # Its hashes lost: new secrets, the services follow, and the old secrets go.
    daemon.end(signal.SIGKILL)
    (daemon.state / "agents.json").unlink()
    daemon.start()
    rotated = sorted(f"cumulus-agent-{node_id}-2" for node_id in ids)
    daemon.until(lambda: [one for one in secrets(clean) if "-agent-" in one] == rotated)
    assert daemon.run().returncode == 0


def test_by_token_and_out_again(clean: Cluster, daemons: Callable[..., Daemon]) -> None:
    daemon, worker = daemons(), clean.workers[0]
    first, second = (clean.node_id(node.name) for node in clean.workers[:2])
    secret = daemon.provision_token()
    body = {"token": secret, "node_id": first}
    assert daemon.ask("/provision/enroll", {**body, "token": "cpt_wrong"})[0] == 401
    assert daemon.ask("/provision/enroll", {**body, "node_id": "no-such-node"})[0] == 404
    assert agents(clean) == {}

    machine = {"token": secret, "machine_id": "a-machine", "hostname": worker.name}
    status, told = daemon.ask("/provision/join", machine)
    assert status == 200
    assert told["swarm"]["join_token"] == join_token(clean)
    assert told["swarm"]["manager_addresses"] == [f"{clean.manager.address}:2377"]
    assert daemon.ask("/provision/join", {**machine, "machine_id": "another-machine"})[0] == 409
    (agent_image,) = [one for one in told["images"] if "agent" in one["name"]]
    assert daemon.fetch(f"/provision/images/{agent_image['id']}", secret) == agent_image["id"]
    assert daemon.ask(f"/provision/images/{agent_image['id']}")[0] == 401  # no provisioning token

    for _ in range(2):  # an answer may be lost
        status, answer = daemon.ask("/provision/enroll", body)
        assert (status, answer["enrolled"]) == (200, True)
    assert daemon.ask("/provision/enroll", {**body, "node_id": second})[0] == 409
    assert join_token(clean) != told["swarm"]["join_token"], "it is changed when it was used"
    assert daemon.ask("/provision/join", machine)[1]["swarm"]["join_token"] is None
    daemon.until(lambda: set(agents(clean)) == {first})

    # A job on that node tries it, whatever becomes of the daemon meanwhile.
    daemon.until(lambda: daemon.ask("/provision/status", body)[1]["state"] == "smoke")
    daemon.end(signal.SIGKILL)
    daemon.start()
    state = daemon.until(lambda: daemon.tried(body))
    assert state["state"] == "ready", state
    _, job = daemon.ask(f"/api/jobs/{state['job_id']}")
    assert (job["owner"], job["worker"]["node_id"]) == ("provision", first)
    assert daemon.run().returncode == 0

    status, answer = daemon.until(lambda: daemon.left(body))
    assert (status, answer["state"]) == (200, "left")
    assert "cumulus.worker" not in daemon.node(worker.name)["Spec"]["Labels"]
    daemon.until(lambda: not agents(clean))
    daemon.until(lambda: not [one for one in secrets(clean) if "-agent-" in one])
    clean.api(worker.name).call("POST", "/swarm/leave")
    try:
        nodes = daemon.until(lambda: [one for one in node_ids(clean) if one != first])
        daemon.until(lambda: first not in node_ids(clean))  # by itself, as it sees it down
        assert set(nodes) <= set(node_ids(clean))
        assert daemon.ask("/provision/leave", body) == (200, {"node_id": first, "state": "removed"})
    finally:
        clean.add_node(worker.name)


def test_an_operator_takes_a_worker_out(clean: Cluster, daemons: Callable[..., Daemon]) -> None:
    worker = clean.workers[0]
    daemon = daemons(worker.name)
    daemon.until(lambda: agents(clean))
    clean.update_node(worker.name, Labels={"cumulus.worker": None})
    daemon.until(lambda: not agents(clean))
    daemon.until(lambda: not [one for one in secrets(clean) if "-agent-" in one])


def join_token(cluster: Cluster) -> str:
    return str(cluster.api().call("GET", "/swarm")["JoinTokens"]["Worker"])


def node_ids(cluster: Cluster) -> list[str]:
    return [one["ID"] for one in cluster.api().call("GET", "/nodes")]
