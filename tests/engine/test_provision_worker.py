"""A bare Debian 12 becomes a worker of a running Swarm by worker.sh alone, and leaves again."""

import os
import time
from collections.abc import Iterator

import pytest

from engines.cluster import Cluster
from engines.machine import BareMachine
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.engine.provisioned import (
    CHRONOS_CALLS,
    WORKER_ROOT,
    ProvisioningDaemon,
    begin_and_kill,
    files_of,
    give_chronos_source,
    log_of,
)
from tests.engine.swarm_daemon import on_cluster

#: From the command to its having left, with a job in between, on a machine that does nothing else.
WHOLE_S = 300.0
#: How long one step of it is waited for, however busy the machine.
WAIT_S = 900.0

#: The step that takes longest, in worker.sh's words.
_IMAGES = r"\] the images"

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(2000)]

_JOB = (
    HEAD
    + """
def add(a, b):
    print("on a share of", __import__("os").environ["CUMULUS_PARTITION_ID"])
    return a + b

job = client.submit(add, args=[40, 2], gpu_memory=0.25, duration=120)
value = job.result(timeout=120)
print(json.dumps({"id": job.job_id, "value": value}))
"""
)


@pytest.fixture
def daemon(
    cluster: Cluster,
    cluster_images: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ProvisioningDaemon]:
    """On the cluster, of whose nodes none is a worker."""
    made = ProvisioningDaemon(tmp_path_factory.mktemp("provision"), cluster, cluster_images)
    with on_cluster(made, workers=0):
        yield made


def is_busy() -> bool:
    """Do others want more of this machine's processors than there are?"""
    return os.getloadavg()[0] > 2 * (os.cpu_count() or 1)


def join(machine: BareMachine, command: str, source: str, timeout_s: float = WAIT_S) -> str:
    """Runs the command as root does: what it said."""
    done = machine.run(
        *("bash", "-c", f"{command} --cpu-opencl --chronos-source {source}"), timeout_s=timeout_s
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{log_of(machine)[-6000:]}"
    print(done.stderr)
    return done.stderr


def leave(machine: BareMachine, command: str, timeout_s: float = WAIT_S) -> None:
    """As the command, without a token: the machine has it."""
    fetch = command.partition(" --orchestrator")[0]
    done = machine.run("bash", "-c", f"{fetch} --uninstall --purge", timeout_s=timeout_s)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{log_of(machine)[-6000:]}"
    print(done.stderr)


def run_job(daemon: ProvisioningDaemon, machine: BareMachine) -> None:
    """A job, which runs there: nowhere else is a worker."""
    told = last_json(daemon.run(_JOB, timeout_s=180).stdout)
    assert told["value"] == 42
    assert daemon.job(told["id"])["worker"]["hostname"] == machine.name


def nodes(daemon: ProvisioningDaemon) -> dict[str, str]:
    """Host name -> state, of the whole Swarm."""
    listed = daemon.cluster.api().call("GET", "/nodes")
    return {node["Description"]["Hostname"]: node["Status"]["State"] for node in listed}


def test_provision_makes_a_bare_machine_a_worker_that_runs_a_job_and_leaves(
    daemon: ProvisioningDaemon, bare_machine: BareMachine
) -> None:
    machine = bare_machine
    source, before = give_chronos_source(machine), files_of(machine)
    join_token = daemon.join_token()
    command = daemon.worker_command()

    began, busy = time.monotonic(), is_busy()
    assert "is a worker of" in join(machine, command, source)
    assert nodes(daemon)[machine.name] == "ready"
    assert daemon.join_token() != join_token, "it changes once it has been used"
    kept = (machine.root / "etc/cumulus/worker.env").read_text() + log_of(machine)
    assert "SWMTKN" not in kept
    machine.check("/usr/local/lib/cumulus/firewall.sh", "status")

    run_job(daemon, machine)
    calls = (machine.root / WORKER_ROOT / CHRONOS_CALLS / "calls").read_text()
    assert " create " in calls, "the library that was built there books the job's share"

    leave(machine, command)
    daemon.wait_forgotten(machine.name)
    took_s = time.monotonic() - began
    print(f"joined, ran a job and left in {took_s:.0f} s")
    assert took_s < WHOLE_S or busy or is_busy()
    # Debian's python3, which stays, makes these.
    stays = {"usr/local/lib/python3.11", "usr/local/lib/python3.11/dist-packages"}
    assert files_of(machine) - before - stays == set()
    assert machine.run("which", "dockerd").returncode != 0, "--purge"
    assert "CUMULUS" not in machine.run("sh", "-c", "iptables-save 2>/dev/null").stdout


def test_provision_goes_on_where_it_was_killed_and_may_be_repeated(
    daemon: ProvisioningDaemon, bare_machine: BareMachine
) -> None:
    machine = bare_machine
    source, command = give_chronos_source(machine), daemon.worker_command()
    begin_and_kill(machine, f"{command} --cpu-opencl --chronos-source {source}", _IMAGES)
    assert not (machine.root / "usr/local/lib/cumulus/firewall.sh").exists(), "it was done by then"
    assert "is a worker of" in join(machine, command, source)

    engine = machine.check("systemctl", "show", "--property=MainPID", "docker.service")
    settings = (machine.root / "etc/docker/daemon.json").read_text()
    assert "is a worker of" in join(machine, command, source)
    again = machine.check("systemctl", "show", "--property=MainPID", "docker.service")
    assert again == engine, "nothing changed, so no engine was restarted"
    assert (machine.root / "etc/docker/daemon.json").read_text() == settings

    machine.reboot()
    run_job(daemon, machine)
    leave(machine, command)
    daemon.wait_forgotten(machine.name)
