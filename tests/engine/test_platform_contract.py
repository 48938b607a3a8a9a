"""The contract on a real Swarm, and what only real containers show."""

import os
import secrets
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from cumulus_wire.grant import OPENCL_LAYER, Tier
from cumulusd.agent.grant_folder import GrantFolders
from cumulusd.chronos.grant import make_grant
from cumulusd.chronos.ledger import Device, Partition
from cumulusd.chronos.tiers import HAMI_LIBRARY, MPS_PIPES, Offers
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


#: Of a card that CUDA and OpenCL show, so that its grants have all there is to be mounted.
CARD = Device(
    device_id="d0",
    index=0,
    name="Card",
    kind="gpu",
    memory_bytes=8 << 30,
    uuid="ab" * 16,
    platform="NVIDIA CUDA",
    ordinal=0,
    cuda_uuid="GPU-x",
)
OPENCL_WORDS = [
    "version=1",
    "grant-read-only",  # and root's
    "usage-kept",
    "usage-written",
]
CUDA_WORDS = {
    Tier.MPS: ["pipe", "shm-is-the-workers"],
    Tier.HAMI: [OPENCL_LAYER, HAMI_LIBRARY, "library", "CUDA_DEVICE_MEMORY_LIMIT=2048m", "lock"],
}
CUDA_LOOKS = {
    Tier.MPS: f"test -p {MPS_PIPES}/control && echo pipe;"
    " test -e /dev/shm/of-the-worker && touch /dev/shm/a && echo shm-is-the-workers;",
    Tier.HAMI: f"cat /etc/ld.so.preload; test -s {HAMI_LIBRARY} && echo library;"
    " head -n 1 /overrideEnv; echo >> /overrideEnv; touch /tmp/vgpulock/a && echo lock;",
}


@pytest.mark.parametrize("tier", list(CUDA_WORDS))
@pytest_twisted.ensureDeferred
async def test_a_grants_files_as_its_job_sees_them(
    site: Contracted, cluster: Cluster, tier: Tier
) -> None:
    root = cluster.layout.worker_root(cluster.workers[0])
    job_id = new_job()
    extra = root / "tiers" / job_id
    for folder in ("pipe", "shm"):
        (extra / folder).mkdir(parents=True)
    (extra / "shm").chmod(0o777)
    os.mkfifo(extra / "pipe" / "control")
    (extra / "shm" / "of-the-worker").touch()
    (extra / "libvgpu.so").write_bytes(b"no real one")
    there = f"{site.worker_root}/tiers/{job_id}"
    offers = Offers(
        tiers=frozenset({tier, Tier.OPENCL}),
        mps_pipes=f"{there}/pipe",
        mps_shared_memory=f"{there}/shm",
        hami_library=f"{there}/libvgpu.so",
    )
    partition = Partition(
        partition_id="p",
        job_id=job_id,
        attempt=1,
        device_id="d0",
        units=2500,
        gpu_memory_bytes=2 << 30,
        boot_id="b",
        expires_s=1.0,
    )
    grant = make_grant(partition, CARD, offers, f"{site.worker_root}/grants/{job_id}", 2.0)
    assert (grant.tier, grant.opencl) == (tier, True)
    trash = os.open(root, os.O_RDONLY)
    grants = GrantFolders(root, trash)
    script = (
        "head -n 1 /run/cumulus/grant/opencl;"
        " touch /run/cumulus/grant/a || echo > /run/cumulus/grant/opencl || echo grant-read-only;"
        " rm -f /run/cumulus/usage/opencl || mv /run/cumulus/usage/opencl /run/cumulus/usage/b ||"
        " touch /run/cumulus/usage/b || echo usage-kept;"
        " echo > /run/cumulus/usage/opencl && echo usage-written;" + CUDA_LOOKS[tier] + " exit 0"
    )
    try:
        grants.write(job_id, grant, {})
        platform = site.platform(f"exec 2>/dev/null; {script}")
        mounts = ((site.folder, site.folder, False), *grant.mounts)
        await site.launch(platform, site.spec(job_id, mounts=mounts))
        ended = await site.ended(platform, job_id)
        assert ended.exit_code == 0, ended
        said = (await platform.explain(job_id, 1)).split()
    finally:
        grants.close()
        os.close(trash)
        for left in (extra, root / "grants" / job_id):
            shutil.rmtree(left)
    assert said == OPENCL_WORDS + CUDA_WORDS[tier]


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
