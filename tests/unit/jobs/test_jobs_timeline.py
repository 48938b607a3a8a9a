"""A job's way through its stages: written down as it happens, bounded, never backwards."""

import attrs
import golden_files
import pytest
from job_values import full_record, record

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs import codec, machine, timeline
from cumulusd.jobs.events import Event, EventKind
from cumulusd.jobs.model import End, Grant, JobRecord, Moment, Phase, Placement, Stage
from cumulusd.views import job_view

PLACEMENT = Placement(node_id="n1", hostname="one", device_id="d0")
GRANT = full_record().grant
END = End(state=JobState.COMPLETED, reason=None, message="")
LOST = End(state=JobState.FAILED, reason=EndReason.WORKER_LOST, message="gone")


def after(job: JobRecord, *events: tuple[EventKind, float]) -> JobRecord:
    assert isinstance(GRANT, Grant)
    for kind, at in events:
        event = Event(
            kind=kind,
            at=at,
            placement=PLACEMENT,
            grant=GRANT,
            end=LOST if kind is EventKind.LOST else END,
            journal_start=0,
            stop_reason=EndReason.CANCELLED_BY_USER,
        )
        job, _ = machine.step(job, event)
    return job


def told(job: JobRecord) -> list[tuple[str, float, int]]:
    timeline = job_view(job, (0, 0))["timeline"]
    return [(each["phase"], each["at"], each["attempt"]) for each in timeline]


STARTED = (
    (EventKind.PLACED, 101.0),
    (EventKind.PREPARED, 102.0),
    (EventKind.LAUNCHED, 103.0),
    (EventKind.SETUP_BEGAN, 104.0),
    (EventKind.CODE_BEGAN, 105.0),
)


def test_a_job_from_the_queue_to_its_end() -> None:
    job = after(record(), *STARTED, (EventKind.FINAL, 109.0), (EventKind.CLEARED, 109.5))
    assert told(job) == [
        ("queued", 100.0, 1),
        ("preparing", 101.0, 1),
        ("launching", 102.0, 1),
        ("setup", 104.0, 1),
        ("running", 105.0, 1),
        ("ending", 109.0, 1),
        ("ended", 109.5, 1),
    ]
    assert codec.loads(codec.dumps(job)).moments == job.moments


def test_another_attempt_tells_its_own() -> None:
    job = record()
    job = attrs.evolve(job, spec=attrs.evolve(job.spec, retries=1))
    job = after(job, *STARTED, (EventKind.LOST, 109.0), (EventKind.CLEARED, 110.0), *STARTED[:1])
    # The second placing's clock was set back.
    assert told(job)[-3:] == [("ending", 109.0, 1), ("queued", 110.0, 2), ("preparing", 110.0, 2)]


def test_a_paused_job_and_one_that_is_resumed() -> None:
    job = after(record(), (EventKind.PAUSE, 103.0), (EventKind.RESUME, 107.0))
    assert [each[:2] for each in told(job)] == [
        ("queued", 100.0),
        ("paused", 103.0),
        ("queued", 107.0),
    ]


def test_what_changes_no_stage_adds_nothing() -> None:
    job = after(record(), *STARTED)
    assert after(job, (EventKind.PAUSE, 107.0)).moments == job.moments


def test_it_keeps_the_first_and_the_newest() -> None:
    job = record()
    for number in range(timeline.MAX_MOMENTS):
        job = after(job, (EventKind.PAUSE, 200.0 + number), (EventKind.RESUME, 200.5 + number))
    assert len(job.moments) == timeline.MAX_MOMENTS
    assert job.moments[0] == Moment(stage=Stage.QUEUED, at=100.0, attempt=1)
    assert job.moments[-1].at == 200.5 + timeline.MAX_MOMENTS - 1


def test_listings_leave_it_out() -> None:
    assert job_view(record(), (0, 0), in_listing=True)["timeline"] is None


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_a_stage(phase: Phase) -> None:
    assert timeline.stage_of(record(phase=phase)) in Stage


def test_the_span_of_what_is_over() -> None:
    queued = record()
    placed = after(queued, STARTED[0])
    assert timeline.passed(queued, placed) == timeline.Span(stage=Stage.QUEUED, seconds=1.0)
    assert timeline.passed(placed, attrs.evolve(placed, wait=None)) is None


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_older_record_tells_what_is_known(version: int) -> None:
    old = codec.loads(golden_files.record_path(version).read_text())
    assert old.moments[0] == Moment(stage=Stage.QUEUED, at=1.5, attempt=1)
    assert old.moments[-1] == Moment(stage=Stage.ENDED, at=4.0, attempt=2)
    assert [each.stage for each in old.moments[-3:-1]] == [Stage.SETUP, Stage.RUNNING]
    assert [each.at for each in old.moments] == sorted(each.at for each in old.moments)
