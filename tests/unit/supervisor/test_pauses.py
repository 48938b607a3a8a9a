"""Jobs that pause: asked, cleared, held without a share, and gone on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest_twisted

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind, encode_json
from cumulus_wire.states import JobState
from cumulusd.errors import Unavailable
from cumulusd.jobs.events import EventKind
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Kept
from tests.unit.supervisor.test_retries import kinds
from tests.unit.supervisor.test_supervisor import in_world, running_job
from tests.unit.supervisor.world import (
    BEGIN_US,
    RUNNING,
    SETUP,
    World,
    exit_frame,
    output,
)

CHECKPOINT: Mapping[str, Any] = {
    "filename": "a.pt",
    "path": "/k/a.pt",
    "epoch": 1,
    "step": None,
    "framework": "pytorch",
    "timestamp": 1.0,
    "size_bytes": 3,
    "s3_key": None,
}


def told(**changes: Any) -> bytes:
    value = {"checkpoints": [{**CHECKPOINT, **changes}]}
    return encode_json(Kind.CHECKPOINT, value, BEGIN_US)


def ask(world: World, kind: EventKind) -> None:
    world.supervisor.tell("a", kind)
    world.pass_time(0.1)


def pause(world: World, *frames: bytes, run_s: float = 20.0) -> JobRecord:
    """The code pauses, and its worker is cleared."""
    ask(world, EventKind.PAUSE)
    world.says("a", *frames, exit_frame("paused", run_s=run_s))
    world.platform.die("a", 0)
    world.pass_time(2)
    return world.record("a")


@in_world
async def test_a_paused_job_holds_nothing_and_goes_on_with_one_stream(world: World) -> None:
    await running_job(world)
    world.workers.kept["a"] = Kept(checkpoints=True, files=False)
    record = pause(world, output("one\n"), told())
    assert world.workers.paused == [("a", True)]
    assert (record.phase, record.state, record.pinned_node) == (
        Phase.PAUSED,
        JobState.PAUSED,
        "n1",
    )
    assert [one.filename for one in record.checkpoints] == ["a.pt"]
    assert world.workers.partitions == {} and world.platform.running == {}
    assert "a" in world.workers.kept
    await running_job(world, "b", share=1.0)
    world.says("b", exit_frame())
    world.platform.die("b", 0)
    world.pass_time(2)
    assert world.record("b").phase is Phase.ENDED, "the share was free for another"
    ask(world, EventKind.RESUME)
    record = world.record("a")
    assert (record.phase, record.attempt, record.duration_left_s) == (Phase.STARTING, 2, 40.0)
    world.says("a", SETUP, RUNNING, output("two\n"), exit_frame())
    world.platform.die("a", 0)
    world.pass_time(2)
    record = world.record("a")
    assert (record.state, record.phase) == (JobState.COMPLETED, Phase.ENDED)
    assert [shown for kind, shown in kinds(world) if kind is Kind.STDOUT] == ["one\n", "two\n"]
    assert world.workers.kept == {}


@in_world
async def test_a_runner_that_isnt_there_yet_is_told_until_it_has_heard(world: World) -> None:
    await running_job(world)
    world.workers.runner_obeys = False
    ask(world, EventKind.PAUSE)
    world.workers.error = Unavailable("its agent is away")
    world.pass_time(5)
    world.workers.error = None
    world.workers.runner_obeys = True
    world.pass_time(3)
    heard = len(world.workers.paused)
    assert heard >= 2 and set(world.workers.paused) == {("a", True)}
    world.pass_time(5)
    assert len(world.workers.paused) == heard, "told once"
    ask(world, EventKind.RESUME)
    assert world.workers.paused[heard:] == [("a", False)]
    assert not world.record("a").pause_requested


@in_world
async def test_what_is_kept_on_a_worker_that_is_gone_is_lost(world: World) -> None:
    await running_job(world)
    world.workers.kept["a"] = Kept(checkpoints=True, files=False)
    pause(world, told())
    world.platform.pool = [attrs.evolve(world.platform.pool[0], node_id="n2", hostname="two")]
    await world.supervisor.placing.refresh()
    ask(world, EventKind.RESUME)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.CHECKPOINT_LOST
    assert "removed from the pool" in end.message and end.hint is not None


@in_world
async def test_a_kept_folder_that_is_gone_is_a_lost_checkpoint(world: World) -> None:
    await running_job(world, retries=3)
    world.workers.kept["a"] = Kept(checkpoints=True, files=False)
    pause(world)
    del world.workers.kept["a"]
    ask(world, EventKind.RESUME)
    world.pass_time(2)
    record = world.record("a")
    assert record.end is not None and record.end.reason is EndReason.CHECKPOINT_LOST
    assert "one" in record.end.message and "nothing of it is here" in record.end.message
    assert record.phase is Phase.ENDED


@in_world
async def test_a_pinned_job_waits_for_its_worker_and_says_so(world: World) -> None:
    await running_job(world)
    world.workers.kept["a"] = Kept(checkpoints=True, files=False)
    pause(world)
    mine = world.platform.pool[0]
    other = attrs.evolve(mine, node_id="n2", hostname="two")
    world.platform.pool = [attrs.evolve(mine, availability="drain"), other]
    await world.supervisor.placing.refresh()
    ask(world, EventKind.RESUME)
    world.pass_time(200, step=1)
    record = world.record("a")
    assert record.phase is Phase.QUEUED, "it isn't refused while its worker is in the pool"
    assert record.wait is not None
    assert record.wait.message.startswith("It goes on from a checkpoint that is on one only: ")
    assert record.wait.details["pinned"] == {"node_id": "n1", "hostname": "one"}
    world.platform.pool = [mine, other]
    await world.supervisor.placing.refresh()
    world.pass_time(1)
    assert world.record("a").phase is Phase.STARTING


@in_world
async def test_with_its_checkpoint_on_s3_or_with_none_it_isnt_pinned(world: World) -> None:
    await running_job(world)
    world.workers.kept["a"] = Kept(checkpoints=True, files=False)
    assert pause(world, told(s3_key="j/a.pt")).pinned_node is None
    ask(world, EventKind.RESUME)
    world.says("a", SETUP, RUNNING)
    world.workers.kept.clear()
    record = pause(world, encode_json(Kind.CHECKPOINT, {"checkpoints": []}, BEGIN_US))
    assert (record.phase, record.pinned_node, record.pauses) == (Phase.PAUSED, None, 2)
    assert (record.ran_s, record.attempt) == (40.0, 3)


@in_world
async def test_cancelling_a_paused_job_ends_it_and_takes_what_it_kept(world: World) -> None:
    await running_job(world)
    world.workers.kept["a"] = Kept(checkpoints=True, files=False)
    pause(world)
    world.workers.error = Unavailable("its agent is away")
    world.supervisor.tell("a", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(5)
    record = world.record("a")
    assert (record.phase, record.state) == (Phase.ENDED, JobState.CANCELLED)
    assert "a" in world.workers.kept
    world.workers.error = None
    world.pass_time(61)
    assert world.workers.kept == {}, "cleared once its agent is back"


@in_world
async def test_a_queue_timeout_counts_from_the_resume(world: World) -> None:
    await running_job(world, "b", share=1.0, duration_s=3600.0)
    await world.submit("a", queue_timeout_s=30.0)
    world.pass_time(20)
    ask(world, EventKind.PAUSE)
    assert world.record("a").phase is Phase.PAUSED
    world.pass_time(100, step=1)
    assert world.record("a").phase is Phase.PAUSED, "a paused job doesn't wait"
    ask(world, EventKind.RESUME)
    world.pass_time(25)
    assert world.record("a").phase is Phase.QUEUED
    world.pass_time(10)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.QUEUE_TIMEOUT


@pytest_twisted.ensureDeferred
async def test_pauses_outlive_the_daemon(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await running_job(world)
    world.workers.runner_obeys = False
    ask(world, EventKind.PAUSE)
    record = world.record("a")
    await world.stop()
    after = World(tmp_path)
    after.workers.partitions, after.workers.attempts = {"a": record.spec.units}, {"a": 1}
    after.workers.journal_ends = dict(world.workers.journal_ends)
    after.platform.running = dict(world.platform.running)
    await after.start([record])
    after.pass_time(1)
    assert after.workers.paused == [("a", True)], "the request is repeated"
    after.says("a", exit_frame("paused", run_s=1.0))
    after.platform.die("a", 0)
    after.pass_time(2)
    paused = after.record("a")
    assert paused.phase is Phase.PAUSED
    await after.stop()
    last = World(tmp_path)
    await last.start([paused])
    last.pass_time(100, step=1)
    assert last.record("a") == paused
    ask(last, EventKind.RESUME)
    assert last.record("a").phase is Phase.STARTING
    await last.stop()
