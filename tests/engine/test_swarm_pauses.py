"""Jobs that pause on a real Swarm: where they go on, and what becomes of them when that is gone."""

import pytest

from tests.e2e.test_e2e_pauses import TRAIN, ask, submit
from tests.engine.swarm_daemon import SwarmDaemon

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def paused_on(swarm: SwarmDaemon, job_id: str) -> str:
    """Pauses the job; the host name of the worker that has what it kept."""
    swarm.wait_steps(job_id, 2)
    ask(swarm, f"client.pause_job({job_id!r})")
    view = swarm.wait_job(job_id, "paused", timeout_s=60)
    assert view["worker"] is None
    (folder,) = swarm.folders("kept")
    assert folder.name == job_id
    assert not swarm.folders() and not swarm.services()
    assert not any(swarm.partitions().values()), "it holds no share"
    (where,) = (
        node.name
        for node in swarm.cluster.layout.workers
        if folder.is_relative_to(swarm.cluster.layout.worker_root(node))
    )
    return where


def test_a_paused_job_goes_on_where_its_checkpoint_is(swarm: SwarmDaemon) -> None:
    job_id = submit(swarm, 40)
    where = paused_on(swarm, job_id)
    count = len(swarm.steps_of(job_id)) + 40
    # Two others take both devices; then one is free, and it isn't the one.
    text = "print(*(client.submit(train, gpu_memory=1.0, duration=300, steps=9000).job_id"
    others = swarm.run(TRAIN + text + " for _ in range(2)))").stdout.split()[-2:]
    placed = {}
    for other in others:
        swarm.wait_steps(other, 1)
        view = swarm.job(other)
        placed[view["worker"]["hostname"]] = other
    assert len(placed) == 2
    (elsewhere,) = set(placed) - {where}
    ask(swarm, f"client.cancel_job({placed[elsewhere]!r})")
    swarm.wait_job(placed[elsewhere], "ended")
    ask(swarm, f"client.resume_job({job_id!r})")
    view = swarm.wait_job(job_id, "queued")
    while view["wait"] is None:
        view = swarm.job(job_id)
    assert f"on {where} only" in view["wait"]["message"]
    assert view["phase"] == "queued"
    ask(swarm, f"client.cancel_job({placed[where]!r})")
    value = ask(swarm, f"print(client.attach({job_id!r}).result()['attempts'])")
    assert value.splitlines()[-1] == "[1, 2]"
    assert swarm.steps_of(job_id) == list(range(1, count + 1))
    assert swarm.job(job_id)["worker"]["hostname"] == where
    swarm.wait_nothing_left(60.0)


def test_a_worker_that_is_removed_takes_the_checkpoint_with_it(swarm: SwarmDaemon) -> None:
    job_id = submit(swarm, 1)
    where = paused_on(swarm, job_id)
    swarm.cluster.remove_node(where)
    try:
        said = ask(
            swarm,
            f"""
client.resume_job({job_id!r})
try:
    client.attach({job_id!r}).result(timeout=60)
except RuntimeError as error:
    print(error)
""",
        )
        view = swarm.wait_job(job_id, "ended")
        assert view["end"]["reason"] == "checkpoint_lost"
        assert "removed from the pool" in view["end"]["message"]
        assert view["end"]["message"] in said
    finally:
        swarm.cluster.add_node(where)
        # Swarm takes it for another node: its operator enrols it.
        swarm.cluster.update_node(where, Labels={"cumulus.worker": "true"})
    swarm.wait_usable(2, timeout_s=120.0)
    swarm.wait_nothing_left(90.0)  # what it kept, too, now that its worker is back
