"""The job machine: every pair of phase and event is either a row, ignored, or impossible."""

import itertools
from pathlib import Path

import attrs
import pytest

from cumulus_wire.codes import RETRIED, EndReason, WaitReason
from cumulus_wire.states import ENDED, JobState
from cumulusd.jobs import machine
from cumulusd.jobs.events import Effect, Event, EventKind, ImpossibleTransition
from cumulusd.jobs.machine import IGNORED, TABLE
from cumulusd.jobs.model import (
    Checkpoint,
    End,
    EndedAttempt,
    Fate,
    Grant,
    JobRecord,
    JobSpec,
    Phase,
    Placement,
)

REPOSITORY = Path(__file__).parents[3]
SPEC = JobSpec(
    package_sha256="0" * 64,
    package_size_bytes=1,
    gpu_memory=0.5,
    duration_s=60.0,
    queue_timeout_s=5.0,
)
PLACEMENT = Placement(node_id="n1", hostname="one", device_id="d0")
GRANT = Grant(
    partition_id="p1",
    device_id="d0",
    device_name="GPU",
    device_index=0,
    units=5000,
    gpu_memory_bytes=1,
    tier="advisory",
    tier_note="",
    folder="/x",
)
END = End(state=JobState.FAILED, reason=EndReason.USER_ERROR, message="boom")
LOST = End(state=JobState.FAILED, reason=EndReason.WORKER_LOST, message="no answer")
LOCAL = Checkpoint(
    filename="a.pt",
    path="/k/a.pt",
    epoch=1,
    step=None,
    framework="pytorch",
    timestamp=1.0,
    size_bytes=3,
    s3_key=None,
)
ON_S3 = attrs.evolve(LOCAL, s3_key="j/a.pt")
OVER = EndedAttempt(
    attempt=1,
    reason=EndReason.WORKER_LOST,
    message="no answer",
    node_id="n1",
    hostname="one",
    started_at=None,
    ended_at=2.0,
)


def record_in(phase: Phase) -> JobRecord:
    record = JobRecord(job_id="j", owner="a", spec=SPEC, phase=phase, created_at=1.0)
    if phase is Phase.PAUSED:
        return attrs.evolve(record, pause_requested=True, paused_at=2.0)
    if phase is not Phase.QUEUED:
        record = attrs.evolve(record, placement=PLACEMENT)
    if phase in (
        Phase.LAUNCHING,
        Phase.STARTING,
        Phase.RUNNING,
        Phase.RETRYING,
        Phase.PAUSING,
        Phase.ENDING,
    ):
        record = attrs.evolve(record, grant=GRANT)
    if phase is Phase.RETRYING:
        record = attrs.evolve(record, attempts=(OVER,))
    if phase in (Phase.ENDING, Phase.ENDED):
        record = attrs.evolve(record, end=END, ended_at=2.0)
    return record


def before(phase: Phase, kind: EventKind) -> JobRecord:
    """A record in that phase to which such an event is news."""
    return attrs.evolve(
        record_in(phase), pause_requested=kind is EventKind.RESUME or phase is Phase.PAUSED
    )


def event_of(kind: EventKind) -> Event:
    return Event(
        kind=kind,
        at=9.0,
        placement=PLACEMENT,
        grant=GRANT,
        end=END,
        stop_reason=EndReason.CANCELLED_BY_USER,
        journal_start=77,
        fate=Fate(down=True),
        checkpoints=(LOCAL,),
        ran_s=1.5,
    )


@pytest.mark.parametrize(("phase", "kind"), list(itertools.product(Phase, EventKind)))
def test_every_pair_is_decided(phase: Phase, kind: EventKind) -> None:
    record = before(phase, kind)
    key = (phase, kind)
    if key in TABLE:
        after, effects = machine.step(record, event_of(kind))
        assert after.phase is TABLE[key].phase
        assert effects == TABLE[key].effects
        assert key not in IGNORED
        # An end is set exactly where the phase says so, and never changes afterwards.
        assert (after.end is not None) == (after.phase in (Phase.ENDING, Phase.ENDED))
        assert after.end is None or after.end.state in ENDED
    elif key in IGNORED:
        assert machine.step(record, event_of(kind)) == (record, ())
    else:
        with pytest.raises(ImpossibleTransition, match=record.job_id):
            machine.step(record, event_of(kind))


def test_a_worker_is_cleared_exactly_when_something_may_be_on_it() -> None:
    for (phase, kind), row in TABLE.items():
        if row.phase in (Phase.ENDING, Phase.RETRYING, Phase.PAUSING) and phase is not row.phase:
            assert Effect.CLEAR in row.effects, (phase, kind)
        if row.phase is Phase.QUEUED and phase not in (Phase.PREPARING, Phase.PAUSED):
            assert phase in (Phase.RETRYING, Phase.PAUSING), "never before it is clear"
            assert kind is EventKind.CLEARED
        if row.phase is Phase.PAUSED and phase is not Phase.QUEUED:
            assert kind is EventKind.HELD, "made of what would lead it into the queue"
        if row.phase is Phase.ENDED and phase is not Phase.ENDING:
            assert phase in (Phase.QUEUED, Phase.PAUSED), "only one that holds no place"


def retried(phase: Phase, retries: int = 1, **changes: object) -> JobRecord:
    spec = attrs.evolve(SPEC, retries=retries)
    return attrs.evolve(record_in(phase), spec=spec, **changes)


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        (Phase.PREPARING, EventKind.PREPARE_FAILED),
        (Phase.LAUNCHING, EventKind.LAUNCH_FAILED),
        (Phase.LAUNCHING, EventKind.FINAL),
        (Phase.STARTING, EventKind.FINAL),
        (Phase.STARTING, EventKind.LOST),
        (Phase.RUNNING, EventKind.FINAL),
        (Phase.RUNNING, EventKind.LOST),
    ],
)
def test_an_attempt_that_the_infrastructure_ended_is_followed_by_another(
    phase: Phase, kind: EventKind
) -> None:
    lost = Event(kind=kind, at=5.0, end=LOST, attempt=1)
    after, effects = machine.step(retried(phase, started_at=4.0), lost)
    assert (after.phase, after.state, effects) == (
        Phase.RETRYING,
        JobState.PENDING,
        (Effect.CLEAR,),
    )
    (over,) = after.attempts
    assert (over.attempt, over.reason, over.message) == (1, EndReason.WORKER_LOST, "no answer")
    assert (over.node_id, over.hostname, over.started_at, over.ended_at) == ("n1", "one", 4.0, 5.0)
    assert after.wait is not None and after.wait.reason is WaitReason.RETRYING
    assert "Attempt 1 of 2 ended (worker_lost: no answer)" in after.wait.message
    assert machine.step(after, attrs.evolve(lost, at=6.0)) == (after, ()), "once"
    cleared = Event(kind=EventKind.CLEARED, at=7.0, attempt=1, journal_start=512)
    again, effects = machine.step(after, cleared)
    assert (again.phase, again.attempt, again.journal_start) == (Phase.QUEUED, 2, 512)
    assert (again.placement, again.grant, again.setup_at, again.started_at) == (None,) * 4
    assert (again.created_at, again.waits_since) == (1.0, 7.0)
    assert again.attempts == (over,)
    assert effects == ()


@pytest.mark.parametrize("reason", EndReason)
def test_only_the_infrastructures_faults_are_tried_again(reason: EndReason) -> None:
    end = attrs.evolve(LOST, reason=reason)
    after, _ = machine.step(retried(Phase.RUNNING), Event(kind=EventKind.LOST, at=5.0, end=end))
    assert (after.phase is Phase.RETRYING) == (reason in RETRIED)


def test_retries_are_counted_and_a_cancelled_job_gets_none() -> None:
    lost = Event(kind=EventKind.LOST, at=5.0, end=LOST)
    spent = retried(Phase.RUNNING, retries=2, attempt=3, attempts=(OVER, OVER))
    assert machine.step(spent, lost)[0].phase is Phase.ENDING
    paused = attrs.evolve(spent, attempts=(OVER,), pauses=1)
    after, _ = machine.step(paused, lost)
    assert after.phase is Phase.RETRYING, "an attempt that paused is none of them"
    assert after.wait is not None and "Attempt 3 of 4" in after.wait.message
    stopped = retried(Phase.RUNNING, stop_reason=EndReason.CANCELLED_BY_USER)
    assert machine.step(stopped, lost)[0].phase is Phase.ENDING
    overdue = retried(Phase.RUNNING, stop_reason=EndReason.DURATION_EXCEEDED)
    after, _ = machine.step(overdue, lost)
    assert after.phase is Phase.RETRYING, "nobody knows whether it had completed"
    cleared = Event(kind=EventKind.CLEARED, at=7.0, attempt=1, journal_start=512)
    assert machine.step(after, cleared)[0].stop_reason is None


def test_an_attempt_given_up_that_ends_by_itself_is_the_jobs_end() -> None:
    found = Event(kind=EventKind.FINAL, at=8.0, end=END, attempt=1)
    after, effects = machine.step(retried(Phase.RETRYING), found)
    assert (after.phase, after.end, after.attempts) == (Phase.ENDING, END, ())
    assert effects == (Effect.CLEAR,)


def test_what_is_said_of_another_attempt_changes_nothing() -> None:
    record = retried(Phase.RUNNING, attempt=2, attempts=(OVER,))
    for kind in EventKind:
        late = attrs.evolve(event_of(kind), attempt=1)
        assert machine.step(record, late) == (record, ())


def test_the_first_stop_decides() -> None:
    running, effects = machine.step(record_in(Phase.RUNNING), event_of(EventKind.STOP))
    assert effects == (Effect.STOP_RUNNER,)
    again = Event(kind=EventKind.STOP, at=10.0, stop_reason=EndReason.DURATION_EXCEEDED)
    assert machine.step(running, again) == (running, ())
    forced, _ = machine.step(running, Event(kind=EventKind.FORCED, at=11.0))
    assert forced.state is JobState.CANCELLED
    assert forced.ended_at == 11.0


@pytest.mark.parametrize(
    ("reason", "state", "words"),
    [
        (EndReason.CANCELLED_BY_USER, JobState.CANCELLED, "cancelled"),
        (EndReason.DURATION_EXCEEDED, JobState.TIMEOUT, "longer than 60 s"),
        (EndReason.SETUP_TIMEOUT, JobState.FAILED, "setup_timeout"),
    ],
)
def test_a_forced_stop_ends_as_its_reason_says(
    reason: EndReason, state: JobState, words: str
) -> None:
    record = attrs.evolve(record_in(Phase.RUNNING), stop_reason=reason)
    after, effects = machine.step(record, Event(kind=EventKind.FORCED, at=3.0))
    assert after.end is not None
    assert (after.end.state, after.end.reason) == (state, reason)
    assert words in after.end.message
    assert effects == (Effect.CLEAR,)


def test_times_are_those_of_the_records() -> None:
    record = record_in(Phase.LAUNCHING)
    record, _ = machine.step(record, Event(kind=EventKind.SETUP_BEGAN, at=5.0))
    record, _ = machine.step(record, Event(kind=EventKind.LAUNCHED, at=6.0))
    record, _ = machine.step(record, Event(kind=EventKind.CODE_BEGAN, at=7.0))
    assert (record.phase, record.setup_at, record.started_at) == (Phase.RUNNING, 5.0, 7.0)


def test_effects_are_repeated_after_a_restart() -> None:
    repeated = {phase: machine.effects_after_restart(record_in(phase)) for phase in Phase}
    assert repeated == {
        Phase.QUEUED: (),
        Phase.PREPARING: (Effect.PREPARE,),
        Phase.LAUNCHING: (Effect.LAUNCH,),
        Phase.STARTING: (),
        Phase.RUNNING: (),
        Phase.RETRYING: (Effect.CLEAR,),
        Phase.PAUSING: (Effect.CLEAR,),
        Phase.PAUSED: (),
        Phase.ENDING: (Effect.CLEAR,),
        Phase.ENDED: (),
    }
    pausing = attrs.evolve(record_in(Phase.RUNNING), pause_requested=True)
    assert machine.effects_after_restart(pausing) == (Effect.TELL_PAUSE,)
    both = attrs.evolve(pausing, stop_reason=EndReason.CANCELLED_BY_USER)
    assert machine.effects_after_restart(both) == (Effect.STOP_RUNNER,)
    stopping = attrs.evolve(record_in(Phase.RUNNING), stop_reason=EndReason.CANCELLED_BY_USER)
    assert machine.effects_after_restart(stopping) == (Effect.STOP_RUNNER,)


def test_the_diagram_in_the_docs_is_this_table() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text()
    between = text.split("<!-- jobs-diagram:begin -->")[1].split("<!-- jobs-diagram:end -->")[0]
    assert between.strip() == f"```mermaid\n{machine.diagram()}\n```", (
        "run: python -m cumulusd.jobs.diagram docs/architecture.md"
    )
