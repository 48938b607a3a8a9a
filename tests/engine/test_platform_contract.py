"""The contract on a real Swarm, and what only real containers show."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from cumulusd.errors import Unavailable
from engines.cluster import Cluster
from engines.layout import WORKER_ROOT
from tests.contract.platform_contract import PlatformContract, new_job
from tests.contract.site import Contracted, socket_endpoint

pytestmark = pytest.mark.engine

UID = 1000


@pytest_twisted.async_yield_fixture
async def site(cluster: Cluster, engine_image: str) -> AsyncIterator[Contracted]:
    site = make_site(cluster, engine_image)
    yield site
    await site.close()


def make_site(cluster: Cluster, engine_image: str) -> Contracted:
    """On the cluster's first worker, for one test."""
    name = secrets.token_hex(4)
    (worker, *_) = cluster.workers
    folder = cluster.layout.worker_root(worker) / "jobs" / name
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return Contracted(
        reactor=reactor,
        endpoint=socket_endpoint(cluster.endpoint),
        worker_id=cluster.node_id(worker.name),
        image=engine_image,
        worker_root=str(WORKER_ROOT),
        folder=str(WORKER_ROOT / "jobs" / name),
        instance_id=secrets.token_hex(8),
        patience_s=60.0,
    )


class TestOnARealSwarm(PlatformContract):
    pass


@pytest_twisted.ensureDeferred
async def test_a_container_as_its_job_sees_it(site: Contracted) -> None:
    script = (
        "id -u; id -g; touch /here 2>/dev/null && echo root-writable;"
        " touch /tmp/a && echo tmp; touch $0/a && echo folder;"
        " grep -E 'Cap(Eff|Prm|Bnd)' /proc/self/status | tr -d '\\t';"
        " cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null;"
        " cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null;"
        " ls /var/run/docker.sock 2>/dev/null && echo socket; exit 0"
    )
    platform, job_id = site.platform(script), new_job()
    await site.launch(platform, site.spec(job_id))
    assert (await site.ended(platform, job_id)).exit_code == 0
    said = (await platform.explain(job_id, 1)).split()
    nothing = "0" * 16
    assert said == [
        str(UID),
        str(UID),
        "tmp",
        "folder",
        f"CapPrm:{nothing}",
        f"CapEff:{nothing}",
        f"CapBnd:{nothing}",
        "4096",
        str(64 << 20),
    ]


@pytest_twisted.ensureDeferred
async def test_no_task_pulls(site: Contracted, cluster: Cluster) -> None:
    """By its tag a task would ask a registry first; the platform sends the id."""
    platform, job_id = site.platform("exit 0", image="cumulus-tiny:latest"), new_job()
    await site.launch(platform, site.spec(job_id))
    assert (await site.ended(platform, job_id)).exit_code == 0
    (service,) = await site.engine().services({"cumulus.job": job_id})
    sent: Any = service.spec["TaskTemplate"]["ContainerSpec"]["Image"]
    assert sent == site.image and sent.startswith("sha256:")


@pytest_twisted.ensureDeferred
async def test_a_container_of_a_dead_node_counts_as_lost(
    site: Contracted, cluster: Cluster
) -> None:
    platform, job_id = site.platform("sleep 300"), new_job()
    name = cluster.workers[0].name
    await site.launch(platform, site.spec(job_id))
    await site.until(platform, job_id, lambda one: one.alive and not one.message, "running")
    cluster.cut(name)
    try:
        lost = await site.ended(platform, job_id)
        (node,) = [one for one in await platform.nodes() if one.node_id == site.worker_id]
        assert lost.message == f"node {node.hostname} is down" and node.state == "down"
        with pytest.raises(Unavailable):
            await platform.remove(job_id, 1)  # it may run on over there
    finally:
        cluster.mend(name)
    # The Swarm kills it when the node is back.
    told = await site.until(
        platform, job_id, lambda one: not one.alive and "is down" not in one.message, "told"
    )
    assert told is not None and told.exit_code is not None
    await platform.remove(job_id, 1)
    cluster.wait_ready()
