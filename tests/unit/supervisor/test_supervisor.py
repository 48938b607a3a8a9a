"""The supervisor with the real scheduler, intake and journals, on a test clock."""

import errno
import itertools
import os
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs, formatEvent

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.journal import Kind, encode_json
from cumulus_wire.states import JobState
from cumulusd.errors import Conflict, CumulusError, InsufficientResources, TooMany, Unavailable
from cumulusd.jobs.events import EventKind
from cumulusd.jobs.history import History
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.placing import Placing
from cumulusd.jobs.ports import ContainerSpec, Disagreement
from cumulusd.jobs.store import StoreFailed
from cumulusd.jobs.watcher import Watcher
from cumulusd.tasks import sleep
from tests.unit.supervisor.test_job_machine import GRANT, PLACEMENT
from tests.unit.supervisor.world import (
    BEGIN_US,
    RUNNING,
    SETUP,
    World,
    exit_frame,
    new_record,
    output,
)

Test = Callable[..., Awaitable[None]]


def in_world(test: Test) -> Any:
    """Gives the test a started world and stops it afterwards."""

    @wraps(test)
    async def run(tmp_path: Path) -> None:
        world = World(tmp_path)
        await world.start()
        try:
            await test(world)
        finally:
            await world.stop()

    del run.__wrapped__  # type: ignore[attr-defined]
    return pytest_twisted.ensureDeferred(run)


async def running_job(world: World, job_id: str = "a", **spec: Any) -> None:
    await world.submit(job_id, **spec)
    world.pass_time(0.1)
    world.says(job_id, SETUP, RUNNING)
    assert world.record(job_id).phase is Phase.RUNNING


@in_world
async def test_a_job_from_submit_to_nothing_left(world: World) -> None:
    await world.submit("a")
    assert world.record("a").state is JobState.STARTING
    world.says("a", SETUP, RUNNING, output("hello"))
    assert world.record("a").state is JobState.RUNNING
    world.says("a", exit_frame(result={"encoding": "json", "size_bytes": 1, "sha256": "x"}))
    record = world.record("a")
    assert (record.state, record.phase) == (JobState.COMPLETED, Phase.ENDING)
    world.platform.die("a", 0)
    world.pass_time(2)
    assert world.record("a").phase is Phase.ENDED
    assert world.history == [
        "save a preparing",
        "prepare a",
        "save a launching",
        "launch a",
        "save a starting",
        "save a starting",
        "save a running",
        "save a ending",
        "release a",
        "remove a",
        "save a ended",
    ]
    assert ("a", world.journals.open("a").end_offset) in world.acknowledged


@in_world
async def test_nothing_is_done_before_it_is_saved(world: World) -> None:
    world.store.broken = None
    await world.submit("a", queue_timeout_s=None)
    world.says("a", SETUP)
    world.store.broken = Unavailable("disk full")
    world.says("a", RUNNING)
    world.pass_time(3)
    assert world.record("a").phase is Phase.STARTING, "what isn't on disk isn't shown"
    world.store.broken = None
    world.pass_time(6)
    assert world.record("a").phase is Phase.RUNNING


@in_world
async def test_a_submit_that_cannot_be_saved_is_no_job(world: World) -> None:
    world.store.broken = Unavailable("disk full")
    with pytest.raises(Unavailable):
        await world.submit("a")
    assert world.table.get("a") is None
    # The place that it had already is another's.
    world.store.broken = None
    await world.submit("b", share=1.0)
    assert world.record("b").phase is Phase.STARTING


@in_world
async def test_a_job_that_finds_room_is_saved_once_and_shown_then(world: World) -> None:
    world.store.gate = Deferred()
    submitting = Deferred.fromCoroutine(world.submit("a"))
    world.pass_time(1)
    assert world.table.get("a") is None and world.history == [], "it is not on disk"
    # Its place is its own meanwhile.
    later = Deferred.fromCoroutine(world.submit("b"))
    gate, world.store.gate = world.store.gate, None
    gate.callback(None)
    await submitting
    await later
    assert world.history[:2] == ["save a preparing", "prepare a"]
    assert world.record("a").phase is Phase.STARTING
    assert world.record("b").phase is Phase.QUEUED
    stages = [moment.stage.value for moment in world.record("a").moments]
    assert stages == ["queued", "preparing", "launching"]
    assert world.platform.foreseen == 1


@in_world
async def test_a_job_never_goes_past_those_that_wait(world: World) -> None:
    await world.submit("a")
    await world.submit("b", share=0.8)
    await world.submit("c", share=0.3)
    # It would fit, and does not harm the other: the scheduler says so, and not the submit.
    assert "save c queued" in world.history
    assert [world.record(job).phase for job in "ab"] == [Phase.STARTING, Phase.QUEUED]


@in_world
async def test_a_job_never_goes_past_one_that_is_being_saved(world: World) -> None:
    await running_job(world, share=1.0)
    gate = world.store.gate = Deferred()
    waiting = Deferred.fromCoroutine(world.submit("b", share=1.0))
    world.store.gate = None
    # There is room now, and "b" is not in the line yet.
    world.says("a", exit_frame())
    world.store.gate = gate
    later = Deferred.fromCoroutine(world.submit("c", share=1.0))
    world.store.gate = None
    gate.callback(None)  # the store keeps the order
    await waiting
    await later
    assert [world.record(job).phase for job in "bc"] == [Phase.STARTING, Phase.QUEUED]


@in_world
async def test_a_job_that_had_to_wait_and_could_not_be_saved_holds_up_nobody(world: World) -> None:
    await running_job(world, share=1.0)
    world.store.broken = Unavailable("disk full")
    with pytest.raises(Unavailable):
        await world.submit("b", share=1.0)
    world.store.broken = None
    world.says("a", exit_frame())
    world.pass_time(1)
    await world.submit("c", share=1.0)
    assert "save c preparing" in world.history


@in_world
async def test_cancel_while_running_goes_through_the_runner(world: World) -> None:
    await running_job(world)
    world.supervisor.tell("a", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(0.1)
    assert world.workers.stopped == [("a", "cancelled_by_user")]
    assert world.record("a").state is JobState.RUNNING, "the runner says when it is over"
    world.says("a", output("bye"), exit_frame("cancelled", reason="cancelled_by_user"))
    assert world.record("a").state is JobState.CANCELLED
    assert "stop a" not in world.history


@in_world
async def test_a_runner_that_does_not_obey_is_forced(world: World) -> None:
    await running_job(world)
    world.supervisor.tell("a", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(2)
    assert world.record("a").state is JobState.RUNNING
    world.pass_time(5)
    assert world.record("a").state is JobState.CANCELLED
    assert "stop a" in world.history
    assert world.record("a").phase is Phase.ENDED


@in_world
async def test_a_runner_nobody_can_reach_is_forced(world: World) -> None:
    await running_job(world)
    world.workers.runner_obeys = False
    world.supervisor.tell("a", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(6)
    assert world.record("a").state is JobState.CANCELLED


@in_world
async def test_a_runner_whose_agent_refuses_to_tell_it_is_forced(world: World) -> None:
    await running_job(world)
    world.workers.stop_error = TooMany("256 calls are under way")
    world.supervisor.tell("a", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(6)
    assert world.record("a").state is JobState.CANCELLED
    assert "stop a" in world.history


@in_world
async def test_an_agent_with_too_many_calls_is_asked_again(world: World) -> None:
    world.workers.prepare_error = TooMany("256 calls are under way")
    await world.submit("a")
    world.pass_time(1)
    assert world.record("a").phase is Phase.PREPARING
    world.workers.prepare_error = None
    world.pass_time(3)
    assert world.record("a").phase is Phase.STARTING


@in_world
async def test_what_expired_before_it_was_launched_is_prepared_anew(world: World) -> None:
    world.workers.prepare_error = Conflict("the partition of attempt 1 of job a is draining")
    await world.submit("a")
    world.workers.partitions["a"] = 6000
    world.pass_time(0.3)
    assert world.record("a").phase is Phase.PREPARING
    assert world.workers.partitions == {}, "it is released"
    world.workers.prepare_error = None
    world.pass_time(1)
    assert world.record("a").phase is Phase.STARTING


@in_world
async def test_a_conflict_that_lasts_is_a_partition_refused(world: World) -> None:
    world.workers.prepare_error = Conflict("processes run in the folder")
    await world.submit("a")
    world.pass_time(70)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.PARTITION_FAILED
    assert "processes run in the folder" in end.message


@in_world
async def test_an_effect_that_fails_unforeseen_is_tried_again(world: World) -> None:
    await running_job(world)
    world.workers.bug = KeyError("nobody foresaw this")
    world.platform.die("a", 0)
    with capturedLogs() as logged:
        world.says("a", exit_frame())
        world.pass_time(1)
    failures = [formatEvent(event) for event in logged if "log_failure" in event]
    assert failures == ["effect clear failed, trying again in 5.0 s"]
    assert world.record("a").phase is Phase.ENDING
    world.workers.bug = None
    world.pass_time(6)
    assert world.record("a").phase is Phase.ENDED
    assert world.workers.partitions == {}


@in_world
async def test_who_only_looks_on_cannot_stop_a_job(world: World) -> None:
    def fails(before: JobRecord | None, after: JobRecord) -> None:
        raise Unavailable("too many open files")

    world.table.watch(fails)
    with capturedLogs():
        await running_job(world)
    assert world.record("a").phase is Phase.RUNNING


@in_world
async def test_a_share_is_free_only_when_the_lock_is(world: World) -> None:
    await running_job(world)
    await world.submit("b")
    wait = world.record("b").wait
    assert wait is not None and wait.reason is WaitReason.NO_FREE_SHARE
    world.workers.locks_held.add("a")
    world.says("a", exit_frame())
    world.platform.die("a", 0)
    world.pass_time(10)
    assert world.record("a").phase is Phase.ENDING
    assert world.record("b").phase is Phase.QUEUED, "a process of job a is still there"
    world.workers.locks_held.clear()
    world.supervisor.nudge("a")
    world.pass_time(0.2)
    assert world.record("a").phase is Phase.ENDED
    assert world.record("b").phase is Phase.STARTING


@in_world
async def test_two_submits_in_one_turn_do_not_overbook(world: World) -> None:
    first = world.supervisor.submit(new_record("a", 1.0))
    second = world.supervisor.submit(new_record("b", 2.0))
    await first
    await second
    world.pass_time(0.5)
    assert [world.record(job).phase for job in "ab"] == [Phase.STARTING, Phase.QUEUED]


@in_world
async def test_an_agent_that_is_away_is_waited_for_and_then_given_up(world: World) -> None:
    world.workers.prepare_error = Unavailable("no route")
    await world.submit("a")
    world.pass_time(30)
    assert world.record("a").phase is Phase.PREPARING
    world.workers.prepare_error = None
    world.pass_time(3)
    assert world.record("a").phase is Phase.STARTING
    world.workers.prepare_error = Unavailable("no route")
    await world.submit("b", share=0.1)
    world.pass_time(70)
    end = world.record("b").end
    assert end is not None and end.reason is EndReason.WORKER_LOST


@in_world
async def test_a_stale_view_of_the_shares_puts_the_job_back(world: World) -> None:
    world.workers.prepare_error = InsufficientResources("5000 units asked, 100 free")
    await world.submit("a")
    world.pass_time(0.1)
    world.workers.prepare_error = None
    world.pass_time(3)
    assert world.record("a").phase is Phase.STARTING
    assert "save a queued" in world.history[1:]


@in_world
async def test_a_refused_launch_carries_the_platforms_words(world: World) -> None:
    world.platform.launch_error = CumulusError(
        "refused", details={"platform": "No such image: x"}, hint="build it"
    )
    await world.submit("a")
    world.pass_time(1)
    end = world.record("a").end
    assert end is not None
    assert (end.state, end.reason) == (JobState.FAILED, EndReason.LAUNCH_FAILED)
    assert "No such image: x" in end.message
    assert world.record("a").phase is Phase.ENDED
    assert world.workers.partitions == {}


@in_world
async def test_a_lost_container_is_told_only_when_its_journal_is_complete(world: World) -> None:
    await running_job(world)
    late = output("last words")
    world.workers.journal_ends["a"] += len(late)
    world.platform.die("a", 137)
    world.pass_time(5)
    assert world.record("a").phase is Phase.RUNNING, "its last bytes are still on the worker"
    journal = world.journals.open("a")
    world.intake.received("n1", "a", 1, journal.end_offset, late)
    world.pass_time(2)
    end = world.record("a").end
    assert end is not None
    assert end.reason is EndReason.RUNNER_FAILED
    assert "137" in end.message and "the container's own words" in end.message


@in_world
async def test_a_runner_that_never_speaks_is_lost(world: World) -> None:
    await world.submit("a")
    world.pass_time(50)
    assert world.record("a").phase is Phase.STARTING
    world.pass_time(20)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.RUNNER_FAILED


@in_world
async def test_the_deadline_has_a_second_line(world: World) -> None:
    await running_job(world, duration_s=10.0)
    world.pass_time(30)
    assert world.workers.stopped == [], "the runner keeps the deadline itself"
    world.pass_time(30)
    assert world.workers.stopped[0] == ("a", "duration_exceeded")
    assert world.record("a").state is JobState.TIMEOUT


@in_world
async def test_a_worker_whose_clock_is_behind_costs_its_jobs_nothing(world: World) -> None:
    hour_ago = BEGIN_US - 3600 * 10**6
    await world.submit("a", duration_s=100.0)
    world.says(
        "a",
        encode_json(Kind.STATUS, {"phase": "setup"}, hour_ago),
        encode_json(Kind.STATUS, {"phase": "running"}, hour_ago),
    )
    world.pass_time(120)
    assert world.record("a").stop_reason is None
    world.pass_time(15)
    assert world.record("a").stop_reason is EndReason.DURATION_EXCEEDED


@in_world
async def test_why_a_job_does_not_run_yet_is_told_in_every_phase(world: World) -> None:
    def told(reason: WaitReason) -> str:
        wait = world.record("a").wait
        assert wait is not None and wait.reason is reason
        return wait.message

    world.workers.prepare_error = Unavailable("its agent is away")
    await world.submit("a")
    world.pass_time(1)
    assert told(WaitReason.PLACING) == (
        "Placed on one: its agent makes the partition and fetches the package. "
        "Now: its agent is away"
    )
    world.platform.launch_error = Unavailable("the manager is away")
    world.workers.prepare_error = None
    world.pass_time(3)
    assert told(WaitReason.LAUNCHING) == (
        "Ready on one: the platform is asked for the container. Now: the manager is away"
    )
    world.platform.launch_error = None
    world.pass_time(3)
    assert told(WaitReason.STARTING) == "Starting on one: the runner hasn't spoken yet"
    there = world.platform.running["a"]
    words = "no suitable node (insufficient resources on 1 node)"
    world.platform.running["a"] = attrs.evolve(there, message=words)
    world.pass_time(2)
    assert told(WaitReason.NO_PLACE) == (
        f"The platform finds no place for the container on one: {words}"
    )
    world.platform.running["a"] = attrs.evolve(there, message="preparing: preparing")
    world.pass_time(2)
    assert "the platform says: preparing" in told(WaitReason.STARTING)
    world.says("a", SETUP)
    assert world.record("a").wait is None


@in_world
async def test_a_job_whose_time_ends_while_its_worker_is_away_is_not_called_late(
    world: World,
) -> None:
    await running_job(world, duration_s=10.0)
    world.workers.error = Unavailable("no route")
    world.pass_time(85)
    assert world.record("a").phase is Phase.RUNNING
    world.workers.error = None
    world.says("a", exit_frame())
    assert world.record("a").state is JobState.COMPLETED


@in_world
async def test_a_job_whose_time_ends_on_a_lost_worker_is_lost(world: World) -> None:
    await running_job(world, duration_s=10.0)
    world.workers.error = Unavailable("no route")
    world.pass_time(120)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.WORKER_LOST


@in_world
async def test_queue_timeouts(world: World) -> None:
    await running_job(world)
    await world.submit("now", queue_timeout_s=0.0)
    await world.submit("soon", queue_timeout_s=5.0)
    world.pass_time(0.2)
    now = world.record("now").end
    assert now is not None and now.reason is EndReason.QUEUE_TIMEOUT
    assert world.record("soon").phase is Phase.QUEUED
    world.pass_time(6)
    soon = world.record("soon").end
    assert soon is not None and soon.reason is EndReason.QUEUE_TIMEOUT


@in_world
async def test_a_damaged_journal_ends_the_job_by_name(world: World) -> None:
    await running_job(world)
    assert world.says("a", b"\x00" * 64) is False
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.JOURNAL_CORRUPT
    world.pass_time(5)
    assert world.record("a").phase is Phase.ENDED
    assert "stop a" in world.history


@in_world
async def test_the_reaper_clears_what_nobody_owns(world: World) -> None:
    await running_job(world)
    await world.platform.launch(
        __import__("cumulusd.jobs.ports", fromlist=["ContainerSpec"]).ContainerSpec(
            job_id="stranger",
            attempt=1,
            node_id="n1",
            grant=GRANT,
            cpu_cores=None,
            memory_bytes=None,
            stop_grace_s=1.0,
        )
    )
    world.workers.partitions["ghost"] = 100
    world.platform.remove_error = Unavailable("its node is down")
    await world.watcher.reap()
    await world.watcher.reap()
    assert set(world.platform.running) == {"a", "stranger"}
    assert set(world.workers.partitions) == {"a"}, "one that can't be cleared holds up no other"
    world.platform.remove_error = None
    await world.watcher.reap()
    assert set(world.platform.running) == {"a"}
    assert set(world.workers.partitions) == {"a"}


@in_world
async def test_shares_are_compared_at_each_reconcile(world: World) -> None:
    await running_job(world)
    await world.watcher.reap()
    ((held,),) = world.platform.asked_about.values()
    assert (held.node_id, held.job_id, held.attempt, held.runs) == ("n1", "a", 1, True)
    assert world.watcher.agreement.shown == ()
    # The ledger loses it, and a stranger's service takes some: both are there twice, and shown.
    world.workers.partitions.pop("a")
    world.platform.differences = [Disagreement(node_id="n1", message="a stranger has 5 units")]
    await world.watcher.reap()
    assert world.watcher.agreement.shown == ()
    await world.watcher.reap()
    told = [one.message for one in world.watcher.agreement.shown]
    assert told[0].startswith("job a runs in attempt 1") and told[1:] == ["a stranger has 5 units"]
    world.platform.differences = []
    world.workers.partitions["a"] = held.units
    await world.watcher.reap()
    assert world.watcher.agreement.shown == ()


@in_world
async def test_an_agent_that_comes_back_is_reconciled_with_at_once(world: World) -> None:
    await running_job(world)
    world.workers.present = False
    world.workers.changed()
    world.pass_time(world.settings.watch_interval_s)
    world.workers.partitions["ghost"] = 100
    world.workers.present = True
    world.workers.changed()
    world.pass_time(world.settings.watch_interval_s)
    assert set(world.workers.partitions) == {"a"}


@in_world
async def test_the_reaper_comes_less_often_while_no_job_changes(world: World) -> None:
    asked: list[float] = []
    plain = world.platform.all_containers

    async def counted() -> Any:
        asked.append(world.clock.seconds())
        return await plain()

    world.platform.all_containers = counted  # type: ignore[method-assign]

    def reaps(seconds: int) -> int:
        asked.clear()
        for _ in range(seconds):
            world.pass_time(1.0)
        return len(asked)

    interval_s = int(world.settings.reap_interval_s)
    reaps(40 * interval_s)
    assert 1 <= reaps(22 * interval_s) <= 3, "idle"
    await running_job(world)
    assert 1 <= reaps(interval_s + 2) <= 2, "at once as often as before"


@in_world
async def test_a_reap_that_fails_is_repeated_as_soon_as_ever(world: World) -> None:
    asked: list[float] = []

    async def failing() -> Any:
        asked.append(world.clock.seconds())
        raise Unavailable("not now")

    world.platform.all_containers = failing  # type: ignore[method-assign]
    interval_s = int(world.settings.reap_interval_s)
    for _ in range(20 * interval_s):
        world.pass_time(1.0)
    # It is looked whether it is time each second or so.
    assert 18 <= len(asked) <= 20


@in_world
async def test_a_platform_that_answers_slowly_is_asked_less_often(world: World) -> None:
    """Its answers grow with the jobs there are."""
    await running_job(world)
    answer, looks = world.platform.containers, []

    async def containers() -> Any:
        looks.append(world.clock.seconds())
        await sleep(world.clock, 1.0)
        return await answer()

    world.platform.containers = containers  # type: ignore[method-assign]
    for _ in range(300):
        world.pass_time(0.2)
    between = [later - before for before, later in itertools.pairwise(looks)]
    assert len(between) == 5 and all(10.9 < each < 11.5 for each in between[1:]), between


@in_world
async def test_nodes_are_asked_for_less_often_while_there_is_no_job(world: World) -> None:
    answer, asked = world.platform.nodes, []

    async def nodes() -> Any:
        asked.append(world.clock.seconds())
        return await answer()

    world.platform.nodes = nodes  # type: ignore[method-assign]
    world.supervisor.placing.start()
    for _ in range(200):
        world.pass_time(0.5)
    assert 9 <= len(asked) <= 12, asked
    asked.clear()
    await running_job(world)
    assert len(asked) >= 1, "a job came: they are asked for at once"
    asked.clear()
    for _ in range(40):
        world.pass_time(0.5)
    assert 9 <= len(asked) <= 12, asked


@pytest.mark.parametrize("what", ["nodes", "containers", "packages"])
@pytest_twisted.ensureDeferred
async def test_a_stop_ends_a_watch_in_the_middle_of_a_question(tmp_path: Path, what: str) -> None:
    world = World(tmp_path)
    silence: Deferred[None] = Deferred()

    class SilentPackages:
        async def prune(self, *arguments: object) -> None:
            await silence

    history = History(
        table=world.table,
        store=world.store,  # type: ignore[arg-type]
        journals=world.journals,
        packages=SilentPackages(),  # type: ignore[arg-type]
        outputs=world.outputs,
        clock=world.clock,
        wall_clock=world.clock.seconds,
        settings=world.settings,
    )
    await world.start()
    await running_job(world)
    if what != "packages":
        world.platform.silence = silence
    watch: Placing | Watcher | History
    watch = {"nodes": world.supervisor.placing, "containers": world.watcher}.get(what, history)
    if watch is not world.watcher:
        watch.start()
    world.pass_time(301, step=1)
    stopping = Deferred.fromCoroutine(watch.stop())
    assert stopping.called
    world.platform.silence = None
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_what_is_saved_while_it_stops_is_begun_at_the_next_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    slow: Deferred[None] = Deferred()

    async def launch(spec: ContainerSpec) -> None:
        try:
            await Deferred()
        except CancelledError:
            await slow  # its connection takes a while to end
            raise

    world.platform.launch = launch  # type: ignore[method-assign]
    await world.submit("a", share=0.4)
    gate = world.store.gate = Deferred()
    submitted = Deferred.fromCoroutine(world.submit("b", share=0.4))
    stopping = Deferred.fromCoroutine(world.supervisor.stop())
    world.store.gate = None
    gate.callback(None)
    await submitted
    assert world.store.saved["b"].phase is Phase.PREPARING and not stopping.called
    slow.callback(None)
    await stopping
    await world.stop()
    assert "prepare b" not in world.history
    again = World(tmp_path)
    await again.start(list(world.store.saved.values()))
    again.pass_time(0.1)
    assert {"launch a", "prepare b", "launch b"} <= set(again.history)
    await again.stop()


@pytest.mark.parametrize(
    ("phase", "then"),
    [
        (Phase.QUEUED, Phase.STARTING),
        (Phase.PREPARING, Phase.STARTING),
        (Phase.LAUNCHING, Phase.STARTING),
        (Phase.ENDING, Phase.ENDED),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_restart_takes_up_every_phase(tmp_path: Path, phase: Phase, then: Phase) -> None:
    from tests.unit.supervisor.test_job_machine import END

    world = World(tmp_path)
    record = attrs.evolve(new_record("a", world.clock.seconds()), phase=phase)
    if phase is not Phase.QUEUED:
        record = attrs.evolve(record, placement=PLACEMENT)
    if phase in (Phase.LAUNCHING, Phase.ENDING):
        record = attrs.evolve(record, grant=GRANT)
        world.workers.partitions["a"] = record.spec.units
    if phase is Phase.ENDING:
        record = attrs.evolve(record, end=END)
    await world.start([record])
    world.pass_time(2)
    try:
        assert world.record("a").phase is then
        if then is Phase.ENDED:
            assert world.workers.partitions == {}
    finally:
        await world.stop()


@pytest_twisted.ensureDeferred
async def test_an_end_that_was_journalled_but_not_saved_is_found(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await running_job(world)
    found = world.record("a")
    world.says("a", output("x"), exit_frame())
    await world.stop()

    again = World(tmp_path)
    again.workers.partitions["a"] = found.spec.units
    await again.start([found])
    again.pass_time(1)
    assert again.record("a").state is JobState.COMPLETED, (again.record("a").end, again.history)
    await again.stop()


@in_world
async def test_a_job_whose_end_waits_for_the_daemons_disk_is_not_called_late(world: World) -> None:
    await running_job(world, duration_s=60.0)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        begin = world.workers.journal_ends["a"]
        with pytest.raises(StoreFailed):
            world.says("a", exit_frame())
        world.platform.die("a", 0)
        for _ in range(60):  # the agent offers it again every two seconds
            world.pass_time(2.0, step=0.5)
            with pytest.raises(StoreFailed):
                world.intake.received("n1", "a", 1, begin, exit_frame())
        assert world.record("a").end is None
        assert world.record("a").stop_reason is None
    world.pass_time(4.0, step=0.5)
    assert world.intake.received("n1", "a", 1, begin, exit_frame())
    world.pass_time(2.0, step=0.5)
    assert world.record("a").state is JobState.COMPLETED
