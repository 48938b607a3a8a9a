"""Jobs that are run again on a real Swarm, once nothing of the attempt before can run any more."""

import json
import time
from typing import Any

import pytest

from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.engine.swarm_daemon import SwarmDaemon

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

#: A job that ends by itself only in its second attempt.
SUBMIT = """
def work():
    import socket, time
    print("began")
    for _ in range(LONG * 10):
        time.sleep(0.1)
    return 7

job = client.submit(work, gpu_memory=0.5, duration=250, retries=1)
for chunk in job.logs():
    break
print(json.dumps({"job_id": job.job_id}))
"""


def view_when(swarm: SwarmDaemon, job_id: str, met: Any, timeout_s: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        view = swarm.get(f"/api/jobs/{job_id}")[1]
        if met(view):
            return view
        assert time.monotonic() < deadline, json.dumps(view, indent=1) + swarm.log_text()[-4000:]
        time.sleep(0.2)


def started(swarm: SwarmDaemon, seconds: int) -> tuple[str, str]:
    told = swarm.run(HEAD + SUBMIT.replace("LONG", str(seconds)))
    job_id = last_json(told.stdout)["job_id"]
    view = view_when(swarm, job_id, lambda view: view["status"] == "running")
    return job_id, view["worker"]["hostname"]


def one_stream(swarm: SwarmDaemon, job_id: str) -> str:
    show = f'print(json.dumps({{"log": "".join(client.attach("{job_id}").logs())}}))'
    return str(last_json(swarm.run(HEAD + show).stdout)["log"])


def test_a_drained_workers_job_is_run_again_on_the_other(swarm: SwarmDaemon) -> None:
    job_id, hostname = started(swarm, 8)
    swarm.cluster.update_node(hostname, Availability="drain")
    try:
        view = view_when(swarm, job_id, lambda view: view["end"] is not None)
        assert (view["status"], view["attempt"]) == ("completed", 2), view
        (over,) = view["attempts"]
        assert (over["reason"], over["worker"]["hostname"]) == ("worker_drained", hostname)
        assert view["worker"]["hostname"] != hostname
        assert one_stream(swarm, job_id) == "began\nbegan\n"
    finally:
        swarm.cluster.update_node(hostname, Availability="active")
        swarm.wait_usable(timeout_s=90)
    swarm.wait_nothing_left(30.0)


@pytest.mark.slow
def test_a_killed_workers_job_waits_for_it_and_is_run_again(swarm: SwarmDaemon) -> None:
    job_id, hostname = started(swarm, 30)
    swarm.cluster.kill(hostname)
    try:
        view = view_when(swarm, job_id, lambda view: view["phase"] == "retrying")
        assert (view["status"], view["wait"]["reason"]) == ("pending", "retrying")
        assert view["wait"]["details"]["ended"] == "worker_lost"
        assert hostname in view["wait"]["message"]
    finally:
        swarm.cluster.start(hostname)
        swarm.cluster.wait_ready()
    view = view_when(swarm, job_id, lambda view: view["attempt"] == 2 and view["started_at"])
    assert view["attempts"][0]["reason"] == "worker_lost"
    view = view_when(swarm, job_id, lambda view: view["end"] is not None)
    assert view["status"] == "completed", view
    assert one_stream(swarm, job_id) == "began\nbegan\n"
    swarm.wait_usable(timeout_s=90)
    swarm.wait_nothing_left(30.0)
