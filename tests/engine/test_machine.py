"""The bare machine that provisioning is tried on is one: fresh, on the network, and gone after."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines import sweep
from engines.cluster import Cluster
from engines.layout import Layout
from engines.machine import FIRST_NUMBER, BareMachine, MachineError

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
#: What in the cluster is the machine's: its network namespace, link and cgroups.
_OURS = re.compile(rf"-[nv]{FIRST_NUMBER}\b")


def test_a_fresh_machine_installs_packages_and_leaves_nothing(
    cluster: Cluster, machine_tree: Path
) -> None:
    with BareMachine.boot(cluster.layout, machine_tree) as machine:
        assert machine.check("hostname").strip() == machine.name
        assert machine.check("systemctl", "is-system-running").strip() == "running"
        for tool in ("docker", "iptables", "python3"):
            assert machine.run("which", tool).returncode != 0, f"{tool} is there already"
        manager = cluster.manager.address
        machine.check("bash", "-c", f": <>/dev/tcp/{manager}/2377")
        machine.check("apt-get", "update", timeout_s=200)
        machine.check("apt-get", "install", "-y", "--no-install-recommends", "tini", timeout_s=200)
        assert machine.check("tini", "--version").startswith("tini")
        assert machine.run("sh", "-c", "cat; exit 7", stdin="said").stdout == "said"
        assert machine.run("sh", "-c", "exit 7").returncode == 7
        with pytest.raises(MachineError, match="did not end within"):
            machine.run("sh", "-c", "touch /begun; sleep 1000", timeout_s=2, unit="rig-long")
        assert machine.run("systemctl", "is-active", "rig-long").stdout.strip() != "active"
        folder = machine.root.parent
        there = [words for words in sweep.leftovers(cluster.layout.tag) if _OURS.search(words)]
        assert len(there) >= 3, there
    assert not folder.exists()
    # A cgroup that is gone held no process any more.
    left = [words for words in sweep.leftovers(cluster.layout.tag) if _OURS.search(words)]
    assert left == []


_MAKER = """
import sys, time
from pathlib import Path
from engines.cluster import Cluster
from engines.machine import BareMachine
with Cluster.create(Path(sys.argv[1]), nodes=1, workers=0) as cluster:
    with BareMachine.boot(cluster.layout, Path(sys.argv[2])):
        print(cluster.layout.to_json(), flush=True)
        time.sleep(600)
"""


def test_it_ends_with_who_booted_it(machine_tree: Path, tmp_path: Path) -> None:
    base = tmp_path / "cluster"
    maker = subprocess.Popen(
        [sys.executable, "-c", _MAKER, str(base), str(machine_tree)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with maker:
        try:
            assert maker.stdout is not None
            layout = Layout.from_json(maker.stdout.readline())
        finally:
            maker.kill()
    deadline = time.monotonic() + 60
    while left := sweep.leftovers(layout.tag, base):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
