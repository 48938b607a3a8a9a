"""What the simulation found: clocks that are set, platforms that are away, ends told too early."""

from pathlib import Path

import attrs
import pytest
import pytest_twisted

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind, encode_json
from cumulus_wire.states import JobState
from cumulusd.errors import Unavailable
from cumulusd.jobs import machine
from cumulusd.jobs.events import Event, EventKind
from cumulusd.jobs.model import Phase
from cumulusd.steady_time import steady_wall_clock
from tests.unit.supervisor.test_job_machine import record_in, retried
from tests.unit.supervisor.test_supervisor import in_world, running_job
from tests.unit.supervisor.world import (
    BEGIN_US,
    RUNNING,
    SETUP,
    World,
    exit_frame,
    new_record,
    output,
)

HOUR_US = 3_600_000_000


@in_world
async def test_a_worker_whose_clock_is_behind_loses_no_job_to_that(world: World) -> None:
    await world.submit("a", duration_s=10.0)
    hour_ago = BEGIN_US - HOUR_US
    world.says("a", encode_json(Kind.STATUS, {"phase": "setup"}, hour_ago))
    world.says("a", encode_json(Kind.STATUS, {"phase": "running"}, hour_ago))
    world.pass_time(35)
    assert world.workers.stopped == [], "it has its ten seconds and the runner's margin"
    world.says("a", encode_json(Kind.EXIT, {"outcome": "completed"}, hour_ago))
    record = world.record("a")
    assert record.state is JobState.COMPLETED
    assert record.started_at == record.ended_at == record.created_at, "else it were pruned at once"


@in_world
async def test_a_worker_whose_clock_is_ahead_is_still_held_to_the_bound(world: World) -> None:
    await world.submit("a", duration_s=10.0)
    in_an_hour = BEGIN_US + HOUR_US
    world.says("a", encode_json(Kind.STATUS, {"phase": "running"}, in_an_hour))
    started_at = world.record("a").started_at
    assert started_at is not None and started_at <= world.clock.seconds()
    world.pass_time(60)
    assert world.workers.stopped[0] == ("a", "duration_exceeded")


@pytest_twisted.ensureDeferred
async def test_a_clock_set_back_while_the_daemon_was_down_holds_up_no_timeout(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.workers.present = False
    record = new_record("a", world.clock.seconds() + 3600.0, queue_timeout_s=5.0)
    await world.start([record])
    world.pass_time(8)
    end = world.record("a").end
    await world.stop()
    assert end is not None and end.reason is EndReason.QUEUE_TIMEOUT


def test_a_clock_that_is_set_does_not_move_the_steady_one() -> None:
    wall, elapsed = [1000.0], [5.0]
    now = steady_wall_clock(lambda: wall[0], lambda: elapsed[0])
    assert now() == 1000.0
    wall[0], elapsed[0] = 4600.0, 7.0
    assert now() == 1002.0


@in_world
async def test_a_worker_is_not_lost_because_the_platform_is_away(world: World) -> None:
    await running_job(world, duration_s=1000.0)
    world.platform.die("a", 137)
    world.workers.locks_held.add("a")
    world.pass_time(2)
    world.platform.stop_ends = False
    looks = world.platform.containers

    async def away() -> None:
        raise Unavailable("the manager restarts")

    world.platform.containers = away  # type: ignore[assignment]
    world.pass_time(200)
    assert world.record("a").phase is Phase.RUNNING
    world.platform.containers = looks  # type: ignore[method-assign]
    world.says("a", exit_frame())
    assert world.record("a").state is JobState.COMPLETED


@in_world
async def test_an_end_that_is_here_is_not_overtaken_by_a_lost_worker(world: World) -> None:
    """The EXIT came, and is announced when it is on disk: the worker may go meanwhile."""
    await running_job(world)
    world.platform.die("a", 0)
    world.workers.error = Unavailable("no route")
    world.pass_time(30)
    journal = world.journals.open("a")
    told: list[EventKind] = []
    world.watcher._tell = lambda job_id, kind, **_: told.append(kind)  # type: ignore[assignment]
    journal.append(journal.end_offset, exit_frame())  # heard, not yet announced
    world.pass_time(60)
    assert told == []


@in_world
async def test_a_second_attempt_has_its_own_time_to_start(world: World) -> None:
    """The first one's is not counted against it."""
    await world.submit("a", retries=1, duration_s=1000.0)
    world.pass_time(20)  # silent for a while, as every start is
    world.says("a", SETUP, RUNNING, output("x"))
    world.pass_time(100)
    failed = exit_frame("failed", reason="runner_failed", message="killed")
    world.says("a", failed)
    world.platform.die("a", 143)
    world.pass_time(3)
    record = world.record("a")
    assert (record.attempt, record.phase) == (2, Phase.STARTING)
    world.pass_time(40)
    assert world.record("a").phase is Phase.STARTING


@in_world
async def test_a_runner_whose_first_words_are_on_their_way_is_not_called_silent(
    world: World,
) -> None:
    """The link was down for longer than a start may take, and is back."""
    await world.submit("a", duration_s=1000.0)
    words = SETUP + RUNNING
    world.workers.journal_ends["a"] += len(words)
    world.pass_time(200)
    assert world.record("a").phase is Phase.STARTING
    told: list[EventKind] = []
    tell, world.watcher._tell = world.watcher._tell, lambda _, kind, **__: told.append(kind)  # type: ignore[assignment]
    world.journals.open("a").append(0, words)  # here, but not yet in the record
    world.pass_time(5)
    world.watcher._tell = tell
    assert told == []


@in_world
async def test_one_jobs_bad_journal_does_not_keep_the_daemon_from_starting(world: World) -> None:
    await running_job(world)
    journal = world.journals.open("a")

    def broken(offset: int, max_bytes: int) -> None:
        raise Unavailable("it can't be read")

    journal.read = broken  # type: ignore[method-assign, assignment]
    world.intake.resume(world.record("a"))
    world.pass_time(1)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.JOURNAL_CORRUPT


@pytest.mark.parametrize("reason", [EndReason.DURATION_EXCEEDED, EndReason.SETUP_TIMEOUT])
def test_a_bound_of_an_attempt_that_is_over_does_not_end_the_job(reason: EndReason) -> None:
    record = retried(Phase.RETRYING)
    stop = Event(kind=EventKind.STOP, at=1.0, stop_reason=reason)
    assert machine.step(record, stop) == (record, ())
    by_user = attrs.evolve(stop, stop_reason=EndReason.CANCELLED_BY_USER)
    assert machine.step(record, by_user)[0].phase is Phase.ENDING
    assert machine.step(record_in(Phase.RUNNING), stop)[0].stop_reason is reason
