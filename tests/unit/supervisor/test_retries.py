"""Attempts that the infrastructure ended: what follows, when, and with which journal."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.journal import FrameParser, Kind, Record, encode_json
from cumulus_wire.states import JobState
from cumulusd.errors import InternalError, Unavailable
from cumulusd.jobs.events import EventKind
from cumulusd.jobs.model import Phase
from tests.unit.supervisor.test_supervisor import in_world, running_job
from tests.unit.supervisor.world import (
    BEGIN_US,
    RUNNING,
    SETUP,
    World,
    exit_frame,
    output,
)

AWAY = Unavailable("its agent is away")


def kinds(world: World, job_id: str = "a") -> list[tuple[Kind, Any]]:
    """All that a reader gets, from the first byte on."""
    journal = world.journals.open(job_id)
    records: list[Record] = []
    offset = 0
    while offset < journal.end_offset:
        chunk = journal.read(offset, 1 << 16)
        records += chunk.records()
        offset = chunk.next_offset
    shown = []
    for record in records:
        text = record.kind in (Kind.STDOUT, Kind.STDERR)
        shown.append((record.kind, record.payload.decode() if text else record.json()))
    return shown


def kinds_on_disk(folder: Path) -> list[Kind]:
    """Of all records in the files of job a's journal."""
    (path,) = (folder / "journals" / "a").iterdir()
    return [record.kind for record in FrameParser().feed(path.read_bytes())]


def setup_of(attempt: int) -> bytes:
    return encode_json(Kind.STATUS, {"phase": "setup", "attempt": attempt}, BEGIN_US)


def kill_runner(world: World, job_id: str = "a") -> None:
    world.platform.die(job_id, 137)
    world.pass_time(3)


def lose_worker(world: World) -> None:
    """Its agent is away for longer than the grace, its container isn't known to be dead."""
    world.workers.error = AWAY
    world.workers.present = False
    world.platform.die("a", 137)
    world.pass_time(70)


def come_back(world: World) -> None:
    world.workers.error = None
    world.workers.present = True
    world.workers.changed()
    world.pass_time(8)


@in_world
async def test_a_killed_runner_is_followed_by_another_with_one_stream(world: World) -> None:
    await world.submit("a", retries=1)
    world.says("a", setup_of(1), RUNNING, output("one\n"))
    torn = output("never whole")[:-3]
    world.says("a", torn)
    kill_runner(world)
    record = world.record("a")
    assert (record.attempt, record.phase) == (2, Phase.STARTING)
    whole = sum(map(len, (setup_of(1), RUNNING, output("one\n"))))
    assert record.journal_start == whole == world.workers.journal_ends["a"]
    (over,) = record.attempts
    assert (over.attempt, over.reason) == (1, EndReason.RUNNER_FAILED)
    assert "137" in over.message
    world.says("a", setup_of(2), RUNNING)
    record = world.record("a")
    assert record.state is JobState.RUNNING
    world.says("a", output("two\n"), exit_frame())
    world.platform.die("a", 0)
    world.pass_time(2)
    record = world.record("a")
    assert (record.state, record.phase, record.attempt) == (JobState.COMPLETED, Phase.ENDED, 2)
    assert record.end is not None and record.end.log_tail == "two\n"
    assert [shown for kind, shown in kinds(world) if kind is Kind.STDOUT] == ["one\n", "two\n"]
    attempts = [shown.get("attempt") for kind, shown in kinds(world) if kind is Kind.STATUS]
    assert attempts == [1, None, 2, None]
    assert world.workers.partitions == {} and world.platform.running == {}


@in_world
async def test_without_retries_left_the_last_attempts_end_is_the_jobs(world: World) -> None:
    await world.submit("a", retries=1)
    for _ in range(2):
        world.says("a", SETUP, RUNNING)
        kill_runner(world)
    record = world.record("a")
    assert record.end is not None
    assert (record.attempt, record.end.reason) == (2, EndReason.RUNNER_FAILED)
    assert len(record.attempts) == 1


@in_world
async def test_a_fault_of_the_codes_own_is_not_tried_again(world: World) -> None:
    await running_job(world, retries=5)
    world.says("a", exit_frame("failed", reason="user_error", message="boom"))
    assert world.record("a").state is JobState.FAILED
    assert world.record("a").attempt == 1


@in_world
async def test_the_next_attempt_waits_for_the_worker_and_says_so(world: World) -> None:
    await running_job(world, retries=1, duration_s=3600.0)
    world.workers.locks_held.add("a")
    lose_worker(world)
    record = world.record("a")
    assert (record.phase, record.state) == (Phase.RETRYING, JobState.PENDING)
    wait = record.wait
    assert wait is not None and wait.reason is WaitReason.RETRYING
    assert "Attempt 1 of 2 ended (worker_lost: " in wait.message
    assert "its agent is away" in wait.message and "Should one not come back" in wait.message
    assert wait.details["holds"] == "its agent is away"
    assert wait.details["hostname"] == "one"
    assert wait.details["certain_at"] > world.clock.seconds() + 3600
    world.pass_time(600, step=1)
    assert world.record("a").phase is Phase.RETRYING
    come_back(world)
    wait = world.record("a").wait
    assert world.record("a").phase is Phase.RETRYING, "a process of it still runs"
    assert wait is not None and "its processes run" in wait.message
    world.workers.locks_held.clear()
    world.supervisor.nudge("a")
    world.pass_time(1)
    assert (world.record("a").attempt, world.record("a").phase) == (2, Phase.STARTING)
    assert world.history.count("launch a") == 2


@in_world
async def test_a_node_removed_from_the_pool_can_run_nothing_any_more(world: World) -> None:
    await running_job(world, retries=1)
    lose_worker(world)
    assert world.record("a").phase is Phase.RETRYING
    journal = world.journals.open("a")
    world.platform.pool = [attrs.evolve(world.platform.pool[0], node_id="n2", hostname="two")]
    await world.supervisor.placing.refresh()
    world.pass_time(8)
    record = world.record("a")
    assert (record.phase, record.attempt, record.placement) == (Phase.QUEUED, 2, None)
    # What the node sends should it come back after all is of an attempt that is over.
    before = journal.end_offset
    assert world.intake.offered("n1", "a", 1, 0, before + 100) is None
    assert not world.intake.received("n1", "a", 1, before, output("late"))
    assert journal.end_offset == before == record.journal_start


@in_world
async def test_after_its_last_moment_a_runner_is_gone(world: World) -> None:
    await running_job(world, retries=1, duration_s=200.0, setup_timeout_s=100.0)
    lose_worker(world)
    world.pass_time(200, step=1)
    assert world.record("a").phase is Phase.RETRYING
    world.pass_time(200 + world.settings.agent_grace_s, step=1)
    assert (world.record("a").phase, world.record("a").attempt) == (Phase.QUEUED, 2)


@in_world
async def test_an_agent_that_only_restarts_then_is_waited_for(world: World) -> None:
    await running_job(world, share=0.4, retries=1, duration_s=200.0, setup_timeout_s=100.0)
    world.says("a", output("one\n"))
    lose_worker(world)
    world.pass_time(400, step=1)  # past the last moment of its runner
    assert world.record("a").phase is Phase.RETRYING
    world.says("a", output("two\n"))
    come_back(world)
    assert (world.record("a").phase, world.record("a").attempt) == (Phase.STARTING, 2)
    assert [text for kind, text in kinds(world) if kind is Kind.STDOUT] == ["one\n", "two\n"]
    assert Kind.GAP not in [kind for kind, _ in kinds(world)]


@in_world
async def test_what_a_worker_that_was_given_up_may_have_is_told_as_a_gap(world: World) -> None:
    await running_job(world, share=0.4, retries=1, duration_s=200.0, setup_timeout_s=100.0)
    world.says("a", output("one\n"), output("torn")[:-2])
    held = world.journals.open("a").end_offset
    lose_worker(world)
    world.pass_time(400 + world.settings.agent_grace_s, step=1)
    record = world.record("a")
    assert (record.phase, record.attempt) == (Phase.QUEUED, 2)
    gap = {"from": held, "to": None, "attempt": 1}
    assert kinds(world)[-2:] == [(Kind.STDOUT, "one\n"), (Kind.GAP, gap)]
    assert record.journal_start == world.journals.open("a").durable_offset > held
    # What the worker still has of it comes too late, and the next attempt goes on behind.
    come_back(world)
    world.says("a", setup_of(2), RUNNING, output("two\n"), exit_frame())
    world.platform.die("a", 0)
    world.pass_time(8)
    assert world.record("a").state is JobState.COMPLETED
    assert [kind for kind, _ in kinds(world)].count(Kind.GAP) == 1
    assert kinds(world)[-2][1] == "two\n"


@in_world
async def test_a_job_that_ends_without_its_worker_tells_the_gap(world: World) -> None:
    await running_job(world, duration_s=200.0, setup_timeout_s=100.0)
    held = world.journals.open("a").end_offset
    lose_worker(world)
    assert (world.record("a").phase, kinds(world)[-1][0]) == (Phase.ENDING, Kind.STATUS)
    world.pass_time(400 + world.settings.agent_grace_s, step=1)
    assert world.record("a").phase is Phase.ENDED
    assert kinds(world)[-1] == (Kind.GAP, {"from": held, "to": None, "attempt": 1})


@in_world
async def test_a_worker_that_comes_back_in_time_leaves_no_gap(world: World) -> None:
    await running_job(world, duration_s=200.0, setup_timeout_s=100.0)
    lose_worker(world)
    world.says("a", output("late\n"))
    come_back(world)
    assert world.record("a").phase is Phase.ENDED
    assert kinds(world)[-1] == (Kind.STDOUT, "late\n")


@in_world
async def test_a_worker_that_says_where_its_journal_ends_leaves_no_gap(world: World) -> None:
    await running_job(world, duration_s=20.0, setup_timeout_s=10.0)
    kill_runner(world)

    async def full(node_id: str, job_id: str, attempt: int) -> bool:
        raise InternalError("the partition ledger can't be written: no space left on device")

    world.workers.release = full  # type: ignore[method-assign]
    world.platform.die("a", 137)
    world.pass_time(300, step=1)
    assert world.record("a").phase is Phase.ENDED
    assert [kind for kind, _ in kinds(world)] == [Kind.STATUS, Kind.STATUS]


@in_world
async def test_what_follows_on_damage_is_a_gap(world: World) -> None:
    await running_job(world)
    world.says("a", output("whole\n"), b"\0" * 40)
    world.platform.die("a", 0)
    world.pass_time(8)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.JOURNAL_CORRUPT
    assert [kind for kind, _ in kinds(world)][-2:] == [Kind.STDOUT, Kind.GAP]


@pytest_twisted.ensureDeferred
async def test_a_gap_is_on_disk_before_the_worker_may_drop_what_it_has(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await running_job(world, retries=1, duration_s=200.0, setup_timeout_s=100.0)
    lose_worker(world)
    found = world.store.saved["a"]
    assert found.phase is Phase.RETRYING
    await world.journals.open("a").seal(1, given_up_from=0, time_us=BEGIN_US)
    await world.stop()
    gap = kinds_on_disk(tmp_path)
    # The daemon was killed before the next attempt was saved; its page cache was left to it.
    again = World(tmp_path)
    again.workers.error = AWAY
    await again.start([found])
    journal = again.journals.open("a")
    assert journal.given_up_since(0) and journal.durable_offset < journal.end_offset
    with pytest.raises(Unavailable, match="is being closed"):
        again.intake.offered("n1", "a", 1, 0, 10_000)
    again.pass_time(2)
    assert again.intake.offered("n1", "a", 1, 0, 10_000) is None
    assert not again.intake.received("n1", "a", 1, journal.end_offset, output("late"))
    await journal.seal(1, given_up_from=0, time_us=BEGIN_US)
    await again.stop()
    assert kinds_on_disk(tmp_path) == gap == [Kind.STATUS, Kind.STATUS, Kind.GAP]


@in_world
async def test_a_worker_that_says_a_process_runs_is_believed_for_ever(world: World) -> None:
    await running_job(world, retries=1, duration_s=10.0, setup_timeout_s=10.0)
    world.workers.locks_held.add("a")
    kill_runner(world)
    world.says("a", exit_frame("failed", reason="runner_failed", message="stopped from outside"))
    world.pass_time(1000, step=1)
    assert world.record("a").phase is Phase.RETRYING


@in_world
async def test_a_job_given_up_that_has_completed_is_complete(world: World) -> None:
    await running_job(world, retries=1)
    world.workers.locks_held.add("a")
    lose_worker(world)
    come_back(world)
    world.says("a", output("done"), exit_frame())
    world.workers.locks_held.clear()
    world.pass_time(8)
    record = world.record("a")
    assert (record.state, record.phase) == (JobState.COMPLETED, Phase.ENDED)
    assert (record.attempt, record.attempts) == (1, ())
    assert world.history.count("launch a") == 1


@in_world
async def test_cancel_while_waiting_for_the_next_attempt(world: World) -> None:
    await running_job(world, retries=1)
    lose_worker(world)
    world.supervisor.tell("a", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(0)
    record = world.record("a")
    assert record.state is JobState.CANCELLED
    assert (record.attempt, record.attempts) == (1, ()), "it was the last, none came before it"
    assert record.end is not None
    assert record.end.message.startswith("Job cancelled: attempt 1 had ended (worker_lost: Worker")
    come_back(world)
    assert world.record("a").phase is Phase.ENDED
    assert world.history.count("launch a") == 1


@in_world
async def test_what_was_never_launched_is_not_waited_for(world: World) -> None:
    world.workers.prepare_error = AWAY
    await world.submit("a", retries=1)
    world.workers.error = AWAY
    world.pass_time(70)
    record = world.record("a")
    assert (record.attempt, record.phase) == (2, Phase.PREPARING)
    assert record.attempts[0].reason is EndReason.WORKER_LOST


@in_world
async def test_an_older_attempts_folder_in_the_way_is_cleared(world: World) -> None:
    await running_job(world, share=0.4, retries=1, duration_s=20.0, setup_timeout_s=10.0)
    lose_worker(world)
    world.pass_time(200, step=1)
    assert world.record("a").phase is Phase.QUEUED
    come_back(world)
    assert world.workers.attempts == {"a": 2}, "the folder of attempt 1 was there"
    assert world.record("a").phase is Phase.STARTING


@in_world
async def test_the_reaper_tells_the_attempts_apart(world: World) -> None:
    await running_job(world, retries=1)
    world.platform.pool.append(attrs.evolve(world.platform.pool[0], node_id="n2", hostname="two"))
    kill_runner(world)
    assert world.record("a").attempt == 2
    await world.watcher.reap()
    assert world.workers.attempts == {"a": 2}
    world.workers.attempts["a"] = 1
    await world.watcher.reap()
    assert world.workers.partitions == {}


@in_world
async def test_an_ended_job_leaves_a_node_that_was_removed(world: World) -> None:
    await running_job(world)
    world.workers.locks_held.add("a")
    world.says("a", exit_frame())
    lose_worker(world)
    assert world.record("a").phase is Phase.ENDING
    world.platform.pool = []
    await world.supervisor.placing.refresh()
    world.pass_time(12)
    assert world.record("a").phase is Phase.ENDED


@pytest_twisted.ensureDeferred
async def test_a_restart_between_two_attempts(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await running_job(world, retries=1)
    world.says("a", output("one\n"))
    world.workers.locks_held.add("a")
    kill_runner(world)
    world.says("a", exit_frame("failed", reason="runner_failed"))
    world.pass_time(0)
    found = world.store.saved["a"]
    assert found.phase is Phase.RETRYING
    await world.stop()

    again = World(tmp_path)
    again.workers.partitions["a"] = found.spec.units
    again.workers.attempts["a"] = 1
    await again.start([found])
    again.pass_time(8)
    record = again.record("a")
    assert (record.attempt, record.phase) == (2, Phase.STARTING)
    assert record.journal_start == again.journals.open("a").end_offset
    await again.stop()

    # And once more, with attempt 1's EXIT in the journal: it isn't attempt 2's.
    third = World(tmp_path)
    third.platform.running = again.platform.running
    third.workers.partitions["a"] = record.spec.units
    third.workers.attempts["a"] = 2
    third.workers.journal_ends["a"] = record.journal_start
    await third.start([record])
    third.pass_time(1)
    assert third.record("a").phase is Phase.STARTING, third.record("a").end
    third.says("a", setup_of(2), RUNNING, output("two\n"), exit_frame())
    third.pass_time(8)
    assert third.record("a").state is JobState.COMPLETED
    assert [shown for kind, shown in kinds(third) if kind is Kind.STDOUT] == ["one\n", "two\n"]
    await third.stop()


@pytest.mark.parametrize(
    ("printed", "tail"),
    [
        ([], ""),
        ([b"a\n", b"b"], "a\nb"),
        ([b"x" * 5000, b"\xff\x00end"], "x" * 4091 + "\ufffd\\0end"),
        (["é".encode() * 3000 + b"!"], "é" * 2047 + "!"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_end_keeps_the_logs_tail(tmp_path: Path, printed: list[bytes], tail: str) -> None:
    from cumulus_wire.journal import encode

    world = World(tmp_path)
    await world.start()
    await running_job(world)
    for data in printed:
        world.says("a", encode(Kind.STDERR if data == b"b" else Kind.STDOUT, data, BEGIN_US))
    world.supervisor.tell("a", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(8)
    end = world.store.saved["a"].end
    assert end is not None and end.state is JobState.CANCELLED
    assert end.log_tail == tail
    await world.stop()
