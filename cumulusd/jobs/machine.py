"""The job machine: an explicit table, `(phase, event) -> (phase, effects)`.

Pure: `step` takes a record and an event and returns the next record and what must now be done.
The caller saves the record first and then carries out the effects, each of which is idempotent;
`effects_after_restart` says which to repeat for a record found on disk.
"""

from collections.abc import Callable
from enum import StrEnum

import attrs

from cumulus_wire.codes import RETRIED, EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs import waits
from cumulusd.jobs.model import (
    MAX_ATTEMPT_MESSAGE,
    End,
    EndedAttempt,
    Fate,
    Grant,
    JobRecord,
    Phase,
    Placement,
)


class EventKind(StrEnum):
    """What can happen to a job."""

    PLACED = "placed"  #: the scheduler chose a device (`placement`)
    REFUSED = "refused"  #: the scheduler found that nothing can ever take it (`end`)
    UNPLACED = "unplaced"  #: the agent refused: the share was not free after all
    PREPARED = "prepared"  #: the agent made partition and folder (`grant`)
    PREPARE_FAILED = "prepare_failed"  #: it can't (`end`)
    LAUNCHED = "launched"  #: the platform accepted the container
    LAUNCH_FAILED = "launch_failed"  #: it did not (`end`)
    SETUP_BEGAN = "setup_began"  #: the runner speaks
    CODE_BEGAN = "code_began"  #: the user's code runs
    FINAL = "final"  #: the runner's last record (`end`)
    LOST = "lost"  #: the container is gone without a last record (`end`)
    BEFELL = "befell"  #: its worker was seen down or draining (`fate`)
    STOP = "stop"  #: somebody wants it ended (`stop_reason`)
    FORCED = "forced"  #: the runner did not obey the stop in time
    CLEARED = "cleared"  #: container, partition and folder are gone, or can't run any more
    #: what else would be its end is the infrastructure's fault, and retries are left (`end`);
    #: made of FINAL, LOST, PREPARE_FAILED and LAUNCH_FAILED by `step`, never told
    ATTEMPT_OVER = "attempt_over"


class Effect(StrEnum):
    """What the supervisor has to do after saving."""

    PREPARE = "prepare"
    LAUNCH = "launch"
    STOP_RUNNER = "stop_runner"
    CLEAR = "clear"


@attrs.frozen(kw_only=True)
class Event:
    """One thing that happened; `at` is unix time."""

    kind: EventKind
    at: float
    placement: Placement | None = None
    grant: Grant | None = None
    end: End | None = None
    stop_reason: EndReason | None = None
    fate: Fate | None = None
    #: which attempt it happened to: with another one it is too late; None: to the job
    attempt: int | None = None
    journal_start: int | None = None  #: with CLEARED: where the next attempt's journal begins


class ImpossibleTransition(Exception):
    """An event that can't happen in this phase: a fault in the caller."""


Change = Callable[[JobRecord, Event], JobRecord]


@attrs.frozen
class Row:
    """One line of the table."""

    phase: Phase  #: the phase after it
    effects: tuple[Effect, ...]
    change: Change


def _same(record: JobRecord, event: Event) -> JobRecord:
    return record


def _placed(record: JobRecord, event: Event) -> JobRecord:
    if event.placement is None:
        raise ImpossibleTransition("placed without a placement")
    return attrs.evolve(
        record, placement=event.placement, wait=waits.placing(event.placement.hostname)
    )


def _unplaced(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, placement=None, wait=None)


def _prepared(record: JobRecord, event: Event) -> JobRecord:
    if event.grant is None:
        raise ImpossibleTransition("prepared without a grant")
    return attrs.evolve(record, grant=event.grant, wait=waits.launching(_hostname(record)))


def _launched(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, wait=waits.starting(_hostname(record), ""))


def _hostname(record: JobRecord) -> str:
    return record.placement.hostname if record.placement is not None else "its worker"


def _setup_began(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, setup_at=record.setup_at or event.at, wait=None)


def _code_began(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(_setup_began(record, event), started_at=record.started_at or event.at)


def _ended(record: JobRecord, event: Event) -> JobRecord:
    if event.end is None:
        raise ImpossibleTransition(f"{event.kind} without an end")
    return attrs.evolve(record, end=event.end, ended_at=event.at, wait=None)


def _attempt_over(record: JobRecord, event: Event) -> JobRecord:
    end, place = event.end, record.placement
    if end is None or end.reason is None:
        raise ImpossibleTransition(f"{event.kind} without an end and its reason")
    over = EndedAttempt(
        attempt=record.attempt,
        reason=end.reason,
        message=end.message[:MAX_ATTEMPT_MESSAGE],
        node_id=None if place is None else place.node_id,
        hostname=None if place is None else place.hostname,
        started_at=record.started_at,
        ended_at=event.at,
    )
    wait = waits.retrying(over, record.spec.retries, None, None)
    return attrs.evolve(record, attempts=(*record.attempts, over), wait=wait)


def _ended_after_all(record: JobRecord, event: Event) -> JobRecord:
    """The attempt that was given up for lost has ended by itself: there is nothing to repeat."""
    return attrs.evolve(_ended(record, event), attempts=record.attempts[:-1])


def _again(record: JobRecord, event: Event) -> JobRecord:
    if event.journal_start is None:
        raise ImpossibleTransition("cleared for another attempt without the journal's offset")
    return attrs.evolve(
        record,
        attempt=record.attempt + 1,
        journal_start=event.journal_start,
        queued_at=event.at,
        wait=None,
        placement=None,
        grant=None,
        fate=Fate(),
        stop_reason=None,
        setup_at=None,
        started_at=None,
    )


def _befell(record: JobRecord, event: Event) -> JobRecord:
    if event.fate is None:
        raise ImpossibleTransition("befell without a fate")
    return attrs.evolve(record, fate=record.fate | event.fate)


def _stop_asked(record: JobRecord, event: Event) -> JobRecord:
    if event.stop_reason is None:
        raise ImpossibleTransition("stop without a reason")
    return attrs.evolve(record, stop_reason=event.stop_reason)


def _stopped(record: JobRecord, event: Event) -> JobRecord:
    stopping = _stop_asked(record, event) if record.stop_reason is None else record
    return attrs.evolve(stopping, end=end_of_stop(stopping), ended_at=event.at, wait=None)


def _stopped_between(record: JobRecord, event: Event) -> JobRecord:
    """No attempt follows on the one that is over, so that is the job's last, and not one before."""
    over, stopped = record.attempts[-1], _stopped(record, event)
    assert stopped.end is not None
    words = f": attempt {over.attempt} had ended ({over.reason.value}: {over.message})"
    end = attrs.evolve(stopped.end, message=stopped.end.message + words)
    return attrs.evolve(stopped, end=end, attempts=record.attempts[:-1])


_NOTHING: tuple[Effect, ...] = ()
_CLEAR = (Effect.CLEAR,)

#: Every transition there is.
TABLE: dict[tuple[Phase, EventKind], Row] = {
    (Phase.QUEUED, EventKind.PLACED): Row(Phase.PREPARING, (Effect.PREPARE,), _placed),
    (Phase.QUEUED, EventKind.STOP): Row(Phase.ENDED, _NOTHING, _stopped),
    (Phase.QUEUED, EventKind.REFUSED): Row(Phase.ENDED, _NOTHING, _ended),
    (Phase.PREPARING, EventKind.PREPARED): Row(Phase.LAUNCHING, (Effect.LAUNCH,), _prepared),
    (Phase.PREPARING, EventKind.UNPLACED): Row(Phase.QUEUED, _NOTHING, _unplaced),
    (Phase.PREPARING, EventKind.PREPARE_FAILED): Row(Phase.ENDING, _CLEAR, _ended),
    (Phase.PREPARING, EventKind.ATTEMPT_OVER): Row(Phase.RETRYING, _CLEAR, _attempt_over),
    (Phase.PREPARING, EventKind.STOP): Row(Phase.ENDING, _CLEAR, _stopped),
    (Phase.LAUNCHING, EventKind.LAUNCHED): Row(Phase.STARTING, _NOTHING, _launched),
    (Phase.LAUNCHING, EventKind.LAUNCH_FAILED): Row(Phase.ENDING, _CLEAR, _ended),
    (Phase.LAUNCHING, EventKind.ATTEMPT_OVER): Row(Phase.RETRYING, _CLEAR, _attempt_over),
    (Phase.LAUNCHING, EventKind.STOP): Row(Phase.ENDING, _CLEAR, _stopped),
    # The runner may speak before the platform has answered the launch.
    (Phase.LAUNCHING, EventKind.SETUP_BEGAN): Row(Phase.STARTING, _NOTHING, _setup_began),
    (Phase.LAUNCHING, EventKind.CODE_BEGAN): Row(Phase.RUNNING, _NOTHING, _code_began),
    (Phase.LAUNCHING, EventKind.BEFELL): Row(Phase.LAUNCHING, _NOTHING, _befell),
    (Phase.LAUNCHING, EventKind.FINAL): Row(Phase.ENDING, _CLEAR, _ended),
    (Phase.STARTING, EventKind.SETUP_BEGAN): Row(Phase.STARTING, _NOTHING, _setup_began),
    (Phase.STARTING, EventKind.CODE_BEGAN): Row(Phase.RUNNING, _NOTHING, _code_began),
    (Phase.STARTING, EventKind.BEFELL): Row(Phase.STARTING, _NOTHING, _befell),
    (Phase.STARTING, EventKind.FINAL): Row(Phase.ENDING, _CLEAR, _ended),
    (Phase.STARTING, EventKind.LOST): Row(Phase.ENDING, _CLEAR, _ended),
    (Phase.STARTING, EventKind.ATTEMPT_OVER): Row(Phase.RETRYING, _CLEAR, _attempt_over),
    (Phase.STARTING, EventKind.STOP): Row(Phase.STARTING, (Effect.STOP_RUNNER,), _stop_asked),
    (Phase.STARTING, EventKind.FORCED): Row(Phase.ENDING, _CLEAR, _stopped),
    (Phase.RUNNING, EventKind.BEFELL): Row(Phase.RUNNING, _NOTHING, _befell),
    (Phase.RUNNING, EventKind.FINAL): Row(Phase.ENDING, _CLEAR, _ended),
    (Phase.RUNNING, EventKind.LOST): Row(Phase.ENDING, _CLEAR, _ended),
    (Phase.RUNNING, EventKind.ATTEMPT_OVER): Row(Phase.RETRYING, _CLEAR, _attempt_over),
    (Phase.RUNNING, EventKind.STOP): Row(Phase.RUNNING, (Effect.STOP_RUNNER,), _stop_asked),
    (Phase.RUNNING, EventKind.FORCED): Row(Phase.ENDING, _CLEAR, _stopped),
    (Phase.RETRYING, EventKind.CLEARED): Row(Phase.QUEUED, _NOTHING, _again),
    # A worker given up for lost came back, and its journal says how the code ended.
    (Phase.RETRYING, EventKind.FINAL): Row(Phase.ENDING, _CLEAR, _ended_after_all),
    (Phase.RETRYING, EventKind.STOP): Row(Phase.ENDING, _CLEAR, _stopped_between),
    (Phase.ENDING, EventKind.CLEARED): Row(Phase.ENDED, _NOTHING, _same),
}

_LATE = (
    EventKind.UNPLACED,
    EventKind.PREPARED,
    EventKind.PREPARE_FAILED,
    EventKind.LAUNCHED,
    EventKind.LAUNCH_FAILED,
    EventKind.SETUP_BEGAN,
    EventKind.CODE_BEGAN,
    EventKind.FINAL,
    EventKind.LOST,
    EventKind.BEFELL,
    EventKind.STOP,
    EventKind.FORCED,
    EventKind.ATTEMPT_OVER,
)

#: Events that end an attempt, and with it the job unless another one follows.
_ATTEMPT_ENDS = frozenset(
    {EventKind.FINAL, EventKind.LOST, EventKind.PREPARE_FAILED, EventKind.LAUNCH_FAILED}
)

#: Events that come too late or too early to matter; nothing changes.
IGNORED: frozenset[tuple[Phase, EventKind]] = frozenset(
    [(phase, kind) for phase in (Phase.ENDING, Phase.ENDED) for kind in _LATE]
    + [(Phase.RETRYING, kind) for kind in _LATE if kind not in (EventKind.FINAL, EventKind.STOP)]
    + [
        (Phase.ENDED, EventKind.CLEARED),
        (Phase.STARTING, EventKind.LAUNCHED),
        (Phase.STARTING, EventKind.LAUNCH_FAILED),
        (Phase.RUNNING, EventKind.LAUNCHED),
        (Phase.RUNNING, EventKind.LAUNCH_FAILED),
        (Phase.RUNNING, EventKind.SETUP_BEGAN),
        (Phase.RUNNING, EventKind.CODE_BEGAN),
        # A queued job was stopped while the scheduler chose.
        (Phase.ENDED, EventKind.PLACED),
        (Phase.ENDED, EventKind.REFUSED),
    ]
)


def step(record: JobRecord, event: Event) -> tuple[JobRecord, tuple[Effect, ...]]:
    """The record after `event`, and the effects to carry out once it is saved.

    An event that doesn't matter in this phase gives the very same record and no effect.
    Raises ImpossibleTransition.
    """
    if event.attempt is not None and event.attempt != record.attempt:
        return record, _NOTHING
    if _is_retried(record, event):
        event = attrs.evolve(event, kind=EventKind.ATTEMPT_OVER)
    key = (record.phase, event.kind)
    row = TABLE.get(key)
    if row is None:
        if key in IGNORED:
            return record, _NOTHING
        raise ImpossibleTransition(f"{event.kind} in phase {record.phase} of {record.job_id}")
    if event.kind is EventKind.STOP and record.stop_reason is not None:
        return record, _NOTHING
    by_user = event.stop_reason is EndReason.CANCELLED_BY_USER
    if key == (Phase.RETRYING, EventKind.STOP) and not by_user:
        return record, _NOTHING  # a bound of the attempt that is over
    if event.kind is EventKind.BEFELL and event.fate == record.fate:
        return record, _NOTHING
    if event.kind is EventKind.SETUP_BEGAN and record.setup_at is not None:
        return record, _NOTHING
    return attrs.evolve(row.change(record, event), phase=row.phase), row.effects


def _is_retried(record: JobRecord, event: Event) -> bool:
    return event.kind in _ATTEMPT_ENDS and event.end is not None and is_retried(record, event.end)


def is_retried(record: JobRecord, end: End) -> bool:
    """Whether what else would be the job's end only ends this attempt."""
    return (
        end.reason in RETRIED
        and record.stop_reason is not EndReason.CANCELLED_BY_USER
        and record.attempt <= record.spec.retries
    )


def effects_after_restart(record: JobRecord) -> tuple[Effect, ...]:
    """What to do (again) for a record found on disk: effects are idempotent."""
    if record.phase is Phase.PREPARING:
        return (Effect.PREPARE,)
    if record.phase is Phase.LAUNCHING:
        return (Effect.LAUNCH,)
    if record.phase in (Phase.STARTING, Phase.RUNNING) and record.stop_reason is not None:
        return (Effect.STOP_RUNNER,)
    if record.phase in (Phase.RETRYING, Phase.ENDING):
        return _CLEAR
    return _NOTHING


def end_of_stop(record: JobRecord) -> End:
    """How a job ends that was stopped for `record.stop_reason`, when no runner says it."""
    reason = record.stop_reason
    if reason is EndReason.CANCELLED_BY_USER:
        return End(state=JobState.CANCELLED, reason=reason, message="Job cancelled")
    if reason is EndReason.DURATION_EXCEEDED:
        return End(
            state=JobState.TIMEOUT,
            reason=reason,
            message=f"Job timed out: its code ran longer than {record.spec.duration_s:g} s",
            hint="ask for a longer duration",
        )
    if reason is EndReason.SETUP_TIMEOUT:
        setup_s = record.spec.setup_timeout_s
        return End(
            state=JobState.FAILED,
            reason=reason,
            message=f"Job stopped: its set-up took longer than its {setup_s:g} s (setup_timeout)",
        )
    return End(
        state=JobState.FAILED,
        reason=reason or EndReason.RUNNER_FAILED,
        message=f"Job stopped: {reason or 'no reason given'}",
    )


def diagram() -> str:
    """The table as a Mermaid state diagram, for docs/architecture.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.QUEUED}"]
    for (phase, kind), row in TABLE.items():
        effects = "".join(f" / {effect}" for effect in row.effects)
        lines.append(f"    {phase} --> {row.phase}: {kind}{effects}")
    lines.append(f"    {Phase.ENDED} --> [*]")
    return "\n".join(lines)
