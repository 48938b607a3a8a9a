"""What a real Swarm's engines tell of themselves comes to the daemon's page by their agents."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.swarm_daemon import TOKENS, SwarmDaemon

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

WORKER_FAMILIES = {
    "engine_daemon_engine_info",
    "engine_daemon_engine_cpus_cpus",
    "engine_daemon_container_states_containers",
    "engine_daemon_container_actions_seconds",
    "process_resident_memory_bytes",
    "swarm_node_info",
}


def families(swarm: SwarmDaemon, path: str) -> dict[str, Any]:
    status, text = swarm.get(path, TOKENS["admin"])
    assert status == 200
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_every_workers_engine_is_on_the_page(swarm: SwarmDaemon) -> None:
    wanted = {node.name for node in swarm.cluster.layout.workers}
    ends = time.monotonic() + 60
    while True:
        found = families(swarm, "/metrics/workers")
        info = found.get("engine_daemon_engine_info")
        workers = set() if info is None else {sample.labels["worker"] for sample in info.samples}
        if workers == wanted:
            break
        assert time.monotonic() < ends, swarm.get("/metrics/workers", TOKENS["admin"])[1]
        time.sleep(0.5)
    assert found.keys() >= WORKER_FAMILIES
    assert found["engine_daemon_container_actions_seconds"].type == "histogram"
    ages = found["cumulus_worker_metrics_age_seconds"].samples
    assert {sample.labels["worker"] for sample in ages} == wanted
    assert swarm.get("/metrics/workers")[0] == 403, "a client's token is no operator's"


def test_requests_to_the_engine_are_timed(swarm: SwarmDaemon) -> None:
    asked = families(swarm, "/metrics")["cumulus_engine_request_seconds"].samples
    counts = {
        (sample.labels["object"], sample.labels["status"]): sample.value
        for sample in asked
        if sample.name.endswith("_count")
    }
    assert counts["nodes", "2xx"] > 0
    assert {name for name, _ in counts} <= {
        *("_ping", "version", "info", "swarm", "nodes", "services"),
        *("tasks", "secrets", "images", "other"),
    }


def until(condition: Callable[[], bool], swarm: SwarmDaemon) -> None:
    ends = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < ends, f"{swarm.get('/health')}\n{swarm.log_text()[-3000:]}"
        time.sleep(0.2)


@pytest.mark.slow
def test_health_is_503_while_the_managers_engine_is_gone(swarm: SwarmDaemon) -> None:
    cluster = swarm.cluster
    assert swarm.get("/health")[0] == 200
    cluster.kill(cluster.manager.name)
    try:
        until(lambda: swarm.get("/health")[0] == 503, swarm)
        parts = swarm.get("/health")[1]["parts"]
        assert "can't be reached" in parts["platform"]
        assert parts["store"] == parts["router"] == parts["journals"] == "ok"
        assert swarm.get("/health/live")[0] == 200
        failed = families(swarm, "/metrics")["cumulus_engine_request_seconds"].samples
        assert any(s.labels["status"] == "none" and s.value > 0 for s in failed)
    finally:
        cluster.start(cluster.manager.name)
        cluster.wait_ready()
    until(lambda: swarm.get("/health")[0] == 200, swarm)
