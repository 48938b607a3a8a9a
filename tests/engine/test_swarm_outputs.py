"""What jobs leave to be downloaded, and their progress, on a real Swarm."""

import time
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon

# The very tests of the local platform.
from tests.e2e.test_e2e_outputs import (  # noqa: F401
    SUBMIT,
    test_a_job_that_did_not_complete_leaves_what_is_there,
    test_outputs_are_listed_and_downloaded,
)
from tests.engine.swarm_daemon import SwarmDaemon

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def kill_agents(swarm: SwarmDaemon) -> None:
    """kill -9 to each worker's; Swarm starts them anew after its delay."""
    for node in swarm.cluster.layout.workers:
        engine = swarm.cluster.api(node)
        for container in engine.call("GET", "/containers/json"):
            if any("cumulus-agent-" in name for name in container["Names"]):
                engine.call("POST", f"/containers/{container['Id']}/kill")


def test_agents_killed_in_the_middle_of_a_pull_go_on(daemon: Daemon, swarm: SwarmDaemon) -> None:
    done = swarm.run(
        SUBMIT + "print(client.submit(write, gpu_memory=0.1, duration=120, megabytes=400).job_id)\n"
    )
    job_id = done.stdout.strip()
    folder = swarm.state_dir / "outputs" / job_id
    deadline = time.monotonic() + 90

    def parts() -> list[int]:
        sizes = []
        for path in folder.glob("*.part"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue  # it is whole now
        return sizes

    while not any(size > 1 << 20 for size in parts()):
        assert time.monotonic() < deadline, swarm.log_text()[-3000:]
        assert swarm.job(job_id)["end"] is None
        time.sleep(0.005)
    kill_agents(swarm)
    assert swarm.job(job_id)["end"] is None, "it was over before the agents were killed"
    swarm.wait_job(job_id, "ended", timeout_s=120)
    done = swarm.run(
        SUBMIT
        + f"job = client.attach({job_id!r})\n"
        + "path = job.download('big.bin', 'big')\n"
        + "with path.open('rb') as file:\n"
        + "    assert hashlib.file_digest(file, 'sha256').hexdigest() == big(400)\n"
        + "print(job.view()['status'], len(job.outputs()), job.view()['end']['outputs_note'])\n"
    )
    assert done.stdout.split() == ["completed", "2", "None"]
    swarm.wait_usable()


def test_progress_comes_out_of_a_container(daemon: Daemon) -> None:
    done = daemon.run(
        """
from cumulus_client import CumulusClient

def work():
    import time
    import runtime
    for step in range(4):
        runtime.progress(step / 4, f"epoch {step}")
        time.sleep(0.3)
    runtime.progress(1.0, "done")
    return 3

client = CumulusClient("{URL}")
print(client.run(work, gpu_memory=0.1, duration=60))
"""
    )
    assert done.stdout == "3\n"
    assert "[cumulus] 0% epoch 0" in done.stderr
    assert "[cumulus] 100% done" in done.stderr


def test_kept_folders_go_with_their_jobs(daemon: Daemon, swarm: SwarmDaemon) -> None:
    daemon.run(SUBMIT + "client.run(write, gpu_memory=0.1, duration=60)\n")
    swarm.wait_nothing_left(30.0)
    kept: list[Path] = swarm.folders("kept")
    assert kept == []
