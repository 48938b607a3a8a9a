"""`provision/firewall.sh install` on a fresh machine: Swarm's ports, a reboot, Docker's restart."""

import subprocess
import time
from pathlib import Path

import pytest

from engines.cluster import Cluster
from engines.commands import ToolError
from engines.machine import BareMachine

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(500)]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "provision/firewall.sh"
COPY = "/usr/local/lib/cumulus/firewall.sh"


def reaches(cluster: Cluster, node: str, address: str, port: int) -> bool:
    try:
        cluster.inside(node, "timeout", "3", "bash", "-c", f": <>/dev/tcp/{address}/{port}")
    except ToolError:
        return False
    return True


def test_provision_firewall_outlives_a_reboot_and_dockers_restart(
    cluster: Cluster, bare_machine: BareMachine
) -> None:
    machine = bare_machine
    machine.check("apt-get", "update", timeout_s=200)
    machine.check("apt-get", "install", "-y", "--no-install-recommends", "docker.io", timeout_s=300)
    machine.check("docker", "swarm", "init", "--advertise-addr", machine.address)
    assert reaches(cluster, "worker1", machine.address, 2377), "else the rest proves nothing"

    peer = cluster.manager.address
    _install(machine, "--deny", cluster.layout.subnet, "--peer", peer)

    def holds() -> None:
        machine.check(COPY, "status")
        deadline = time.monotonic() + 60  # Swarm begins to listen after Docker said that it is up
        while not reaches(cluster, "manager", machine.address, 2377):
            assert time.monotonic() < deadline, "the peer doesn't reach Swarm"
            time.sleep(0.2)
        assert not reaches(cluster, "worker1", machine.address, 2377)

    holds()
    rules = machine.check("iptables", "-S", "CUMULUS-INPUT")
    _install(machine, "--deny", cluster.layout.subnet, "--peer", peer)
    assert machine.check("iptables", "-S", "CUMULUS-INPUT") == rules, "again: nothing twice"

    machine.reboot()
    assert machine.is_active("docker.service")
    holds()
    machine.check("iptables", "-F")  # somebody's mistake: Docker's next start mends it
    machine.check("systemctl", "restart", "docker.service", timeout_s=120)
    holds()

    options = machine.root / "etc/cumulus/firewall.options"
    kept = options.read_text()
    options.write_text("--nonsense\n")
    machine.check("systemctl", "stop", "docker.socket", "docker.service", timeout_s=120)
    # As at a boot: it takes the firewall's unit with it.
    assert machine.run("systemctl", "start", "docker.service", timeout_s=120).returncode != 0
    assert not machine.is_active("docker.service"), "no job runs without the rules"
    options.write_text(kept)
    machine.check("systemctl", "start", "docker.service", timeout_s=120)
    holds()

    pid = machine.check("systemctl", "show", "--value", "--property=MainPID", "docker.service")
    _install(machine, "--deny", cluster.layout.subnet, "--peer", peer, "--open", "50051")
    assert "50051" in machine.check("iptables", "-S", "CUMULUS-INPUT")
    machine.check(COPY, "uninstall")
    now = machine.check("systemctl", "show", "--value", "--property=MainPID", "docker.service")
    assert now == pid, "Docker, and what runs in its containers, went on"
    assert "CUMULUS" not in machine.check("iptables-save")
    assert machine.run("systemctl", "cat", "cumulus-firewall.service").returncode != 0
    for path in ("/usr/local/lib/cumulus", "/etc/cumulus"):
        assert not (machine.root / path.lstrip("/")).exists()
    assert reaches(cluster, "worker1", machine.address, 2377)


def _install(machine: BareMachine, *options: str) -> None:
    (machine.root / "root/firewall.sh").write_bytes(SCRIPT.read_bytes())
    machine.check("bash", "/root/firewall.sh", "install", *options)


def test_provision_firewalls_unit_is_the_one_in_the_repository() -> None:
    told = subprocess.run([SCRIPT, "unit"], capture_output=True, text=True, timeout=20, check=True)
    assert told.stdout == (ROOT / "systemd/cumulus-firewall.service").read_text()
