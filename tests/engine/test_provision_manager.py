"""A bare Debian 12 becomes a Swarm manager with the daemon by manager.sh, and is put back."""

import os
import subprocess
from pathlib import Path

import pytest

from engines.machine import BareMachine
from tests.e2e.harness import REPOSITORY

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

#: What a company's network takes: pip doesn't look at the system's certificates by itself.
_ENVIRONMENT = {"PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}
LOG = "var/log/cumulus-manager.log"


def give_checkout(machine: BareMachine) -> None:
    """This one, as `git clone` would bring it."""
    target = machine.root / "root/cumulus"
    target.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    names = [one for one in listed.split(b"\0") if one and (REPOSITORY / os.fsdecode(one)).exists()]
    archive = machine.root / "root/cumulus.tar"
    subprocess.run(
        ["tar", "--create", "--null", "--files-from=-", f"--file={archive}"],
        cwd=REPOSITORY,
        input=b"\0".join(names),
        check=True,
        timeout=60,
    )
    machine.check("tar", "--extract", "--file=/root/cumulus.tar", "--directory=/root/cumulus")


def run_script(machine: BareMachine, *words: str) -> str:
    done = machine.run(
        *("/root/cumulus/provision/manager.sh", *words), timeout_s=500, environment=_ENVIRONMENT
    )
    log = machine.root / LOG
    tail = log.read_text(errors="replace")[-6000:] if log.exists() else ""
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{tail}"
    print(done.stderr)
    return done.stderr


def test_provision_manager_sets_swarm_and_daemon_up_and_takes_them_back(
    bare_machine: BareMachine, image_archives: dict[str, Path]
) -> None:
    machine = bare_machine
    give_checkout(machine)
    loads = []
    for archive in image_archives.values():
        os.link(archive, machine.root / "root" / archive.name)
        loads += ["--load", f"/root/{archive.name}"]

    said = run_script(machine, *loads, "--count-cpu-devices")
    assert f"the daemon is up: https://{machine.address}:50051" in said
    assert machine.is_active("cumulusd.service")
    assert machine.is_active("cumulus-firewall.service")
    ask = ("curl", "--silent", "--fail", "--cacert", "/etc/cumulus/tls/ca.pem")
    url = f"https://{machine.address}:50051"
    assert machine.check(*ask, f"{url}/health")
    token = (machine.root / "etc/cumulus/admin.token").read_text().strip()
    assert machine.check(*ask, "--header", f"Authorization: Bearer {token}", f"{url}/api/jobs")
    assert machine.run(*ask, f"{url}/api/jobs").returncode != 0, "without a token"

    command = machine.check(
        *("runuser", "-u", "cumulusd", "--", "sh", "-c"),
        "/opt/cumulus/venv/bin/cumulusd provision-token create "
        "--config /etc/cumulus/cumulusd.yaml 2>&1 >/dev/null",
    )
    assert f"--orchestrator {url}" in command and "--fingerprint sha256//" in command
    assert url in machine.check(*ask, f"{url}/provision/worker.sh")

    first = machine.check("systemctl", "show", "--property=MainPID", "cumulusd.service")
    again = run_script(machine)
    assert "[4/12] the Swarm: already so" in again
    after = machine.check("systemctl", "show", "--property=MainPID", "cumulusd.service")
    assert after == first, "nothing changed, so the daemon was not restarted"

    run_script(machine, "--uninstall", "--purge")
    for path in ("etc/cumulus", "var/lib/cumulusd", "var/lib/cumulus-manager", "opt/cumulus"):
        assert not (machine.root / path).exists(), path
    assert "CUMULUS" not in machine.check("iptables-save")
    assert machine.run("id", "cumulusd").returncode != 0
    assert machine.check("docker", "info", "--format", "{{.Swarm.LocalNodeState}}").strip() == (
        "inactive"
    )
