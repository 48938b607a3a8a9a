"""Pausing, resuming, deleting: what is answered, and what is refused."""

from pathlib import Path

import pytest
import pytest_twisted
from test_relay import ANN, Office
from twisted.internet.defer import Deferred

from cumulusd.errors import Conflict, NotAuthorized, NotFound, TooMany
from cumulusd.identity import Principal, Role
from cumulusd.jobs.model import Phase
from cumulusd.jobs.ports import Kept
from tests.unit.supervisor.test_pauses import told
from tests.unit.supervisor.world import RUNNING, SETUP, exit_frame

BOB = Principal(name="bob", owner="bob", role=Role.CLIENT)
VIEWER = Principal(name="v", owner="ops", role=Role.VIEWER)


async def running(office: Office) -> str:
    job_id = await office.submit()
    office.world.pass_time(0.1)
    office.world.says(job_id, SETUP, RUNNING)
    return job_id


async def paused(office: Office, *frames: bytes) -> str:
    job_id = await running(office)
    await office.relay.pause(ANN, job_id)
    office.world.says(job_id, *frames, exit_frame("paused", run_s=2.5))
    office.world.platform.die(job_id, 0)
    office.world.pass_time(2)
    return job_id


async def refused(asking: object, kind: type[Exception] = Conflict) -> str:
    with pytest.raises(kind) as caught:
        await asking  # type: ignore[misc]
    return str(caught.value)


@pytest_twisted.ensureDeferred
async def test_a_running_job_is_paused_and_resumed(tmp_path: Path) -> None:
    office = Office(tmp_path)
    await office.start()
    world, relay = office.world, office.relay
    job_id = await running(office)
    answer = await relay.pause(ANN, job_id)
    assert answer["paused"] is True and "where it next looks" in answer["message"]
    view = relay.get(ANN, job_id)
    assert (view["status"], view["pause_requested"]) == ("running", True)
    assert (await relay.pause(ANN, job_id))["paused"] is True, "asked for already"
    answer = await relay.resume(ANN, job_id)
    assert answer["resumed"] is True and "withdrawn" in answer["message"]
    assert "isn't paused" in await refused(relay.resume(ANN, job_id))
    await relay.pause(ANN, job_id)
    world.workers.kept[job_id] = Kept(checkpoints=True, files=False)
    world.says(job_id, told(), exit_frame("paused", run_s=2.5))
    assert "just now" not in (await relay.pause(ANN, job_id))["message"]
    world.platform.die(job_id, 0)
    world.pass_time(2)
    view = relay.get(ANN, job_id)
    assert (view["status"], view["checkpoint_count"], view["ran_s"]) == ("paused", 1, 2.5)
    assert view["worker"] is None and view["paused_at"] is not None
    assert relay.checkpoints(ANN, job_id)["checkpoints"] == view["checkpoints"]
    assert "paused already" in await refused(relay.pause(ANN, job_id))
    answer = await relay.resume(ANN, job_id)
    assert "on one, and so only there" in answer["message"]
    world.pass_time(0.2)
    assert relay.get(ANN, job_id)["status"] == "starting"
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_the_answer_says_what_it_goes_on_from(tmp_path: Path) -> None:
    office = Office(tmp_path)
    await office.start()
    first = await paused(office, told(s3_key="k"))
    assert "on S3, on any worker" in (await office.relay.resume(ANN, first))["message"]
    await office.relay.cancel(ANN, first)
    office.world.platform.die(first, 137)
    office.world.pass_time(15)
    second = await paused(office)
    assert "begins anew" in (await office.relay.resume(ANN, second))["message"]
    await office.world.stop()


@pytest_twisted.ensureDeferred
async def test_a_waiting_job_is_paused_at_once(tmp_path: Path) -> None:
    office = Office(tmp_path)
    await office.start()
    await running(office)
    job_id = await office.submit(gpu_memory=1.0)
    answer = await office.relay.pause(ANN, job_id)
    assert answer["state"] == "paused" and "holds no share" in answer["message"]
    answer = await office.relay.resume(ANN, job_id)
    assert answer["state"] == "pending" and "had not begun" in answer["message"]
    await office.world.stop()


@pytest_twisted.ensureDeferred
async def test_the_number_of_paused_jobs_is_bounded(tmp_path: Path) -> None:
    office = Office(tmp_path)
    await office.start()
    await running(office)
    for _ in range(3):
        await office.relay.pause(ANN, await office.submit(gpu_memory=1.0))
    one_more = await office.submit(gpu_memory=1.0)
    assert "3 paused jobs" in await refused(office.relay.pause(ANN, one_more), TooMany)
    await office.world.stop()


@pytest_twisted.ensureDeferred
async def test_who_may_not_and_what_has_ended(tmp_path: Path) -> None:
    office = Office(tmp_path)
    await office.start()
    relay = office.relay
    job_id = await running(office)
    for verb in (relay.pause, relay.resume, relay.delete):
        await refused(verb(BOB, job_id), NotFound)
        await refused(verb(VIEWER, job_id), NotAuthorized)
    assert "cancel it first" in (await refused_hint(relay.delete(ANN, job_id)))
    office.world.says(job_id, exit_frame())
    assert "has ended already: completed" in await refused(relay.pause(ANN, job_id))
    assert "has ended already: completed" in await refused(relay.resume(ANN, job_id))
    await office.world.stop()


async def refused_hint(asking: object) -> str:
    with pytest.raises(Conflict) as caught:
        await asking  # type: ignore[misc]
    return str(caught.value.hint)


@pytest_twisted.ensureDeferred
async def test_a_job_that_is_being_cancelled_isnt_paused(tmp_path: Path) -> None:
    office = Office(tmp_path)
    await office.start()
    job_id = await running(office)
    await office.relay.cancel(ANN, job_id)
    assert "being ended (cancelled_by_user)" in await refused(office.relay.pause(ANN, job_id))
    office.world.pass_time(20)
    await office.world.stop()


@pytest_twisted.ensureDeferred
async def test_delete_waits_until_the_job_has_left_its_worker(tmp_path: Path) -> None:
    office = Office(tmp_path)
    await office.start()
    job_id = await running(office)
    office.world.says(job_id, exit_frame())
    office.world.platform.stop_ends = False
    answers: list[object] = []
    Deferred.fromCoroutine(office.relay.delete(ANN, job_id)).addBoth(answers.append)
    office.world.pass_time(5)
    assert answers == [] and office.forgotten == []
    office.world.platform.die(job_id, 0)
    office.world.pass_time(6)
    assert answers == [{"deleted": True, "message": "Job deleted"}]
    assert office.forgotten == [job_id]
    other = await running(office)
    office.world.says(other, exit_frame())
    Deferred.fromCoroutine(office.relay.delete(ANN, other)).addBoth(answers.append)
    office.world.pass_time(31)
    assert "not left its worker" in str(answers[1])
    assert office.forgotten == [job_id]
    office.world.platform.die(other, 0)
    office.world.pass_time(6)
    assert office.world.record(other).phase is Phase.ENDED
    await office.world.stop()


@pytest_twisted.ensureDeferred
async def test_delete_waits_for_no_other_jobs_start(tmp_path: Path) -> None:
    office = Office(tmp_path)
    await office.start()
    job_id = await running(office)
    await office.submit(gpu_memory=0.1)
    office.world.says(job_id, exit_frame())
    office.world.platform.die(job_id, 0)
    office.world.pass_time(2)
    assert office.world.record(job_id).phase is Phase.ENDING, "what it left stays while one starts"
    answers: list[object] = []
    Deferred.fromCoroutine(office.relay.delete(ANN, job_id)).addBoth(answers.append)
    office.world.pass_time(2)
    assert answers == [{"deleted": True, "message": "Job deleted"}]
    await office.world.stop()
