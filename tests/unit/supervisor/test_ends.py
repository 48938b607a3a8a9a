"""Each end under its right name, with what happened and what to do."""

from pathlib import Path

import attrs
import pytest
import pytest_twisted

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.errors import NotFound, Unavailable
from cumulusd.jobs import ends
from cumulusd.jobs.events import EventKind
from cumulusd.jobs.fates import Fates
from cumulusd.jobs.model import End, Fate, Phase
from cumulusd.jobs.ports import Container, Node
from tests.unit.supervisor.test_job_machine import record_in
from tests.unit.supervisor.test_supervisor import in_world, running_job
from tests.unit.supervisor.world import RUNNING, SETUP, World, exit_frame

FROM_OUTSIDE = "the container was stopped from outside (signal 15)"


def container(message: str = "", exit_code: int | None = None, alive: bool = False) -> Container:
    return Container(
        job_id="j", attempt=1, node_id="n1", alive=alive, exit_code=exit_code, message=message
    )


@pytest.mark.parametrize(
    ("there", "spoke", "log", "reason", "words"),
    [
        (None, True, "", EndReason.RUNNER_FAILED, "its container vanished"),
        (container("task: non-zero exit (137)", 137), True, "", EndReason.RUNNER_FAILED, "137"),
        (
            container("task: non-zero exit (255)", 255),
            True,
            "",
            EndReason.WORKER_LOST,
            "The engine of worker one ended under the job",
        ),
        (container("No such image: sha256:1"), False, "", EndReason.IMAGE_MISSING, "No such image"),
        (
            container('starting container failed: exec: "python": not found', 127),
            False,
            "",
            EndReason.LAUNCH_FAILED,
            'exec: "python": not found',
        ),
        (
            container("invalid mount config: bind source path does not exist"),
            False,
            "",
            EndReason.LAUNCH_FAILED,
            "bind source path does not exist",
        ),
        (
            container("task: non-zero exit (127)", 127),
            False,
            "[FATAL tini (7)] exec python3 failed: No such file or directory",
            EndReason.LAUNCH_FAILED,
            "could not be started on one: task: non-zero exit (127)\n[FATAL tini (7)] exec python3",
        ),
        (container("task: non-zero exit (127)", 127), True, "", EndReason.RUNNER_FAILED, "127"),
        (
            container("task: non-zero exit (1)", 1),
            False,
            "No module named cumulus_runner",
            EndReason.RUNNER_FAILED,
            "before its runner started: task: non-zero exit (1)\nNo module named cumulus_runner",
        ),
        (
            container("no suitable node (insufficient resources on 1 node)", alive=True),
            False,
            "",
            EndReason.UNSCHEDULABLE,
            "no suitable node (insufficient resources on 1 node)",
        ),
        (container("preparing", alive=True), False, "", EndReason.RUNNER_FAILED, "never spoke"),
        (
            container("task: non-zero exit (74)", 74),
            True,
            "EXIT can't be written: the disk was full for 30 s",
            EndReason.DISK_FULL,
            "end could not be written",
        ),
        (container("", 74), True, "Input/output error", EndReason.RUNNER_FAILED, "74"),
    ],
)
def test_a_container_without_a_last_record(
    there: Container | None, spoke: bool, log: str, reason: EndReason, words: str
) -> None:
    record = attrs.evolve(record_in(Phase.STARTING), setup_at=1.0 if spoke else None)
    end = ends.end_of_lost_container(record, there, log)
    assert (end.state, end.reason) == (JobState.FAILED, reason)
    assert words in end.message and "one" in end.message, "the worker is named"
    assert end.hint
    assert end.exit_code == (None if there is None else there.exit_code)


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_has_advice(reason: EndReason) -> None:
    assert ends.advised(end_of(reason)).hint
    own = attrs.evolve(end_of(reason), hint="own")
    assert ends.advised(own) == own


@in_world
async def test_advice_is_saved_with_the_end(world: World) -> None:
    await running_job(world)
    world.says("a", exit_frame("failed", reason="exit_code", exit_code=3, message="left with 3"))
    end = world.store.saved["a"].end
    assert end is not None and end.hint == ends.HINTS[EndReason.EXIT_CODE]


def end_of(reason: EndReason) -> End:
    return End(state=JobState.FAILED, reason=reason, message=FROM_OUTSIDE)


@pytest.mark.parametrize("reason", EndReason)
def test_only_what_looks_like_a_hand_from_outside_is_named_anew(reason: EndReason) -> None:
    record = record_in(Phase.RUNNING)
    drained = ends.named_by_fate(end_of(reason), record, Fate(drained=True, down=True))
    down = ends.named_by_fate(end_of(reason), record, Fate(down=True))
    assert ends.named_by_fate(end_of(reason), record, Fate()) == end_of(reason)
    if ends.may_be_the_workers(end_of(reason)):
        assert (drained.reason, down.reason) == (
            EndReason.WORKER_DRAINED,
            EndReason.WORKER_LOST,
        )
        for end in (drained, down):
            assert FROM_OUTSIDE in end.message and "one" in end.message
            assert end.hint and "retries" in end.hint
    else:
        assert drained == down == end_of(reason)


def test_fates_are_remembered_as_long_as_the_attempt_runs() -> None:
    ready = Node(node_id="n1", hostname="one", state="ready", availability="active", is_worker=True)
    record, fates = record_in(Phase.RUNNING), Fates()
    assert fates.saw([ready], [record]) == []
    assert fates.of(record) == Fate()
    news = fates.saw([attrs.evolve(ready, state="down")], [record])
    assert news == [(record, Fate(down=True))]
    assert fates.saw([ready], [record]) == news, "told until the record says it"
    assert fates.saw([ready], [attrs.evolve(record, fate=Fate(down=True))]) == []
    assert fates.of(record) == Fate(down=True), "it is back, but was away"
    assert fates.of(attrs.evolve(record, attempt=2)) == Fate()
    fates.saw([attrs.evolve(ready, state="unknown")], [record, record_in(Phase.QUEUED)])
    assert fates.of(record) == Fate(down=True), "a manager that starts knows no node's state"
    fates.saw([], [attrs.evolve(record, phase=Phase.ENDING)])
    assert fates.of(record) == Fate()


def stopped_from_outside() -> bytes:
    return exit_frame("failed", reason="runner_failed", message=FROM_OUTSIDE, signal=15)


@in_world
async def test_a_drained_worker_is_told_from_a_users_exit_and_a_cancel(world: World) -> None:
    await running_job(world)
    (node,) = world.platform.pool
    world.platform.pool = [attrs.evolve(node, availability="drain")]
    world.says("a", stopped_from_outside())
    end = world.record("a").end
    assert end is not None
    assert (end.state, end.reason, end.signal) == (JobState.FAILED, EndReason.WORKER_DRAINED, 15)
    assert "Worker one was set to drain" in end.message
    world.platform.pool = [node]


@in_world
async def test_an_exit_of_the_codes_own_on_a_drained_worker_stays_that(world: World) -> None:
    await running_job(world)
    world.platform.pool = [attrs.evolve(world.platform.pool[0], availability="drain")]
    world.says("a", exit_frame("failed", reason="exit_code", exit_code=143))
    end = world.record("a").end
    assert end is not None and (end.reason, end.exit_code) == (EndReason.EXIT_CODE, 143)


@in_world
async def test_a_drained_workers_job_goes_on_elsewhere_with_retries(world: World) -> None:
    await running_job(world, retries=1)
    (node,) = world.platform.pool
    world.platform.pool = [attrs.evolve(node, availability="drain")]
    world.says("a", stopped_from_outside())
    world.platform.die("a", 143)
    world.pass_time(5)
    record = world.record("a")
    assert (record.attempt, record.attempts[0].reason) == (2, EndReason.WORKER_DRAINED)
    assert record.phase is Phase.QUEUED, "the drained worker takes nothing"
    world.platform.pool = [node]
    await world.supervisor.placing.refresh()
    world.pass_time(1)
    assert world.record("a").phase is Phase.STARTING


async def down_and_back(world: World) -> None:
    await running_job(world)
    (node,) = world.platform.pool
    for pool in ([attrs.evolve(node, state="down")], [node]):
        world.platform.pool = pool
        await world.supervisor.placing.refresh()


def lost_while_down(world: World) -> bool:
    end = world.record("a").end
    assert end is not None and "was down or cut off" in end.message
    return end.reason is EndReason.WORKER_LOST


@in_world
async def test_a_worker_back_whose_runner_said_that_it_was_stopped(world: World) -> None:
    await down_and_back(world)
    world.says("a", stopped_from_outside())
    assert lost_while_down(world)


@in_world
async def test_a_worker_back_whose_runner_said_nothing(world: World) -> None:
    await down_and_back(world)
    world.platform.die("a", 143)
    world.pass_time(3)
    assert lost_while_down(world)


@pytest.mark.parametrize("befell", [{"state": "down"}, {"availability": "drain"}])
@pytest.mark.parametrize("said", [True, False])
@pytest_twisted.ensureDeferred
async def test_what_befell_a_worker_outlives_the_daemon_that_saw_it(
    tmp_path: Path, befell: dict[str, str], said: bool
) -> None:
    world = World(tmp_path)
    await world.start()
    await running_job(world, retries=1)
    (node,) = world.platform.pool
    world.platform.pool = [attrs.evolve(node, **befell)]
    await world.supervisor.placing.refresh()
    await world.stop()

    again = World(tmp_path)  # by then the node is as if nothing had been
    again.platform.running = world.platform.running
    again.workers.partitions["a"] = world.store.saved["a"].spec.units
    again.workers.attempts["a"] = 1
    again.workers.journal_ends = dict(world.workers.journal_ends)
    await again.start([world.store.saved["a"]])
    if said:
        again.says("a", stopped_from_outside())
    again.platform.die("a", 143)
    again.pass_time(3)
    record = again.record("a")
    (over,) = record.attempts
    lost = EndReason.WORKER_LOST if "state" in befell else EndReason.WORKER_DRAINED
    assert over.reason is lost, over.message
    assert (record.attempt, record.fate) == (2, Fate()), "the next attempt has its own"
    await again.stop()


@in_world
async def test_a_worker_back_whose_job_completed_meanwhile(world: World) -> None:
    await down_and_back(world)
    world.says("a", exit_frame())
    assert world.record("a").state is JobState.COMPLETED


@in_world
async def test_a_platform_that_cannot_be_asked_leaves_the_end_as_it_is(world: World) -> None:
    await running_job(world)

    async def away() -> list[Node]:
        raise Unavailable("the manager is away")

    world.platform.nodes = away  # type: ignore[method-assign]
    world.says("a", stopped_from_outside())
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.RUNNER_FAILED


@in_world
async def test_an_image_that_the_manager_does_not_have(world: World) -> None:
    world.platform.launch_error = NotFound(
        "the Swarm manager doesn't have the image x", details={"image": "x"}, hint="load it"
    )
    await world.submit("a", retries=3)
    world.pass_time(1)
    record = world.record("a")
    assert record.end is not None
    assert (record.end.reason, record.end.hint) == (EndReason.IMAGE_MISSING, "load it")
    assert record.attempt == 1, "it is missing there the next time too"


@in_world
async def test_a_container_that_is_never_placed(world: World) -> None:
    words = "no suitable node (insufficient resources on 1 node)"
    await world.submit("a")
    running = world.platform.running["a"]
    world.platform.running["a"] = attrs.evolve(running, message=words)
    world.pass_time(50)
    assert world.record("a").phase is Phase.STARTING
    world.pass_time(20)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.UNSCHEDULABLE
    assert words in end.message


@in_world
async def test_a_worker_lost_for_good_is_told_with_the_platforms_words(world: World) -> None:
    await running_job(world)
    world.platform.running["a"] = container("node one is down")
    world.workers.error = Unavailable("its agent is away")
    world.pass_time(70)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.WORKER_LOST
    assert "node one is down; its agent is away" in end.message


@in_world
async def test_a_container_that_could_not_be_started(world: World) -> None:
    await world.submit("a")
    words = "starting container failed: OCI runtime create failed"
    world.platform.running["a"] = container(words, 127)
    world.pass_time(3)
    end = world.record("a").end
    assert end is not None and (end.reason, end.exit_code) == (EndReason.LAUNCH_FAILED, 127)
    assert words in end.message


@in_world
async def test_setup_that_was_begun_is_no_launch_that_failed(world: World) -> None:
    await world.submit("a")
    world.says("a", SETUP)
    world.platform.die("a", 137)
    world.pass_time(3)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.RUNNER_FAILED


@in_world
async def test_a_partition_that_is_refused(world: World) -> None:
    world.workers.prepare_error = NotFound("no device 'd0' on this worker", hint="ask it again")
    await world.submit("a")
    world.pass_time(1)
    end = world.record("a").end
    assert end is not None
    assert (end.reason, end.hint) == (EndReason.PARTITION_FAILED, "ask it again")
    assert "Worker one could not prepare the job: no device 'd0'" in end.message
    assert world.workers.partitions == {}


@pytest.mark.parametrize(
    "phase", [Phase.QUEUED, Phase.PREPARING, Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING]
)
@pytest_twisted.ensureDeferred
async def test_a_cancel_ends_a_job_in_every_phase(tmp_path: Path, phase: Phase) -> None:
    world = World(tmp_path)
    await world.start()
    if phase is Phase.QUEUED:
        await running_job(world, "busy")
    elif phase is Phase.PREPARING:
        world.workers.prepare_error = Unavailable("its agent is away")
    elif phase is Phase.LAUNCHING:
        world.platform.launch_error = Unavailable("the manager is away")
    await world.submit("a", retries=3)
    world.pass_time(0.1)
    if phase is Phase.RUNNING:
        world.says("a", SETUP, RUNNING)
    assert world.record("a").phase is phase
    world.workers.runner_obeys = False
    world.supervisor.tell("a", EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
    world.pass_time(12)
    record = world.record("a")
    assert record.end is not None
    assert (record.end.state, record.end.reason) == (
        JobState.CANCELLED,
        EndReason.CANCELLED_BY_USER,
    )
    assert record.end.message and record.end.hint
    assert (record.phase, record.attempt) == (Phase.ENDED, 1)
    assert "a" not in world.workers.partitions and "a" not in world.platform.running
    await world.stop()
