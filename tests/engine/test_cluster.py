"""The clusters themselves: what they give, and that nothing of them is ever left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import host, sweep
from engines.cluster import Cluster
from engines.commands import ToolError
from engines.docker_api import DockerApi, DockerError
from engines.layout import Layout

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
GONE_TIMEOUT_S = 60.0


def run_container(
    api: DockerApi, image: str, *command: str, timeout_s: float = 60.0, **host_config: object
) -> tuple[int, str]:
    """Runs a container to its end: exit code, and what it said."""
    made = api.call(
        "POST",
        "/containers/create",
        {"Image": image, "Cmd": list(command), "Tty": True, "HostConfig": host_config},
    )
    path = f"/containers/{made['Id']}"
    try:
        api.call("POST", f"{path}/start")
        code = api.call("POST", f"{path}/wait", timeout_s=timeout_s)["StatusCode"]
        text = api.call("GET", f"{path}/logs", query={"stdout": "1", "stderr": "1"}) or ""
    finally:
        api.call("DELETE", path, query={"force": "1", "v": "1"})
    return code, str(text).replace("\r", "").strip()


def http_get(address: str, port: int | str, path: str = "/") -> list[str]:
    """Words of a command for the busybox image. Its wget, static, can't look up `http`'s port."""
    request = f"GET {path} HTTP/1.0\\r\\n\\r\\n"
    return ["sh", "-c", f"printf '{request}' | nc -w 5 {address} {port}"]


def wait_gone(layout: Layout) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while left := sweep.leftovers(layout.tag, layout.base):
        assert time.monotonic() < deadline, f"left over: {left}"
        time.sleep(0.1)


# --- what a cluster gives ---------------------------------------------------------------------


def test_three_engines_form_a_swarm_with_gpu_units_on_the_workers(cluster: Cluster) -> None:
    nodes = {n["Description"]["Hostname"]: n for n in cluster.api().call("GET", "/nodes")}
    assert set(nodes) == {"manager", "worker1", "worker2"}
    assert {name: node["Status"]["State"] for name, node in nodes.items()} == {
        "manager": "ready",
        "worker1": "ready",
        "worker2": "ready",
    }
    units = {"DiscreteResourceSpec": {"Kind": "cumulus_gpu0", "Value": 10_000}}
    resources = {
        name: node["Description"]["Resources"].get("GenericResources", [])
        for name, node in nodes.items()
    }
    assert resources == {"manager": [], "worker1": [units], "worker2": [units]}


def test_each_node_has_its_own_worker_root(cluster: Cluster, engine_image: str) -> None:
    for name in ("worker1", "worker2"):
        code, text = run_container(
            cluster.api(name),
            engine_image,
            *("sh", "-c", f"echo {name} >/var/lib/cumulus/who && cat /var/lib/cumulus/who"),
            Binds=["/var/lib/cumulus:/var/lib/cumulus"],
        )
        assert (code, text) == (0, name)
    for name in ("worker1", "worker2"):
        file = cluster.layout.worker_root(cluster.layout.named(name)) / "who"
        assert file.read_text() == f"{name}\n"
        file.unlink()


def test_containers_resolve_names_by_the_hosts_resolvers(
    cluster: Cluster, engine_image: str
) -> None:
    code, text = run_container(cluster.api("worker1"), engine_image, "cat", "/etc/resolv.conf")
    assert code == 0
    assert f"nameserver {cluster.layout.bridge_address}" in text
    # A name that never exists: each resolver says so, none leaves it without an answer.
    code, text = run_container(cluster.api("worker1"), engine_image, "nslookup", "none.invalid.")
    assert "NXDOMAIN" in text, text


@pytest.fixture
def server(cluster: Cluster) -> Iterator[int]:
    """The port of a server on the bridge's address: where a daemon listens."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "http.server", "--bind", cluster.layout.bridge_address, "0"),
            *("--directory", str(ROOT / "etc")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().split(" port ")[1].split()[0])
        finally:
            process.kill()


def test_agents_reach_the_daemon_and_jobs_do_not(
    cluster: Cluster, engine_image: str, server: int
) -> None:
    api, address = cluster.api("worker2"), cluster.layout.bridge_address
    code, text = run_container(api, engine_image, *http_get(address, server), NetworkMode="host")
    assert code == 0, text
    assert "cumulusd.yaml" in text
    code, text = run_container(api, engine_image, *http_get(address, server))
    assert code != 0
    assert "cumulusd.yaml" not in text


def test_jobs_reach_no_engine_and_no_host(cluster: Cluster, engine_image: str) -> None:
    api, layout = cluster.api("worker1"), cluster.layout
    own, other = layout.named("worker1").address, layout.named("worker2").address
    targets = [(layout.manager.address, 2377), (own, 7946), (other, 7946)]
    for address, port in targets:
        probe = ["sh", "-c", f"nc -w 2 {address} {port} </dev/null"]
        code, _ = run_container(api, engine_image, *probe, NetworkMode="host")
        assert code == 0, f"{address}:{port} is open to the node itself, or this proves nothing"
        code, _ = run_container(api, engine_image, *probe)
        assert code != 0, f"a job reaches {address}:{port}"


FIREWALL = str(ROOT / "provision/firewall.sh")


def test_the_firewall_is_applied_again_and_removed_without_a_trace(cluster: Cluster) -> None:
    def rules() -> str:
        return cluster.inside("worker1", "iptables", "-S")

    options = ("--deny", cluster.layout.subnet, "--dns", cluster.layout.bridge_address)
    before = rules()
    assert "-A INPUT -j CUMULUS-INPUT" in before
    try:
        cluster.inside("worker1", FIREWALL, "apply", *options)
        assert rules() == before, "applied again: nothing twice"
        # Somebody's rule that came before ours: apply puts ours first again.
        cluster.inside("worker1", "iptables", "-I", "INPUT", "1", "-p", "tcp", "-j", "ACCEPT")
        with pytest.raises(ToolError, match="not in force: INPUT"):
            cluster.inside("worker1", FIREWALL, "status")
        cluster.inside("worker1", FIREWALL, "apply", *options)
        cluster.inside("worker1", FIREWALL, "status")
        cluster.inside("worker1", "iptables", "-D", "INPUT", "-p", "tcp", "-j", "ACCEPT")
        cluster.inside("worker1", FIREWALL, "remove")
        assert "CUMULUS" not in rules()
        with pytest.raises(ToolError, match="not in force"):
            cluster.inside("worker1", FIREWALL, "status")
        cluster.inside("worker1", FIREWALL, "remove")  # again: nothing to do, no error
    finally:
        cluster.inside("worker1", FIREWALL, "apply", *options)
    assert sorted(rules().splitlines()) == sorted(before.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["apply", "--daemon", "10.0.0.5"],
        ["apply", "--daemon", "10.0.0.5:70000"],
        ["apply", "--deny", "10.0.0.0/33"],
        ["apply", "--deny", "10.0.0.0/8 -j ACCEPT"],
        ["apply", "--bridge", "br0\n-A INPUT"],
        ["status", "--deny", "10.0.0.0/8"],
        ["up"],
    ],
)
def test_the_firewall_refuses_what_it_does_not_understand(arguments: list[str]) -> None:
    done = subprocess.run([FIREWALL, *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("firewall: ")


def test_containers_of_one_node_do_not_reach_each_other(
    cluster: Cluster, engine_image: str
) -> None:
    api = cluster.api("worker1")
    made = api.call(
        "POST",
        "/containers/create",
        {"Image": engine_image, "Cmd": ["httpd", "-f", "-p", "8000", "-h", "/etc"]},
    )
    try:
        api.call("POST", f"/containers/{made['Id']}/start")
        address = api.call("GET", f"/containers/{made['Id']}/json")["NetworkSettings"]["IPAddress"]
        # The server is up: its own node's host reaches it.
        cluster.inside("worker1", "timeout", "10", "bash", "-c", f"exec 3<>/dev/tcp/{address}/8000")
        code, text = run_container(api, engine_image, *http_get(address, 8000, "/passwd"))
    finally:
        api.call("DELETE", f"/containers/{made['Id']}", query={"force": "1", "v": "1"})
    assert code != 0
    assert "root" not in text


def test_a_killed_node_goes_down_and_comes_back(cluster: Cluster, engine_image: str) -> None:
    before = cluster.node_id("worker2")
    cluster.kill("worker2")
    assert cluster.status()["worker2"] is not None
    with pytest.raises(DockerError):
        cluster.api("worker2").call("GET", "/_ping", timeout_s=2.0)
    cluster.start("worker2")
    cluster.wait_ready()
    assert cluster.node_id("worker2") == before
    assert cluster.api("worker2").image_id(engine_image) == engine_image


# --- and what is left of it: nothing ------------------------------------------------------------


@pytest.fixture
def host_before(cluster: Cluster) -> Iterator[None]:
    """The shared cluster is untouched by what happens to another."""
    before = lasting(cluster)
    yield
    assert lasting(cluster) == before
    cluster.wait_ready()


def lasting(cluster: Cluster) -> list[str]:
    """What it has, but for its processes: engines start helpers for a moment."""
    there = sweep.leftovers(cluster.layout.tag)
    return sorted(each for each in there if not each.startswith("process "))


CREATOR = """\
import sys, time
from pathlib import Path
from engines.cluster import Cluster
from engines.commands import ToolError
tree = Path(sys.argv[4]) if sys.argv[4:] else None
cluster = Cluster.create(Path(sys.argv[1]), nodes=2, workers=1, tree=tree)
cluster.load(Path(sys.argv[2]))
made = cluster.api("worker1").call(
    "POST", "/containers/create", {"Image": sys.argv[3], "Cmd": ["sleep", "600"]}
)
cluster.api("worker1").call("POST", f"/containers/{made['Id']}/start")
print(cluster.layout.to_json(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def creator(tmp_path: Path, tiny_image: tuple[Path, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that made a cluster, with a container running in it."""
    with begin_creator(tmp_path / "cluster", tiny_image) as process:
        yield process
        process.kill()


def begin_creator(
    base: Path, tiny_image: tuple[Path, str], tree: Path | None = None
) -> "subprocess.Popen[str]":
    words = [str(base), str(tiny_image[0]), tiny_image[1]] + [str(tree)] * (tree is not None)
    return subprocess.Popen(
        [sys.executable, "-c", CREATOR, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def layout_of(creator: "subprocess.Popen[str]") -> Layout:
    assert creator.stdout is not None
    layout = Layout.from_json(creator.stdout.readline())
    kinds = {left.split()[0] for left in sweep.leftovers(layout.tag, layout.base)}
    assert kinds == {"process", "network", "link", "rule", "cgroup", "folder"}, (
        "the look at what is left sees all that there is"
    )
    return layout


def test_nothing_is_left_after_down(
    tmp_path: Path, tiny_image: tuple[Path, str], host_before: None
) -> None:
    archive, image = tiny_image
    with Cluster.create(tmp_path / "cluster", nodes=2, workers=2) as cluster:
        cluster.load(archive)
        assert run_container(cluster.api("worker1"), image, "echo", "there") == (0, "there")
        assert [node.name for node in cluster.workers] == ["manager", "worker1"]
    assert sweep.leftovers(cluster.layout.tag, cluster.layout.base) == []
    cluster.down()  # again: nothing to do, no error


def test_nothing_is_left_when_the_creator_is_killed(
    creator: "subprocess.Popen[str]", host_before: None
) -> None:
    layout = layout_of(creator)
    creator.kill()
    wait_gone(layout)


def guardian_and_warden(layout: Layout) -> list[int]:
    """Process ids of those that hold the cluster: warden first."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "engines.guardian" in words and any(layout.tag in word for word in words):
            found.append(int(entry.name))
    found.sort(
        key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[19])
    )
    return found


@pytest.mark.parametrize("which", [0, 1], ids=["warden", "guardian"])
def test_nothing_is_left_when_one_of_its_keepers_is_killed(
    creator: "subprocess.Popen[str]", host_before: None, which: int
) -> None:
    layout = layout_of(creator)
    keepers = guardian_and_warden(layout)
    assert len(keepers) == 2
    os.kill(keepers[which], signal.SIGKILL)
    wait_gone(layout)


def test_what_is_left_when_all_are_killed_goes_with_the_next_cluster(
    creator: "subprocess.Popen[str]", host_before: None, tmp_path: Path
) -> None:
    layout = layout_of(creator)
    kill_all(creator, layout)
    assert sweep.leftovers(layout.tag, layout.base) != []
    assert not host.is_alive(layout.tag)
    with Cluster.create(tmp_path / "next", nodes=1, workers=1):
        assert sweep.leftovers(layout.tag, layout.base) == []


def kill_all(creator: "subprocess.Popen[str]", layout: Layout) -> None:
    """Owner, guardian and warden at once; comes back when the engines are gone too."""
    keepers = guardian_and_warden(layout)
    for pid in keepers:  # neither gets a turn before both are dead
        os.kill(pid, signal.SIGSTOP)
    for pid in [creator.pid, *keepers]:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while sweep.processes_of(layout.tag):
        assert time.monotonic() < deadline, "the kernel ends the engines with the guardian"
        time.sleep(0.05)


def test_a_cluster_that_cannot_be_made_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host_before: None
) -> None:
    before = host.known_tags()
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "dockerd").write_text("#!/bin/sh\necho 'no engine today' >&2\nexit 3\n")
    (broken / "dockerd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken}:{os.environ['PATH']}")
    with pytest.raises(Exception, match=r"ended with exit code 3[\s\S]*no engine today"):
        Cluster.create(tmp_path / "cluster", nodes=1, workers=0)
    assert host.known_tags() == before
    assert not (tmp_path / "cluster").exists()


def test_a_folder_of_somebody_elses_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    with pytest.raises(RuntimeError, match="not removed"):
        sweep.sweep("cml00000", tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["file"]
