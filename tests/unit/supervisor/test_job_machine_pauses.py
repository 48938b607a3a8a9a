"""Pauses in the job machine: asked for, withdrawn, come to, gone on from."""

import attrs
import pytest
from test_job_machine import GRANT, LOCAL, LOST, ON_S3, PLACEMENT, record_in, retried

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs import checkpoints, machine
from cumulusd.jobs.events import Effect, Event, EventKind
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Kept, Released

PAUSE = Event(kind=EventKind.PAUSE, at=3.0)
RESUME = Event(kind=EventKind.RESUME, at=8.0)
YIELDED = Event(kind=EventKind.YIELDED, at=5.0, ran_s=20.0, attempt=1)
CLEARED = Event(kind=EventKind.CLEARED, at=6.0, attempt=1, journal_start=512, pinned_node="n1")


def after_all(record: JobRecord, *events: Event) -> JobRecord:
    for event in events:
        record, _ = machine.step(record, event)
    return record


def test_a_running_job_pauses_and_goes_on_under_its_id() -> None:
    asked, effects = machine.step(record_in(Phase.RUNNING), PAUSE)
    assert (asked.phase, asked.state, asked.pause_requested) == (
        Phase.RUNNING,
        JobState.RUNNING,
        True,
    )
    assert effects == (Effect.TELL_PAUSE,)
    told = Event(kind=EventKind.CHECKPOINTED, at=4.0, attempt=1, checkpoints=(LOCAL,))
    pausing, effects = machine.step(after_all(asked, told), YIELDED)
    assert (pausing.phase, effects) == (Phase.PAUSING, (Effect.CLEAR,))
    assert pausing.state is JobState.RUNNING, "it still holds its share"
    paused, effects = machine.step(pausing, CLEARED)
    assert (paused.phase, paused.state, effects) == (Phase.PAUSED, JobState.PAUSED, ())
    assert (paused.placement, paused.grant, paused.end) == (None, None, None)
    assert (paused.paused_at, paused.pinned_node, paused.ran_s) == (6.0, "n1", 20.0)
    assert (paused.attempt, paused.journal_start, paused.pauses) == (2, 512, 1)
    assert paused.checkpoints == (LOCAL,)
    queued, effects = machine.step(paused, RESUME)
    assert (queued.phase, queued.state, effects) == (Phase.QUEUED, JobState.PENDING, ())
    assert (queued.pause_requested, queued.paused_at, queued.waits_since) == (False, None, 8.0)
    assert (queued.job_id, queued.pinned_node, queued.duration_left_s) == ("j", "n1", 40.0)


def test_a_queued_job_pauses_at_once() -> None:
    paused, effects = machine.step(record_in(Phase.QUEUED), PAUSE)
    assert (paused.phase, paused.attempt, paused.pauses, effects) == (Phase.PAUSED, 1, 0, ())
    queued = after_all(paused, RESUME)
    assert (queued.phase, queued.attempt, queued.waits_since) == (Phase.QUEUED, 1, 8.0)


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.LAUNCHING, Phase.STARTING])
def test_a_job_that_starts_is_asked_once_its_code_runs(phase: Phase) -> None:
    asked, effects = machine.step(record_in(phase), PAUSE)
    assert (asked.phase, asked.pause_requested, effects) == (phase, True, ())
    if phase is Phase.PREPARING:
        return
    running, effects = machine.step(asked, Event(kind=EventKind.CODE_BEGAN, at=4.0))
    assert (running.phase, effects) == (Phase.RUNNING, (Effect.TELL_PAUSE,))
    stopping = attrs.evolve(asked, stop_reason=EndReason.CANCELLED_BY_USER)
    assert machine.step(stopping, Event(kind=EventKind.CODE_BEGAN, at=4.0))[1] == ()


def test_a_job_that_would_go_back_into_the_queue_is_held() -> None:
    unplaced = Event(kind=EventKind.UNPLACED, at=4.0)
    preparing = after_all(record_in(Phase.PREPARING), PAUSE)
    held = after_all(preparing, unplaced)
    assert (held.phase, held.placement, held.attempt) == (Phase.PAUSED, None, 1)
    assert after_all(preparing, RESUME, unplaced).phase is Phase.QUEUED
    lost = Event(kind=EventKind.LOST, at=4.0, end=LOST)
    retrying = after_all(retried(Phase.RUNNING, pinned_node="n1"), lost, PAUSE)
    held = after_all(retrying, CLEARED)
    assert (held.phase, held.attempt, held.journal_start, held.pauses) == (
        Phase.PAUSED,
        2,
        512,
        0,
    )
    assert held.pinned_node == "n1", "what it was to go on from is still there only"
    assert len(held.attempts) == 1
    again = after_all(retrying, RESUME, CLEARED)
    assert (again.phase, again.pinned_node) == (Phase.QUEUED, "n1")
    on_s3 = attrs.evolve(retrying, checkpoints=(LOCAL, ON_S3))
    assert after_all(on_s3, RESUME, CLEARED).pinned_node is None


def test_a_pause_is_withdrawn_before_the_code_comes_to_it() -> None:
    asked = after_all(record_in(Phase.RUNNING), PAUSE)
    on, effects = machine.step(asked, RESUME)
    assert (on.phase, on.pause_requested, effects) == (
        Phase.RUNNING,
        False,
        (Effect.TELL_PAUSE,),
    )
    assert machine.step(on, RESUME) == (on, ()), "once"
    assert machine.step(asked, PAUSE) == (asked, ()), "once"


def test_one_that_was_withdrawn_too_late_leads_back_into_the_queue() -> None:
    pausing = after_all(record_in(Phase.RUNNING), PAUSE, YIELDED)
    queued = after_all(pausing, RESUME, CLEARED)
    assert (queued.phase, queued.attempt, queued.pinned_node) == (Phase.QUEUED, 2, "n1")
    assert queued.ran_s == 20.0
    assert after_all(pausing, RESUME, PAUSE, CLEARED).phase is Phase.PAUSED


def test_a_cancel_wins_over_a_pause() -> None:
    stop = Event(kind=EventKind.STOP, at=4.0, stop_reason=EndReason.CANCELLED_BY_USER)
    stopping = after_all(record_in(Phase.RUNNING), PAUSE, stop)
    ended, effects = machine.step(stopping, YIELDED)
    assert (ended.phase, ended.state, effects) == (
        Phase.ENDING,
        JobState.CANCELLED,
        (Effect.CLEAR,),
    )
    late = after_all(record_in(Phase.RUNNING), stop)
    assert machine.step(late, PAUSE) == (late, ())
    pausing = after_all(record_in(Phase.RUNNING), PAUSE, YIELDED)
    bound = attrs.evolve(stop, stop_reason=EndReason.DURATION_EXCEEDED)
    assert machine.step(pausing, bound) == (pausing, ()), "of the attempt that is over"
    ended, effects = machine.step(pausing, stop)
    assert (ended.phase, ended.state, effects) == (
        Phase.ENDING,
        JobState.CANCELLED,
        (Effect.CLEAR,),
    )
    paused = after_all(pausing, CLEARED)
    ended, effects = machine.step(paused, stop)
    assert (ended.phase, ended.state, effects) == (Phase.ENDED, JobState.CANCELLED, ())
    assert ended.end is not None and "while it was paused" in str(ended.end.outputs_note)
    never_ran = after_all(record_in(Phase.QUEUED), PAUSE, stop)
    assert never_ran.end is not None and never_ran.end.outputs_note is None


def test_an_attempt_given_up_that_paused_by_itself_is_a_pause() -> None:
    retrying = retried(Phase.RETRYING, pause_requested=True)
    pausing, effects = machine.step(retrying, YIELDED)
    assert (pausing.phase, pausing.attempts, effects) == (Phase.PAUSING, (), (Effect.CLEAR,))


def test_the_code_times_of_all_attempts_count() -> None:
    record = record_in(Phase.RUNNING)
    for attempt in (1, 2):
        yielded = attrs.evolve(YIELDED, attempt=attempt)
        cleared = attrs.evolve(CLEARED, attempt=attempt)
        record = after_all(record, PAUSE, yielded, cleared, RESUME)
        record = attrs.evolve(record, phase=Phase.RUNNING, placement=PLACEMENT, grant=GRANT)
    assert (record.ran_s, record.duration_left_s, record.attempt) == (40.0, 20.0, 3)
    assert attrs.evolve(record, ran_s=61.0).duration_left_s == 1.0


@pytest.mark.parametrize(
    ("told", "released", "pinned"),
    [
        ((), Released(done=True), None),
        ((), Released(done=True, kept=Kept(checkpoints=True, files=False)), "n1"),
        ((), Released(done=True, kept=Kept(checkpoints=False, files=True)), "n1"),
        ((LOCAL,), Released(done=True, kept=Kept(checkpoints=True, files=False)), "n1"),
        ((LOCAL,), Released(done=True), None),
        ((ON_S3, LOCAL), Released(done=True, kept=Kept(checkpoints=True, files=False)), "n1"),
        ((LOCAL, ON_S3), Released(done=True, kept=Kept(checkpoints=True, files=False)), None),
        ((ON_S3,), Released(done=True, kept=Kept(checkpoints=True, files=True)), "n1"),
        # The worker was given up: nobody knows what is there.
        ((), Released(done=False), None),
        ((LOCAL,), Released(done=False), "n1"),
        ((ON_S3,), Released(done=False), None),
    ],
)
def test_what_it_keeps_decides_where_it_can_go_on(
    told: tuple[object, ...], released: Released, pinned: str | None
) -> None:
    record = attrs.evolve(record_in(Phase.PAUSING), checkpoints=told)
    assert checkpoints.pin(record, released) == pinned


def test_the_codes_word_on_checkpoints_is_taken_as_far_as_it_is_one() -> None:
    good = attrs.asdict(LOCAL)
    odd = {**good, "epoch": "x", "timestamp": float("nan"), "size_bytes": -1, "s3_key": 7}
    read = checkpoints.read({"checkpoints": [3, {"filename": "a"}, good, odd]})
    assert read == (LOCAL, attrs.evolve(LOCAL, epoch=None, timestamp=0.0, size_bytes=0))
    assert checkpoints.read({"checkpoints": "no"}) == ()
    assert len(checkpoints.read({"checkpoints": [good] * 50})) == 20
