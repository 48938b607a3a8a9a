"""History keeps ended jobs for as long as it says, and drops them whole."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.logger import capturedLogs, formatEvent

from cumulus_wire.journal import Kind, encode
from cumulus_wire.states import JobState
from cumulusd.errors import Unavailable
from cumulusd.jobs.history import History
from cumulusd.jobs.model import End, JobRecord, Phase
from cumulusd.jobs.outputs import ListedOutput
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.store import StoreFailed
from tests.unit.supervisor.world import World, exit_frame, new_record, output, run_at_once

HOUR_S = 3600.0


class ForgetfulStore:
    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.broken = False

    async def delete(self, job_ids: Sequence[str]) -> None:
        if self.broken:
            raise Unavailable("disk full")
        self.deleted += job_ids


def ended(job_id: str, at: float) -> JobRecord:
    return attrs.evolve(
        new_record(job_id, at - 60.0, idempotency_key=f"key-{job_id}"),
        phase=Phase.ENDED,
        end=End(state=JobState.COMPLETED, reason=None, message=""),
        ended_at=at,
    )


@pytest_twisted.ensureDeferred
async def test_jobs_stay_for_a_day_after_their_end(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(history_s=24 * HOUR_S))
    store = ForgetfulStore()
    packages = Packages(tmp_path / "p", run_in_thread=run_at_once, max_package_bytes=10)
    history = History(
        table=world.table,
        store=store,  # type: ignore[arg-type]
        journals=world.journals,
        packages=packages,
        outputs=world.outputs,
        clock=world.clock,
        wall_clock=world.clock.seconds,
        settings=world.settings,
    )
    now = world.clock.seconds()
    for record in (
        ended("old", now - 25 * HOUR_S),
        ended("young", now - 23 * HOUR_S),
        attrs.evolve(new_record("long", now - 100 * HOUR_S), phase=Phase.RUNNING),
    ):
        world.table.put(record)
        world.journals.open(record.job_id).append(0, output("kept"))

    store.broken = True
    with pytest.raises(Unavailable):
        await history.prune()
    assert "old" in world.table, "what could not be deleted on disk is still shown"
    store.broken = False

    history.start()
    world.clock.advance(300.0)
    assert store.deleted == ["old"]
    assert {record.job_id for record in world.table.all()} == {"young", "long"}
    assert sorted(world.journals.known()) == ["long", "young"]
    assert world.table.by_key("ann", "key-old") is None
    assert world.table.by_key("ann", "key-young") is not None
    await history.stop()
    await world.journals.stop()
    assert not world.clock.getDelayedCalls()


def a_history(world: World, tmp_path: Path, store: ForgetfulStore) -> History:
    packages = Packages(tmp_path / "p", run_in_thread=run_at_once, max_package_bytes=10)
    return History(
        table=world.table,
        store=store,  # type: ignore[arg-type]
        journals=world.journals,
        packages=packages,
        outputs=world.outputs,
        clock=world.clock,
        wall_clock=world.clock.seconds,
        settings=world.settings,
    )


@pytest_twisted.ensureDeferred
async def test_of_too_many_jobs_the_oldest_ends_go_whole(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(history_max_jobs=300))
    store = ForgetfulStore()
    history = a_history(world, tmp_path, store)
    now = world.clock.seconds()
    world.table.put(attrs.evolve(new_record("runs", now - 9 * HOUR_S), phase=Phase.RUNNING))
    for number in range(550):
        world.table.put(ended(f"j{number:03}", now - 3 * HOUR_S + (number * 7) % 550))
    oldest = min(world.table.all(), key=lambda record: record.ended_at or now).job_id
    world.journals.open(oldest).append(0, output("gone"))
    with capturedLogs() as said:
        await history.prune()
    left = [record for record in world.table.all() if record.phase is Phase.ENDED]
    assert len(left) == 300 and len(store.deleted) == 250
    assert min(record.ended_at or 0.0 for record in left) == now - 3 * HOUR_S + 250
    assert "runs" in world.table and world.journals.known() == []
    (line,) = map(formatEvent, said)
    assert "250 job(s) pruned before their time" in line and "history_max_jobs" in line
    await history.prune()
    assert len(store.deleted) == 250, "within the bound nothing goes"
    await world.journals.stop()


@pytest_twisted.ensureDeferred
async def test_a_journal_that_can_not_be_looked_at_keeps_nothing_else(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(history_s=24 * HOUR_S))
    store = ForgetfulStore()
    history = a_history(world, tmp_path, store)
    world.table.put(ended("old", world.clock.seconds() - 25 * HOUR_S))
    world.table.put(ended("odd", world.clock.seconds()))
    (world.journals._root / "odd").touch()
    world.journals._sizes.found("odd")
    with pytest.raises(StoreFailed, match="can't be looked at"):
        await history.prune()
    assert store.deleted == ["old"]
    await world.journals.stop()


@pytest_twisted.ensureDeferred
async def test_an_ended_jobs_journal_is_cut_to_its_cap(tmp_path: Path) -> None:
    world = World(tmp_path)
    history = a_history(world, tmp_path, ForgetfulStore())
    world.table.put(ended("quick", world.clock.seconds()))
    world.table.put(attrs.evolve(new_record("runs", 1.0), phase=Phase.RUNNING))
    for job_id in ("quick", "runs"):
        journal = world.journals.open(job_id)
        journal.append(0, output("x" * 1000) * 2800)  # at once: one segment
        await journal.sync()
    await history.prune()
    assert 700_000 < world.journals.size_bytes("quick") <= 1 << 20
    assert world.journals.size_bytes("runs") > 2_800_000, "it isn't touched while it runs"
    assert world.journals.open("quick").read(0, 1).kind == "frames", "the head is kept"
    await world.journals.stop()


RESULT = encode(Kind.RESULT, b"r" * 3000, 1)
#: 100 KB of output over several segments, a result of 6 KB, the end.
LONG = output("x" * 1000) * 100 + RESULT + RESULT + exit_frame()


@pytest_twisted.ensureDeferred
async def test_over_its_bytes_the_oldest_output_goes_first_and_results_stay(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, Settings(history_max_bytes=250_000))
    history = a_history(world, tmp_path, ForgetfulStore())
    now = world.clock.seconds()
    live = attrs.evolve(new_record("live", now - 100 * HOUR_S), phase=Phase.RUNNING)
    records = [live, *(ended(f"job-{n}", now - (9 - n) * HOUR_S) for n in range(4))]
    for record in records:
        world.table.put(record)
        world.journals.open(record.job_id).append(0, LONG)
    following = world.journals.open("job-0")
    await history.prune()
    assert [world.journals.extent(f"job-{n}")[0] > 0 for n in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    assert world.journals.extent("live")[0] == 0, "what has not ended is never touched"
    assert len(list(world.table.all())) == 5, "status and durations stay"
    start = following.start_offset
    assert start == len(output("x" * 1000)) * 100, "from the result on"
    gap = following.read(0, 10_000)
    assert (gap.kind, gap.offset, gap.next_offset) == ("gap", 0, start)
    assert following.read(start, 1 << 20).data == RESULT + RESULT + exit_frame()
    assert following.end_offset == len(LONG)
    used = sum(world.journals.size_bytes(f"job-{n}") for n in range(4))
    assert used <= 250_000
    on_disk = [path for path in (tmp_path / "journals").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in on_disk) == world.journals.total_bytes
    await world.journals.stop()
    again = World(tmp_path, world.settings)  # as a daemon that starts anew finds it
    assert again.journals.extent("job-0") == (start, len(LONG))
    assert again.journals.open("job-0").finished
    await again.journals.stop()


@pytest_twisted.ensureDeferred
async def test_results_go_when_output_was_not_enough_and_ends_never(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(history_max_bytes=13_000))
    history = a_history(world, tmp_path, ForgetfulStore())
    now = world.clock.seconds()
    for n in range(4):
        world.table.put(ended(f"job-{n}", now - (9 - n) * HOUR_S))
        world.journals.open(f"job-{n}").append(0, LONG)
    await history.prune()
    left = [world.journals.open(f"job-{n}") for n in range(4)]
    assert [len(each.read(each.start_offset, 1 << 20).data) for each in left] == [
        len(exit_frame()),
        len(exit_frame()),
        2 * len(RESULT) + len(exit_frame()),
        2 * len(RESULT) + len(exit_frame()),
    ]
    await history.prune()
    assert len(list(world.table.all())) == 4
    await world.journals.stop()


@pytest_twisted.ensureDeferred
async def test_only_the_last_attempts_result_is_kept(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(history_max_bytes=1000))
    history = a_history(world, tmp_path, ForgetfulStore())
    first = output("one") + RESULT
    record = attrs.evolve(ended("job", world.clock.seconds()), journal_start=len(first))
    world.table.put(record)
    world.journals.open("job").append(0, first + output("two") + RESULT + exit_frame())
    assert await world.journals.prune("job", len(first), keep_result=True) > 0
    assert world.journals.extent("job")[0] == len(first + output("two"))
    await history.prune()
    await world.journals.stop()


@pytest_twisted.ensureDeferred
async def test_a_journal_of_no_record_stays_its_time(tmp_path: Path) -> None:
    """It may be all that a damaged store has left of its job."""
    world = World(tmp_path)
    history = a_history(world, tmp_path, ForgetfulStore())
    for job_id, age_s in (("old", 25 * HOUR_S), ("young", 23 * HOUR_S)):
        world.journals.open(job_id).append(0, LONG)
        at = world.clock.seconds() - age_s
        os.utime(tmp_path / "journals" / job_id, (at, at))
    await history.prune()
    assert world.journals.known() == ["young"]
    await world.journals.stop()


@pytest_twisted.ensureDeferred
async def test_a_disk_that_refuses_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, Settings(history_max_bytes=1000))
    world.journals.open("job").append(0, LONG)

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StoreFailed, match="No space left"):
            await world.journals.prune("job", 0, keep_result=True)
    assert world.journals.extent("job") == (0, len(LONG))
    journal = world.journals.open("job")
    data, offset = b"", 0
    while offset < journal.end_offset:
        chunk = journal.read(offset, 1 << 20)
        data, offset = data + chunk.data, chunk.next_offset
    assert data == LONG
    assert not list((tmp_path / "journals").rglob("*.new"))
    await world.journals.stop()


@pytest.mark.parametrize("moved", [0, 1])
@pytest_twisted.ensureDeferred
async def test_a_crash_while_output_is_pruned_leaves_a_whole_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    world = World(tmp_path)
    world.journals.open("job").append(0, LONG[:70_000])
    world.pass_time(2)
    world.journals.open("job").append(70_000, LONG[70_000:])
    world.pass_time(2)
    segments = sorted(path.name for path in (tmp_path / "journals" / "job").iterdir())
    assert len(segments) == 2
    rename, done = os.rename, 0

    def crashing(source: Path, target: Path) -> None:
        nonlocal done
        if done == moved:
            raise KeyboardInterrupt
        rename(source, target)
        done += 1

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crashing)
        with pytest.raises(KeyboardInterrupt):
            await world.journals.prune("job", 0, keep_result=True)
    await world.journals.stop()
    again = World(tmp_path)
    journal = again.journals.open("job")
    assert (journal.end_offset, journal.finished) == (len(LONG), True)
    data, offset = b"", journal.start_offset
    while offset < journal.end_offset:
        chunk = journal.read(offset, 1 << 20)
        assert chunk.kind == "frames"
        data, offset = data + chunk.data, chunk.next_offset
    assert LONG.endswith(data)
    assert journal.start_offset == (0 if moved == 0 else int(segments[1][:20]))
    assert await again.journals.prune("job", 0, keep_result=True) > 0
    assert journal.read(journal.start_offset, 1 << 20).data == RESULT + RESULT + exit_frame()
    await again.journals.stop()


async def store_output(world: World, job_id: str, size_bytes: int) -> None:
    """As a job that ended has left it."""
    incoming = world.outputs.incoming(
        job_id, ListedOutput(name="o", size_bytes=size_bytes, sha256=None)
    )
    incoming.open()
    incoming.write(b"x" * size_bytes)
    incoming.finish()
    incoming.close()
    await world.outputs.settle(job_id)


@pytest_twisted.ensureDeferred
async def test_outputs_go_with_their_jobs(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(history_s=24 * HOUR_S))
    history = a_history(world, tmp_path, ForgetfulStore())
    now = world.clock.seconds()
    for job_id, age_s in (("old", 25 * HOUR_S), ("young", HOUR_S)):
        world.table.put(ended(job_id, now - age_s))
        await store_output(world, job_id, 1000)
    await store_output(world, "unknown", 1000)
    os.utime(tmp_path / "outputs" / "unknown", (now - 25 * HOUR_S, now - 25 * HOUR_S))
    await history.prune()
    assert world.outputs.known() == ["young"]
    assert os.listdir(tmp_path / "outputs") == ["young"]
    assert world.outputs.total_bytes == 1000
    await world.journals.stop()


@pytest_twisted.ensureDeferred
async def test_over_their_bytes_the_oldest_outputs_go_first(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(outputs_history_max_bytes=2500))
    history = a_history(world, tmp_path, ForgetfulStore())
    now = world.clock.seconds()
    world.table.put(attrs.evolve(new_record("live", now - 9.0), phase=Phase.RUNNING))
    await store_output(world, "live", 1000)
    for n in range(3):
        world.table.put(ended(f"job-{n}", now - (9 - n) * HOUR_S))
        await store_output(world, f"job-{n}", 500)
    await history.prune()
    assert sorted(world.outputs.known()) == ["job-0", "job-1", "job-2", "live"]
    with capturedLogs() as said:
        await history.make_room_for_outputs(600)
    assert sorted(world.outputs.known()) == ["job-2", "live"]
    assert "job-0: its outputs were pruned before their time" in formatEvent(said[0])
    await history.make_room_for_outputs(1 << 40)
    assert world.outputs.known() == ["live"], "what has not ended is never touched"
    assert all(f"job-{n}" in world.table for n in range(3)), "the records stay"
    await world.journals.stop()


@pytest_twisted.ensureDeferred
async def test_a_pass_with_nothing_to_prune_looks_at_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the history is: the reactor does nothing else meanwhile."""
    world = World(tmp_path, Settings(history_s=24 * HOUR_S, history_max_jobs=1000))
    history = a_history(world, tmp_path, ForgetfulStore())
    now = world.clock.seconds()
    for number in range(50):
        world.table.put(ended(f"j{number}", now - HOUR_S))
        world.journals.open(f"j{number}").append(0, output("kept"))
    asked: list[str] = []

    def size_bytes(job_id: str) -> int:
        asked.append(job_id)
        return 0

    monkeypatch.setattr(world.journals, "size_bytes", size_bytes)
    monkeypatch.setattr(world.table, "all", lambda: asked.append("all"))
    monkeypatch.setattr(world.journals, "fit", lambda job_id, floor: asked.append(job_id))
    await history.prune()
    assert asked == []
    await world.journals.stop()
