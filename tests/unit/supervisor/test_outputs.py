"""A job's outputs on their way to the daemon: stored before the end is told, or told as missing."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.states import JobState
from cumulusd.errors import Unavailable
from cumulusd.jobs.events import EventKind
from cumulusd.jobs.model import End, OutputInfo, Phase
from cumulusd.jobs.output_pull import CHUNK_BYTES, WINDOW
from cumulusd.jobs.outputs import IncomingOutput, ListedOutput
from cumulusd.jobs.settings import Settings
from tests.unit.supervisor.world import RUNNING, SETUP, World, exit_frame, output

BIG = bytes(range(256)) * 12_000  # a dozen ranges


def entry(name: str, data: bytes, hashed: bool = True) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest() if hashed else None
    return {"name": name, "size_bytes": len(data), "sha256": sha256}


def info(name: str, data: bytes) -> OutputInfo:
    return OutputInfo(**entry(name, data))


async def running(folder: Path, **files: bytes) -> World:
    world = World(folder, Settings(agent_grace_s=20.0))
    await world.start()
    await world.submit("j1", duration_s=1000.0)
    world.pass_time(1)
    world.says("j1", SETUP, RUNNING, output("hello"))
    for name, data in files.items():
        world.files.held["j1", name] = data
    return world


def ends(world: World, *listed: dict[str, Any], **fields: Any) -> None:
    world.says("j1", exit_frame(outputs=list(listed), **fields))
    world.platform.die("j1", 0)


def end_of(world: World) -> End:
    end = world.record("j1").end
    assert end is not None
    return end


async def held(world: World, info: OutputInfo) -> bytes:
    data = b""
    while more := await world.outputs.read("j1", info, len(data), 100_000):
        data += more
    return data


@pytest_twisted.ensureDeferred
async def test_the_end_is_told_when_its_outputs_are_stored(tmp_path: Path) -> None:
    world = await running(tmp_path, big=BIG, small=b"s", empty=b"")
    world.files.gate = gate = Deferred()
    listed = [entry("big", BIG), entry("small", b"s", hashed=False), entry("empty", b"")]
    ends(world, *listed, outputs_note="1 left out: 'x' (a link)")
    world.pass_time(10)
    assert world.record("j1").end is None
    assert world.intake.is_storing("j1")
    wait = world.record("j1").wait
    assert wait is not None
    assert (wait.reason, wait.details["count"]) == (WaitReason.STORING_OUTPUTS, 3)
    assert f"3 files, {len(BIG) + 1} bytes" in wait.message
    assert len(world.files.asked) == WINDOW, "no more is asked for than fits in memory"
    assert all(length <= CHUNK_BYTES for _, _, length in world.files.asked)

    world.files.gate = None
    gate.callback(None)
    world.pass_time(1)
    end = end_of(world)
    assert world.record("j1").wait is None
    assert end.state is JobState.COMPLETED
    assert end.outputs == (info("big", BIG), info("small", b"s"), info("empty", b""))
    assert end.outputs_note == "1 left out: 'x' (a link)"
    for one, data in zip(end.outputs, (BIG, b"s", b""), strict=True):
        assert await held(world, one) == data
    assert not world.intake.is_storing("j1")
    world.pass_time(5)
    assert world.record("j1").phase is Phase.ENDED
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_job_that_failed_leaves_its_outputs_too(tmp_path: Path) -> None:
    world = await running(tmp_path, log=b"why")
    ends(world, entry("log", b"why"), outcome="failed", reason="user_error")
    end = end_of(world)
    assert (end.state, end.outputs) == (JobState.FAILED, (info("log", b"why"),))
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_link_that_was_cut_is_waited_for_and_gone_on_over(tmp_path: Path) -> None:
    world = await running(tmp_path, big=BIG)
    answer, cut_after = world.files._answer, 5

    async def cut(job_id: str, name: str, offset: int, length: int) -> tuple[bytes, int]:
        nonlocal cut_after
        cut_after -= 1
        if cut_after == 0:
            world.files.error = Unavailable("the link is down")
        return await answer(job_id, name, offset, length)

    world.files._answer = cut  # type: ignore[method-assign]
    ends(world, entry("big", BIG))
    world.pass_time(10)
    assert world.record("j1").end is None
    before = len(world.files.asked)
    world.files.error = None
    world.pass_time(2)
    assert end_of(world).outputs == (info("big", BIG),)
    assert world.files.asked[before][1] >= CHUNK_BYTES, "what came is not asked for again"
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_worker_that_stays_away_gives_a_note_and_no_hanging_job(tmp_path: Path) -> None:
    world = await running(tmp_path, a=b"a", b=b"b")
    world.files.error = Unavailable("the link to the agent is down")
    ends(world, entry("a", b"a"), entry("b", b"b"))
    world.pass_time(19)
    assert world.record("j1").end is None
    world.pass_time(3)
    end = end_of(world)
    assert end.state is JobState.COMPLETED
    assert end.outputs == ()
    assert end.outputs_note == "'a', 'b' not stored: the link to the agent is down"
    assert not world.outputs.holds("j1")
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_slow_pull_is_no_reason_to_end_the_job_another_way(tmp_path: Path) -> None:
    """The timer of its duration, the watch over its container, and a second cancel all wait."""
    world = await running(tmp_path, big=BIG)
    world.supervisor.tell("j1", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(0.2)
    world.files.gate = gate = Deferred()
    ends(world, entry("big", BIG), outcome="cancelled", reason="cancelled_by_user")
    world.pass_time(14)
    assert world.record("j1").end is None, "not forced: its end is here"
    world.files.gate = None
    gate.callback(None)
    world.pass_time(2)
    end = end_of(world)
    assert (end.state, end.outputs) == (JobState.CANCELLED, (info("big", BIG),))
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_the_duration_may_pass_while_outputs_are_stored(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(agent_grace_s=200.0))
    await world.start()
    await world.submit("j1", duration_s=5.0)
    world.pass_time(1)
    world.says("j1", SETUP, RUNNING)
    world.files.error = Unavailable("the link is down")
    ends(world, entry("a", b"a"))
    world.pass_time(100, step=1)
    assert world.record("j1").stop_reason is None
    world.files.error, world.files.held["j1", "a"] = None, b"a"
    world.pass_time(2)
    assert end_of(world).state is JobState.COMPLETED
    assert end_of(world).outputs == (info("a", b"a"),)
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_cancel_while_they_are_stored_ends_the_waiting(tmp_path: Path) -> None:
    world = await running(tmp_path)
    world.files.error = Unavailable("the link is down")
    ends(world, entry("a", b"a"))
    world.pass_time(5)
    world.supervisor.tell("j1", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(2)
    end = end_of(world)
    assert end.state is JobState.COMPLETED, "its code had ended before"
    assert end.outputs_note == (
        "'a' not stored: the job was cancelled while its outputs were stored"
    )
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_file_that_changed_or_went_is_told_and_holds_up_no_other(tmp_path: Path) -> None:
    world = await running(tmp_path, shrunk=b"1", other=b"DATA", good=b"good")
    gone = entry("gone", b"gone")
    listed = [entry("shrunk", b"12"), entry("other", b"data"), gone, entry("good", b"good")]
    ends(world, *listed)
    end = end_of(world)
    assert end.outputs == (info("good", b"good"),)
    assert end.outputs_note is not None
    assert "'shrunk' not stored: it has 1 bytes now, and had 2" in end.outputs_note
    assert "'other' not stored: its bytes aren't those that the runner hashed" in end.outputs_note
    assert "'gone' not stored: output gone is gone" in end.outputs_note
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_full_disk_is_waited_for_and_told(tmp_path: Path) -> None:
    world = await running(tmp_path, a=b"a")
    world.no_room = "the disk is full"
    ends(world, entry("a", b"a"))
    world.pass_time(5)
    assert world.record("j1").end is None
    world.no_room = None
    world.pass_time(1)
    assert end_of(world).outputs == (info("a", b"a"),)
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_disk_that_stays_full_gives_a_note(tmp_path: Path) -> None:
    world = await running(tmp_path, a=b"a")
    world.no_room = "the disk is full"
    ends(world, entry("a", b"a"))
    world.pass_time(21)
    assert end_of(world).outputs_note == "'a' not stored: the disk is full"
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_new_daemon_goes_on_with_what_the_old_one_had(tmp_path: Path) -> None:
    world = await running(tmp_path, big=BIG, first=b"first")
    answer, left = world.files._answer, 6

    async def some(job_id: str, name: str, offset: int, length: int) -> tuple[bytes, int]:
        nonlocal left
        left -= 1
        if left < 0:
            raise Unavailable("the link is down")
        return await answer(job_id, name, offset, length)

    world.files._answer = some  # type: ignore[method-assign]
    ends(world, entry("first", b"first"), entry("big", BIG))
    world.pass_time(1)
    record = world.record("j1")
    assert record.end is None
    await world.stop()

    after = World(tmp_path, Settings(agent_grace_s=20.0))
    after.files.held = world.files.held
    after.workers.partitions["j1"], after.workers.attempts["j1"] = 6000, 1
    await after.start([record])
    after.pass_time(1)
    assert end_of(after).outputs == (info("first", b"first"), info("big", BIG))
    assert await held(after, info("big", BIG)) == BIG
    assert [name for name, _, _ in after.files.asked if name == "first"] == []
    assert after.files.asked[0][1] >= CHUNK_BYTES
    await after.stop()


@pytest_twisted.ensureDeferred
async def test_what_an_old_daemon_left_damaged_comes_anew(tmp_path: Path) -> None:
    world = await running(tmp_path, big=BIG, unhashed=BIG)
    for name in ("big", "unhashed"):
        incoming = world.outputs.incoming("j1", ListedOutput(**entry(name, BIG)))
        incoming.open()
        incoming.write(b"\0" * CHUNK_BYTES)  # what a power cut may leave
        incoming.close()
    ends(world, entry("big", BIG), entry("unhashed", BIG, hashed=False))
    world.pass_time(1)
    end = end_of(world)
    assert end.outputs == (info("big", BIG), info("unhashed", BIG))
    for one in end.outputs:
        assert await held(world, one) == BIG
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_an_attempt_that_another_one_follows_has_no_outputs(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.submit("j1", retries=1)
    world.pass_time(1)
    world.says("j1", SETUP, RUNNING)
    ends(world, entry("a", b"a"), outcome="failed", reason="runner_failed")
    world.pass_time(0)
    assert world.record("j1").phase is Phase.RETRYING
    assert world.files.asked == []
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_forged_list_brings_nothing_in(tmp_path: Path) -> None:
    world = await running(tmp_path)
    ends(world, {"name": "../../etc/passwd", "size_bytes": 1, "sha256": None})
    end = end_of(world)
    assert end.reason is EndReason.JOURNAL_CORRUPT
    assert world.files.asked == []
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_a_list_over_the_bound_is_cut_here_too(tmp_path: Path) -> None:
    world = await running(tmp_path, small=b"s")
    huge = {"name": "huge", "size_bytes": 1 << 40, "sha256": None}
    ends(world, huge, entry("small", b"s"))
    end = end_of(world)
    assert end.outputs == (info("small", b"s"),)
    assert end.outputs_note == f"'huge' not stored: a job may leave {1 << 30} bytes in all"
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_jobs_of_one_node_come_in_turns(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(agent_grace_s=20.0))
    await world.start()
    for number in range(4):
        await world.submit(f"j{number}", share=0.1)
    world.pass_time(1)
    world.files.gate = gate = Deferred()
    for number in range(4):
        job_id = f"j{number}"
        world.files.held[job_id, "a"] = b"a"
        world.says(job_id, SETUP, RUNNING, exit_frame(outputs=[entry("a", b"a")]))
    world.pass_time(12)
    assert len(world.files.asked) == 2
    world.files.gate = None
    gate.callback(None)
    world.pass_time(2)
    ends_of_all = [world.record(f"j{number}").end for number in range(4)]
    assert all(end is not None and end.outputs == (info("a", b"a"),) for end in ends_of_all)
    await world.stop()


@pytest_twisted.ensureDeferred
async def test_the_end_is_told_when_what_is_not_wanted_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(incoming: IncomingOutput) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(IncomingOutput, "discard", refused)
    world = await running(tmp_path, small=b"changed")
    ends(world, entry("small", b"s"))
    world.pass_time(1)
    end = end_of(world)
    assert (end.state, end.outputs) == (JobState.COMPLETED, ())
    assert end.outputs_note is not None and "small" in end.outputs_note
    await world.stop()
