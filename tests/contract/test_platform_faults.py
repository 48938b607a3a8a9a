"""The platform where the Swarm or its engine fails it, on the fake Engine."""

import secrets
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from cumulusd.errors import Unavailable
from cumulusd.swarm import platform as swarm_platform
from cumulusd.swarm.engine import Engine
from cumulusd.swarm.platform import SwarmPlatform
from cumulusd.swarm.service_spec import JobSettings
from cumulusd.tasks import sleep
from tests.contract.fake_engine import FakeEngine, Fault
from tests.contract.site import FOLDER, Contracted, socket_endpoint


@pytest_twisted.ensureDeferred
async def test_no_manager_no_check(fake: FakeEngine, client: Engine) -> None:
    fake.is_manager = False
    platform = SwarmPlatform(
        engine=client,
        clock=reactor,
        settings=JobSettings(instance_id="i", worker_root="/w"),
        image="job:1",
    )
    with pytest.raises(Unavailable, match="no Swarm manager") as caught:
        await platform.check()
    assert caught.value.hint and "swarm init" in caught.value.hint
    await platform.close()


@pytest_twisted.ensureDeferred
async def test_the_container_of_a_dead_node_counts_as_lost_until_it_is_back(
    fake: FakeEngine,
    site: Contracted,
) -> None:
    platform = site.platform("sleep 30")
    await site.launch(platform, site.spec("job_a"))
    await site.until(platform, "job_a", lambda one: not one.message, "running")
    fake.swarm.node_down(site.worker_id)
    lost = (await platform.containers())["job_a"]
    assert (lost.alive, lost.message, lost.exit_code) == (False, "node worker1 is down", None)
    with pytest.raises(Unavailable):
        await platform.remove("job_a", 1)  # it may run on over there
    with pytest.raises(Unavailable):
        await platform.remove_ended("job_a", 1)
    fake.swarm.node_up(site.worker_id)
    assert (await platform.containers())["job_a"].alive
    assert (await site.ended(platform, "job_a")).exit_code == 143
    await platform.remove("job_a", 1)


@pytest_twisted.ensureDeferred
async def test_the_container_of_a_removed_node_is_gone_and_its_service_can_go(
    fake: FakeEngine,
    site: Contracted,
) -> None:
    platform = site.platform("sleep 30")
    await site.launch(platform, site.spec("job_a", attempt=1))
    await site.until(platform, "job_a", lambda one: not one.message, "running")
    fake.swarm.node_down(site.worker_id)
    fake.swarm.forget_node(site.worker_id)
    gone = (await platform.containers())["job_a"]
    assert (gone.alive, gone.exit_code) == (False, None)
    assert "was removed from the Swarm" in gone.message
    await platform.stop("job_a", 1)
    assert await platform.remove_ended("job_a", 1)
    assert await platform.all_containers() == []


@pytest_twisted.ensureDeferred
async def test_an_older_attempts_container_is_listed_beside_the_newest(
    fake: FakeEngine, site: Contracted
) -> None:
    platform = site.platform("sleep 30")
    await site.launch(platform, site.spec("job_a", attempt=1))
    await site.launch(platform, site.spec("job_a", attempt=2))
    assert (await platform.containers())["job_a"].attempt == 2
    assert sorted(one.attempt for one in await platform.all_containers()) == [1, 2]
    await platform.stop("job_a", 1)
    await site.until(platform, "job_a", lambda one: not one.message, "running")
    alive = {one.attempt: one.alive for one in await platform.all_containers()}
    assert alive[2], "the newer one is left alone"


@pytest_twisted.ensureDeferred
async def test_many_who_ask_share_a_look(fake: FakeEngine, site: Contracted) -> None:
    platform = site.platform("sleep 30")
    await site.launch(platform, site.spec("job_a"))
    fake.asked.clear()
    asking = [Deferred.fromCoroutine(platform.containers()) for _ in range(50)]
    for each in asking:
        assert "job_a" in await each
    assert fake.asked.count("GET /v1.41/tasks") <= 2


@pytest_twisted.ensureDeferred
async def test_many_who_remove_what_has_ended_share_a_look(
    fake: FakeEngine, site: Contracted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One deletion each, beside one look at all, also where one who comes alone would not wait for
    so large a look."""
    monkeypatch.setattr(swarm_platform, "_ASK_ALONE", 1)
    platform = site.platform("exit 0")
    names = [f"job_{number}" for number in range(8)]
    for name in names:
        await site.launch(platform, site.spec(name))
    for name in names:
        await site.ended(platform, name)
    fake.asked.clear()
    removing = [Deferred.fromCoroutine(platform.remove_ended(name, 1)) for name in names]
    for each in removing:
        assert await each
    assert sum(one.startswith("GET") for one in fake.asked) <= 4
    assert sum(one.startswith("DELETE") for one in fake.asked) == len(names)
    assert not fake.swarm.services


@pytest_twisted.ensureDeferred
async def test_what_runs_on_after_its_service_was_removed_is_seen(
    fake: FakeEngine,
    site: Contracted,
) -> None:
    platform = site.platform("trap '' TERM; sleep 30")
    await site.launch(platform, site.spec("job_a"))
    await site.until(platform, "job_a", lambda one: not one.message, "running")
    (task,) = fake.swarm.tasks
    services = dict(fake.swarm.services)
    fake.swarm.services.clear()
    task.desired = "remove"
    found = (await platform.containers())["job_a"]
    assert (found.alive, found.attempt, found.node_id) == (True, 1, site.worker_id)
    fake.swarm.services.update(services)


@pytest_twisted.ensureDeferred
async def test_a_digest_goes_before_the_id(
    fake: FakeEngine,
    site: Contracted,
) -> None:
    digest = "registry.example:5000/job@sha256:" + "a" * 64
    fake.swarm.add_image("registry.example:5000/job:2", digests=("other@sha256:b", digest))
    platform = site.platform("exit 0", image="registry.example:5000/job:2")
    await site.launch(platform, site.spec("job_a"))
    (service,) = fake.swarm.services.values()
    assert service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == digest
    assert (await site.ended(platform, "job_a")).exit_code == 0


@pytest_twisted.ensureDeferred
async def test_closing_ends_a_launch_that_waits(
    fake: FakeEngine,
    client: Engine,
) -> None:
    platform = SwarmPlatform(
        engine=client,
        clock=reactor,
        settings=JobSettings(instance_id=secrets.token_hex(4), worker_root="/var/lib/cumulus"),
        image="job:1",
    )
    fake.faults = [Fault("/services/create", "hang"), Fault("/tasks", "hang")]
    nowhere = Contracted(
        reactor=reactor,
        endpoint=socket_endpoint(Path("/none")),
        worker_id="n",
        image="",
        worker_root="/var/lib/cumulus",
        folder=FOLDER,
        instance_id="",
        patience_s=1,
    )
    launching = Deferred.fromCoroutine(platform.launch(nowhere.spec("job_a")))
    looking = Deferred.fromCoroutine(platform.containers())
    await sleep(reactor, 0.2)
    await platform.close()
    for each in (launching, looking):
        with pytest.raises(Unavailable, match="stopping"):
            await each
