"""A job's secrets on a Swarm: in its code's environment, and in nothing that Swarm keeps of it."""

import hashlib
import json
import re

import pytest

from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.engine.swarm_daemon import SwarmDaemon
from tests.next_line import next_line
from tests.security.marked import Marked, files_holding

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def kept_of_jobs(swarm: SwarmDaemon) -> dict[str, str]:
    """All that the engines tell of services, tasks, configs and secrets, and of containers."""
    api = swarm.cluster.api()
    told = {
        what: json.dumps(api.call("GET", f"/{what}"))
        for what in ("services", "tasks", "configs", "secrets", "networks", "volumes")
    }
    for node in swarm.cluster.layout.nodes:
        engine = swarm.cluster.api(node)
        for container in engine.call("GET", "/containers/json", query={"all": "1"}):
            name = f"{node.name}{container['Names'][0]}"
            told[name] = json.dumps(engine.call("GET", f"/containers/{container['Id']}/json"))
    return told


def test_no_specification_has_them(swarm: SwarmDaemon) -> None:
    secret = Marked("swarm")
    script = (
        HEAD
        + f"""
VALUE = {secret.source}

def use(go):
    import hashlib, os, time
    print("up", flush=True)
    while time.time() < go:  # until the engines were asked
        time.sleep(0.05)
    return hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest()

job = client.submit(use, duration=60, secrets={{"TOKEN": VALUE}}, args=[time.time() + 8])
next(iter(job.logs(follow=True)))
print(job.job_id, flush=True)
print(json.dumps({{"sha256": job.result(timeout=60)}}))
"""
    )
    with swarm.begin(script) as process:
        assert process.stdout is not None
        job_id = next_line(process).strip()
        assert job_id.startswith("job_"), process.communicate(timeout=30)
        told = kept_of_jobs(swarm)
        out, err = process.communicate(timeout=60)
    assert any(job_id in text for text in told.values()), "the job's service was there"
    assert any(f"cumulus-job-{job_id}" in name for name in told), "and its container"
    assert [what for what, text in told.items() if secret.is_in(text.encode())] == []
    assert last_json(out)["sha256"] == hashlib.sha256(secret.value.encode()).hexdigest(), err
    swarm.wait_nothing_left(30.0)
    told = kept_of_jobs(swarm)
    assert [what for what, text in told.items() if secret.is_in(text.encode())] == []
    assert files_holding(swarm.folder, [secret]) == {}
    for node in swarm.cluster.layout.workers:
        assert files_holding(swarm.cluster.layout.worker_root(node), [secret]) == {}
    # Nor has any the agents' tokens: Swarm gives them as files of their containers alone.
    state = json.loads((swarm.folder / "state/agents.json").read_text())
    hashes = set(re.findall(r"[0-9a-f]{64}", json.dumps(state)))
    assert hashes, state
    words = {word for text in told.values() for word in re.split(r"[^A-Za-z0-9_-]+", text)}
    assert any("CUMULUS_AGENT_TOKEN_FILE" in text for text in told.values())
    assert not hashes & {hashlib.sha256(word.encode()).hexdigest() for word in words}
