"""Ends that the daemon gives a job itself, as its container can not: they take a minute."""

import secrets

import pytest

from engines.cluster import Cluster
from tests.engine.swarm_daemon import SwarmDaemon
from tests.engine.test_swarm_ends import (  # noqa: F401
    TALK,
    Told,
    begin,
    container_of,
    ended,
    one,
    running,
    swarm,
    until,
)

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]


def hold_devices(cluster: Cluster, image: str) -> list[str]:
    """Somebody else's services, which have what Swarm may give of the workers' devices: names."""
    names = []
    for node in cluster.workers:
        held = [{"DiscreteResourceSpec": {"Kind": "cumulus_gpu0", "Value": 9000}}]
        names.append(f"another-{secrets.token_hex(4)}")
        service = {
            "Name": names[-1],
            "TaskTemplate": {
                "ContainerSpec": {"Image": image, "Command": ["sleep", "900"], "Init": True},
                "Placement": {"Constraints": [f"node.id=={cluster.node_id(node.name)}"]},
                "Resources": {"Reservations": {"GenericResources": held}},
            },
        }
        cluster.api().call("POST", "/services/create", service)

        def runs(name: str = node.name, service: str = names[-1]) -> bool:
            containers = cluster.api(name).call("GET", "/containers/json")
            return any(service in each for one in containers for each in one["Names"])

        until(runs, "running")
    return names


def test_without_a_place_and_over_time(swarm: SwarmDaemon, engine_image: str) -> None:  # noqa: F811
    frozen = begin(swarm, TALK, duration=10, gpu_memory=0.05)
    worker = running(swarm, frozen)
    container = container_of(swarm, worker, frozen)
    assert container is not None
    # Its own clock stands still: the daemon's order is what ends it.
    swarm.cluster.api(worker).call("POST", f"/containers/{container}/pause")
    names = hold_devices(swarm.cluster, engine_image)
    try:
        unplaced = begin(swarm, "pass", gpu_memory=0.5)
        until(lambda: (one(swarm, unplaced)["wait"] or {}).get("reason") == "no_place", "told")
        assert "no suitable node" in one(swarm, unplaced)["wait"]["message"]
        Told(
            "failed",
            "unschedulable",
            ("no suitable node", "insufficient resources"),
            ("operator", "reserve"),
            tail=None,
        ).check(ended(swarm, unplaced, 150))
    finally:
        for name in names:
            swarm.cluster.api().call("DELETE", f"/services/{name}")
    Told("timeout", "duration_exceeded", ("10 s",), ("duration",)).check(ended(swarm, frozen, 150))
    swarm.wait_nothing_left(60.0)
