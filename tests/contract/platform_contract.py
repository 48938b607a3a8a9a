"""What the daemon relies on of a Swarm, as tests: the same on the fake Engine and on real ones.

A module that runs them has a fixture `site` (a `Contracted`) and inherits `PlatformContract`.
"""

import secrets
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from cumulusd.errors import Conflict, CumulusError, NotFound, Unavailable
from cumulusd.jobs.ports import Holding
from cumulusd.swarm import labels
from cumulusd.swarm import platform as swarm_platform
from cumulusd.tasks import Tasks, sleep
from tests.contract.site import UNITS, Contracted

_MISSING = "sha256:" + "0" * 64


def new_job() -> str:
    return f"job_{secrets.token_hex(6)}"


class PlatformContract:
    """Inherit it as `Test…`."""

    @pytest_twisted.ensureDeferred
    async def test_an_enrolled_node_is_a_worker(self, site: Contracted) -> None:
        engine, platform = site.engine(), site.platform("exit 0")

        async def worker() -> Any:
            (node,) = [one for one in await platform.nodes() if one.node_id == site.worker_id]
            return node

        assert not (await worker()).is_worker
        mine = {labels.WORKER: "true", labels.INSTANCE: site.instance_id}
        await engine.update_node(site.worker_id, labels=mine)
        try:
            node = await worker()
            assert (node.is_worker, node.state, node.availability) == (True, "ready", "active")
            assert node.usable and node.hostname
            await engine.update_node(site.worker_id, availability="drain")
            assert (await worker()).availability == "drain"
            assert not (await worker()).usable
            await engine.update_node(site.worker_id, labels={labels.INSTANCE: "somebody else"})
            assert not (await worker()).is_worker
        finally:
            await engine.update_node(
                site.worker_id,
                labels={labels.WORKER: None, labels.INSTANCE: None},
                availability="active",
            )
        assert not set((await engine.node(site.worker_id)).labels) & set(mine)

    @pytest_twisted.ensureDeferred
    async def test_node_events_are_heard(self, site: Contracted) -> None:
        engine, tasks = site.engine(), Tasks()
        connected: Deferred[None] = Deferred()
        heard: Deferred[Any] = Deferred()
        tasks.start(
            engine.watch_events(
                ["node"],
                connected=lambda: connected.callback(None),
                heard=lambda event: None if heard.called else heard.callback(event),
            ),
            "watching",
        )
        await connected
        await engine.update_node(site.worker_id, labels={"cumulus.test": "1"})
        event = await heard.addTimeout(site.patience_s, site.reactor)
        assert (event.kind, event.action, event.actor_id) == ("node", "update", site.worker_id)
        await engine.update_node(site.worker_id, labels={"cumulus.test": None})
        await tasks.stop()

    @pytest.mark.parametrize(
        ("script", "code", "words"),
        [("exit 0", 0, "complete"), ("exit 3", 3, "task: non-zero exit (3)")],
    )
    @pytest_twisted.ensureDeferred
    async def test_an_exit_is_seen(
        self, site: Contracted, script: str, code: int, words: str
    ) -> None:
        platform, job_id = site.platform(script), new_job()
        await site.launch(platform, site.spec(job_id, attempt=2))
        at_once = (await platform.containers())[job_id]
        assert at_once.alive and at_once.attempt == 2
        ended = await site.ended(platform, job_id)
        assert (ended.exit_code, ended.message) == (code, words)
        assert ended.node_id == site.worker_id
        await platform.remove(job_id, 2)
        assert job_id not in await platform.containers()
        await platform.remove(job_id, 2)

    @pytest.mark.parametrize("alone", [False, True], ids=["shared look", "alone"])
    @pytest_twisted.ensureDeferred
    async def test_one_container_is_told_of_by_itself(
        self, site: Contracted, monkeypatch: pytest.MonkeyPatch, alone: bool
    ) -> None:
        """Whichever way it is asked for: that depends on how many there are."""
        if alone:
            monkeypatch.setattr(swarm_platform, "_ASK_ALONE", -1)
        platform, job_id = site.platform("exit 3"), new_job()
        assert await platform.container(job_id, 1) is None
        await site.launch(platform, site.spec(job_id))
        at_once = await platform.container(job_id, 1)
        assert at_once is not None  # it may have ended by now
        ended = await site.ended(platform, job_id)
        assert await platform.container(job_id, 1) == ended
        assert await platform.container(job_id, 2) is None
        other = site.platform("exit 3", instance_id=site.instance_id + "-other")
        assert await other.container(job_id, 1) is None
        await platform.remove(job_id, 1)
        assert await platform.container(job_id, 1) is None

    @pytest_twisted.ensureDeferred
    async def test_launching_twice_is_one_launch(self, site: Contracted) -> None:
        platform, job_id = site.platform("sleep 30"), new_job()
        spec = site.spec(job_id)
        await site.launch(platform, spec)
        await platform.launch(spec)
        other = site.platform("sleep 30")
        await other.launch(spec)  # the daemon after a restart
        engine = site.engine()
        assert len(await engine.services({labels.JOB: job_id})) == 1
        assert set(await other.containers()) == {job_id}

    @pytest_twisted.ensureDeferred
    async def test_a_name_that_is_somebody_elses_is_refused(self, site: Contracted) -> None:
        job_id = new_job()
        other = site.platform("sleep 30", instance_id=site.instance_id + "-other")
        await site.launch(other, site.spec(job_id))
        platform = site.platform("sleep 30")
        with pytest.raises(Conflict) as caught:
            await platform.launch(site.spec(job_id))
        assert caught.value.job_id == job_id
        assert "AlreadyExists" in caught.value.details["platform"]
        assert await platform.containers() == {}
        assert set(await other.containers()) == {job_id}

    @pytest_twisted.ensureDeferred
    async def test_what_is_another_instances_is_never_touched(self, site: Contracted) -> None:
        """Neither by its own clearing nor by the reaper, whatever it is asked to clear."""
        job_id = new_job()
        other = site.platform("sleep 30", instance_id=site.instance_id + "-other")
        await site.launch(other, site.spec(job_id))
        await site.until(other, job_id, lambda one: one.alive and not one.message, "running")
        platform = site.platform("sleep 30")
        assert await platform.all_containers() == []
        await platform.stop(job_id, 1)
        await platform.remove(job_id, 1)
        (service,) = await site.engine().services({labels.JOB: job_id})
        assert service.replicas == 1
        assert (await other.containers())[job_id].alive

    @pytest_twisted.ensureDeferred
    async def test_stopping_ends_it_and_only_then_it_may_be_removed(self, site: Contracted) -> None:
        platform, job_id = site.platform("sleep 30"), new_job()
        await site.launch(platform, site.spec(job_id))
        await site.until(platform, job_id, lambda one: one.alive and not one.message, "running")
        with pytest.raises(Unavailable, match="still alive") as caught:
            await platform.remove(job_id, 1)
        assert caught.value.job_id == job_id
        assert "running" in caught.value.details["platform"]
        await platform.stop(job_id, 1)
        await platform.stop(job_id, 1)
        assert (await platform.containers())[job_id].alive  # TERM takes its time
        await site.ended(platform, job_id)
        await platform.remove(job_id, 1)
        assert job_id not in await platform.containers()

    @pytest.mark.parametrize("alone", [False, True], ids=["shared look", "alone"])
    @pytest_twisted.ensureDeferred
    async def test_only_what_has_ended_is_removed_unasked(
        self, site: Contracted, monkeypatch: pytest.MonkeyPatch, alone: bool
    ) -> None:
        if alone:
            monkeypatch.setattr(swarm_platform, "_ASK_ALONE", -1)
        platform, job_id, runs = site.platform("exit 0"), new_job(), new_job()
        assert await platform.remove_ended(job_id, 1)  # there is none
        await site.launch(platform, site.spec(job_id))
        await site.ended(platform, job_id)
        stays = site.platform("sleep 30")
        await site.launch(stays, site.spec(runs))
        assert not await stays.remove_ended(runs, 1)
        await site.until(stays, runs, lambda one: one.alive and not one.message, "running")
        assert not await stays.remove_ended(runs, 1)
        other = site.platform("exit 0", instance_id=site.instance_id + "-other")
        assert await other.remove_ended(job_id, 1)  # of its own
        assert set(await platform.containers()) == {job_id, runs}
        assert await platform.remove_ended(job_id, 1)
        assert set(await platform.containers()) == {runs}
        await stays.stop(runs, 1)
        await site.ended(stays, runs)
        assert await stays.remove_ended(runs, 1)
        assert await platform.all_containers() == []

    @pytest_twisted.ensureDeferred
    async def test_what_is_reserved_is_compared_with_the_ledgers(self, site: Contracted) -> None:
        platform, job_id, theirs = site.platform("sleep 30"), new_job(), new_job()
        node_id = site.worker_id

        async def told(*holdings: Holding) -> list[str]:
            found = await platform.disagreements({node_id: holdings})
            assert {one.node_id for one in found} <= {node_id}
            return [one.message for one in found]

        def holding(units: int = 1000) -> Holding:
            return Holding(
                node_id=node_id,
                job_id=job_id,
                attempt=1,
                device_index=0,
                units=units,
                runs=True,
            )

        assert await platform.disagreements({}) == ()
        (why,) = await told(holding())
        assert "the Swarm reserves none" in why
        await site.launch(platform, site.spec(job_id))
        await site.until(platform, job_id, lambda one: one.alive and not one.message, "running")
        assert await told(holding()) == []
        (why,) = await told(holding(units=900))
        assert "999 of device 0" in why and "900 of device 0" in why
        (why,) = await told()
        assert job_id in why and "no partition" in why
        other = site.platform("sleep 30", instance_id=site.instance_id + "-other")
        await site.launch(other, site.spec(theirs, units=500))
        await site.until(other, theirs, lambda one: one.alive and not one.message, "running")
        (why,) = await told(holding())
        assert "reserve 499 units of device 0" in why
        await other.stop(theirs, 1)
        await site.ended(other, theirs)
        assert await told(holding()) == []

    @pytest_twisted.ensureDeferred
    async def test_one_that_ignores_term_is_killed(self, site: Contracted) -> None:
        platform, job_id = site.platform("trap '' TERM; sleep 30; sleep 30"), new_job()
        await site.launch(platform, site.spec(job_id))
        await site.until(platform, job_id, lambda one: one.alive and not one.message, "running")
        await platform.stop(job_id, 1)
        await site.ended(platform, job_id)

    @pytest_twisted.ensureDeferred
    async def test_what_is_not_there_is_stopped_and_removed(self, site: Contracted) -> None:
        platform = site.platform("exit 0")
        await platform.stop("job_never_was", 1)
        await platform.remove("job_never_was", 1)
        assert await platform.explain("job_never_was", 1) == ""
        assert "job_never_was" not in await platform.containers()

    @pytest_twisted.ensureDeferred
    async def test_shares_are_held_by_the_swarm_too(self, site: Contracted) -> None:
        platform, first, second = site.platform("sleep 30"), new_job(), new_job()
        await site.launch(platform, site.spec(first, units=UNITS * 6 // 10))
        await site.until(platform, first, lambda one: not one.message, "running")
        await site.launch(platform, site.spec(second, units=UNITS * 6 // 10))
        waiting = await site.until(
            platform, second, lambda one: one.message.startswith("no suitable node"), "refused"
        )
        assert waiting is not None
        assert waiting.alive and "insufficient resources" in waiting.message
        with pytest.raises(Unavailable):
            await platform.remove(second, 1)
        await platform.stop(first, 1)
        await site.until(platform, second, lambda one: not one.message, "running")

    @pytest_twisted.ensureDeferred
    async def test_one_that_waits_for_a_node_can_be_stopped(self, site: Contracted) -> None:
        platform, job_id = site.platform("exit 0"), new_job()
        await site.launch(platform, site.spec(job_id, units=UNITS + 2))
        await site.until(platform, job_id, lambda one: "no suitable" in one.message, "waiting")
        await platform.stop(job_id, 1)
        await site.ended(platform, job_id)
        await platform.remove(job_id, 1)

    @pytest_twisted.ensureDeferred
    async def test_a_worker_without_the_image_rejects_it(self, site: Contracted) -> None:
        platform, job_id = site.platform("exit 0", image=_MISSING), new_job()
        await site.launch(platform, site.spec(job_id))
        ended = await site.ended(platform, job_id)
        assert ended.exit_code is None
        assert ended.message == f"No such image: {_MISSING}"
        assert await platform.explain(job_id, 1) == ""

    @pytest_twisted.ensureDeferred
    async def test_a_tag_that_the_manager_lacks_is_refused_at_once(self, site: Contracted) -> None:
        platform, job_id = site.platform("exit 0", image="cumulus-none:1"), new_job()
        with pytest.raises(NotFound, match="cumulus-none:1") as caught:
            await platform.launch(site.spec(job_id))
        assert "No such image" in caught.value.details["platform"]
        assert caught.value.job_id == job_id and caught.value.hint
        assert job_id not in await platform.containers()

    @pytest_twisted.ensureDeferred
    async def test_a_missing_folder_is_told(self, site: Contracted) -> None:
        platform, job_id = site.platform("exit 0"), new_job()
        await site.launch(platform, site.spec(job_id, folder=f"{site.worker_root}/jobs/not-there"))
        ended = await site.ended(platform, job_id)
        assert "bind source path does not exist" in ended.message

    @pytest_twisted.ensureDeferred
    async def test_a_mount_from_outside_the_workers_root_is_refused(self, site: Contracted) -> None:
        platform, job_id = site.platform("exit 0"), new_job()
        with pytest.raises(CumulusError, match="outside") as caught:
            await platform.launch(site.spec(job_id, mounts=(("/etc", "/etc", True),)))
        assert caught.value.job_id == job_id
        assert job_id not in await platform.containers()

    @pytest_twisted.ensureDeferred
    async def test_the_containers_own_log_explains(self, site: Contracted) -> None:
        platform, job_id = site.platform("echo first; echo second >&2; exit 1"), new_job()
        await site.launch(platform, site.spec(job_id))
        await site.ended(platform, job_id)
        assert sorted((await platform.explain(job_id, 1)).split()) == ["first", "second"]

    @pytest_twisted.ensureDeferred
    async def test_many_at_once_are_told_apart(self, site: Contracted) -> None:
        platform = site.platform("exit 0")
        jobs = [new_job() for _ in range(8)]
        for job_id in jobs:
            await site.launch(platform, site.spec(job_id, units=100))
        for job_id in jobs:
            assert (await site.ended(platform, job_id)).exit_code == 0
        assert set(await platform.containers()) == set(jobs)

    @pytest_twisted.ensureDeferred
    async def test_updates_that_cross_are_repeated(self, site: Contracted) -> None:
        one, other = site.engine(), site.engine()
        tasks = Tasks()
        names = [f"cumulus.test{number}" for number in range(4)]
        each = [
            tasks.start(engine.update_node(site.worker_id, labels={name: "x"}), "updating")
            for engine, name in zip((one, other, one, other), names, strict=True)
        ]
        for task in each:
            await task
        try:
            assert set(names) <= set((await one.node(site.worker_id)).labels)
        finally:
            await one.update_node(site.worker_id, labels=dict.fromkeys(names))

    @pytest_twisted.ensureDeferred
    async def test_secrets(self, site: Contracted) -> None:
        engine, name = site.engine(), f"cumulus-test-{secrets.token_hex(4)}"
        whose = {labels.INSTANCE: site.instance_id}
        secret_id = await engine.create_secret(name, b"\x00hidden\xff", whose)
        try:
            with pytest.raises(Conflict):
                await engine.create_secret(name, b"other", whose)
            (found,) = await engine.secrets(whose)
            assert (found.secret_id, found.name, found.labels) == (secret_id, name, whose)
        finally:
            await engine.remove_secret(secret_id)
        await engine.remove_secret(secret_id)
        assert await engine.secrets(whose) == []

    @pytest_twisted.ensureDeferred
    async def test_the_check_passes_on_a_manager(self, site: Contracted) -> None:
        await site.platform("exit 0").check()
        assert (await site.engine().info()).is_manager

    @pytest_twisted.ensureDeferred
    async def test_a_launch_given_up_is_still_seen(self, site: Contracted) -> None:
        platform, job_id = site.platform("sleep 30"), new_job()
        site.launched.append((platform, job_id, 1))
        launching = Deferred.fromCoroutine(platform.launch(site.spec(job_id)))
        launching.addErrback(lambda failure: None)
        launching.cancel()
        assert (await platform.containers())[job_id].alive
        await sleep(site.reactor, 0.2)
        assert (await platform.containers())[job_id].alive
