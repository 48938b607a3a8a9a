"""`cumulusd doctor` on a real Swarm: what its manager tells, and what agents and jobs prove."""

import pytest

from tests.e2e.test_e2e_doctor import findings
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.engine.swarm_daemon import SwarmDaemon

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

SUBMIT = """
def work():
    import time
    print("there", flush=True)
    time.sleep(200)

job = client.submit(work, gpu_memory=0.1, duration=250)
for chunk in job.logs():
    break
print(json.dumps({"job_id": job.job_id}))
"""


def test_a_probe_proves_the_image_and_leaves_nothing(swarm: SwarmDaemon) -> None:
    found = findings(swarm, 0, "--probe")
    for node in swarm.cluster.layout.workers:
        agent, image = found[node.name]
        assert (agent["verdict"], image["verdict"]) == ("ok", "ok")
        assert image["said"].endswith("a container was made of it, and ran")
    names = [each["Spec"]["Name"] for each in swarm.cluster.api().call("GET", "/services")]
    assert names and not [name for name in names if "probe" in name]


def test_what_manager_agents_and_jobs_prove(swarm: SwarmDaemon) -> None:
    job_id = last_json(swarm.run(HEAD + SUBMIT).stdout)["job_id"]
    where = swarm.get(f"/api/jobs/{job_id}")[1]["worker"]["hostname"]
    try:
        found = findings(swarm, 0)
    finally:
        swarm.run(HEAD + f'client.attach("{job_id}").cancel()')
    told = {
        subject: [(one["verdict"], one["said"]) for one in each] for subject, each in found.items()
    }
    assert "API 1.4" in told["engine"][0][1] and told["engine"][0][0] == "ok"
    assert told["manager"][0][0] == told["quorum"][0][0] == told["clock"][0][0] == "ok"
    assert [verdict for verdict, _ in told["image"]] == ["ok", "ok"]
    assert ("ok", "2 of 2 can take jobs") in told["workers"]
    assert told["advertise_url"][-1][0] == "ok" and "answers" in told["advertise_url"][-1][1]
    assert told["ports"][0][0] == "ok", told["ports"]
    workers = {node.name for node in swarm.cluster.layout.workers}
    for name in workers:
        agent, image, *more = told[name]
        assert agent[0] == "ok" and "its agent is connected" in agent[1] and not more
        assert image[0] == ("ok" if name == where else "not known"), told[name]


@pytest.mark.leaks("processes", reason="the module's daemon is stopped and started again")
def test_a_stopped_daemon_leaves_some_things_not_known(swarm: SwarmDaemon) -> None:
    swarm.stop()
    try:
        found = findings(swarm, 0)
    finally:
        swarm.start()
        swarm.wait_usable()
    assert found["manager"][0]["verdict"] == "ok"
    assert found["advertise_url"][-1]["verdict"] == "not known"
    for node in swarm.cluster.layout.workers:
        agent = found[node.name][0]
        assert agent["verdict"] == "not known" and "Only a running daemon" in agent["said"]
