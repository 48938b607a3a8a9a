"""A share goes to the next job as soon as its lock is free, its container's end or not."""

from pathlib import Path

import pytest_twisted

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.errors import Unavailable
from cumulusd.jobs.events import EventKind
from cumulusd.jobs.model import Phase
from tests.unit.supervisor.test_supervisor import in_world
from tests.unit.supervisor.world import RUNNING, SETUP, World, exit_frame, output


async def one_runs_and_one_waits(world: World) -> None:
    await world.submit("a", 1.0)
    world.says("a", SETUP, RUNNING, output("hello"))
    await world.submit("b", 1.0)
    assert world.record("b").phase is Phase.QUEUED


@in_world
async def test_the_next_job_begins_while_the_container_before_it_leaves(world: World) -> None:
    await one_runs_and_one_waits(world)
    world.says("a", exit_frame())
    assert world.platform.running["a"].alive
    assert world.record("a").phase is Phase.ENDING
    assert world.record("b").phase is Phase.STARTING
    assert world.workers.partitions == {"b": 10_000}
    assert "remove a" not in world.history
    world.platform.die("a", 0)
    world.says("b", SETUP)
    world.pass_time(1)
    assert world.record("a").phase is Phase.ENDED
    assert world.platform.running.keys() == {"b"}


@in_world
async def test_what_is_left_of_ended_jobs_goes_when_none_starts(world: World) -> None:
    """The user has the end, and the next job the share; the removal costs the worker as much as a
    start, so it comes after the starts."""
    await one_runs_and_one_waits(world)
    world.says("a", exit_frame())
    world.platform.die("a", 0)
    world.pass_time(5)  # "b" starts for so long
    assert world.record("a").state is JobState.COMPLETED
    assert "remove a" not in world.history
    await world.submit("c", 1.0)
    world.says("b", SETUP, RUNNING, exit_frame())
    world.platform.die("b", 0)
    world.pass_time(5)  # and "c" again
    assert not {"remove a", "remove b"} & set(world.history)
    world.says("c", SETUP)
    world.pass_time(1)
    assert {"remove a", "remove b"} <= set(world.history)
    assert world.platform.running.keys() == {"c"}


@in_world
async def test_it_goes_within_a_bound_while_others_start(world: World) -> None:
    await one_runs_and_one_waits(world)
    world.says("a", exit_frame())
    world.platform.die("a", 0)
    while world.record("b").phase is Phase.STARTING and "remove a" not in world.history:
        world.pass_time(1)
    assert world.record("b").phase is Phase.STARTING
    assert world.record("a").phase is Phase.ENDED


@in_world
async def test_no_share_is_handed_on_twice(world: World) -> None:
    await one_runs_and_one_waits(world)
    await world.submit("c", 1.0)
    world.says("a", exit_frame())
    world.platform.die("a", 0)
    world.says("b", SETUP)
    world.pass_time(1)
    assert world.record("a").phase is Phase.ENDED
    assert world.record("c").phase is Phase.QUEUED
    assert world.supervisor.placing.agents()["n1"].devices[0].units_free == 0


@in_world
async def test_a_container_that_stays_is_stopped_all_the_same(world: World) -> None:
    await one_runs_and_one_waits(world)
    world.says("a", exit_frame())
    world.says("b", SETUP)
    world.pass_time(3)
    assert "stop a" in world.history
    assert world.record("a").phase is Phase.ENDED
    assert "a" not in world.platform.running


@in_world
async def test_a_lock_that_is_held_keeps_the_share(world: World) -> None:
    await one_runs_and_one_waits(world)
    world.workers.locks_held.add("a")
    world.platform.stop_ends = False
    world.says("a", exit_frame())
    world.platform.die("a", 0)
    world.pass_time(5)
    assert world.workers.partitions == {"a": 10_000}
    assert world.record("b").phase is Phase.QUEUED
    world.workers.locks_held.clear()
    world.supervisor.nudge("a")
    world.pass_time(1)
    assert world.record("a").phase is Phase.ENDED
    assert world.record("b").phase is Phase.STARTING


@in_world
async def test_without_the_runners_word_the_container_must_be_gone(world: World) -> None:
    await one_runs_and_one_waits(world)
    world.platform.stop_ends = False
    world.workers.runner_obeys = False
    world.supervisor.tell(
        "a",
        kind=EventKind.STOP,
        stop_reason=EndReason.CANCELLED_BY_USER,
    )
    world.pass_time(60)
    assert world.record("a").state is JobState.CANCELLED
    assert world.record("a").phase is Phase.ENDING
    assert world.workers.partitions == {"a": 10_000}
    assert world.record("b").phase is Phase.QUEUED
    world.platform.die("a", 137)
    world.pass_time(6)
    assert world.history.index("remove a") < world.history.index("release a")
    assert world.record("b").phase is Phase.STARTING


@in_world
async def test_an_agent_that_is_away_holds_up_no_container(world: World) -> None:
    await one_runs_and_one_waits(world)
    world.workers.error = Unavailable("it is away")
    world.says("a", exit_frame())
    world.platform.die("a", 0)
    world.workers.error = None
    world.pass_time(1)
    assert world.history.index("remove a") < world.history.index("release a")
    assert world.record("a").phase is Phase.ENDED


@pytest_twisted.ensureDeferred
async def test_a_restart_between_share_and_container(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await one_runs_and_one_waits(world)
    world.says("a", exit_frame())
    found = [world.record("a"), world.record("b")]
    assert [one.phase for one in found] == [Phase.ENDING, Phase.STARTING]
    await world.stop()

    again = World(tmp_path)
    again.platform.running = world.platform.running
    again.workers.partitions = world.workers.partitions
    again.workers.attempts = world.workers.attempts
    await again.start(found)
    assert again.record("a").phase is Phase.ENDING
    assert again.record("b").phase is Phase.STARTING
    again.platform.die("a", 0)
    again.says("b", SETUP)
    again.pass_time(1)
    assert again.record("a").phase is Phase.ENDED
    assert again.platform.running.keys() == {"b"}
    await again.stop()
