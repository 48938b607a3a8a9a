"""The job machine: an explicit table, `(phase, event) -> (phase, effects)`.

Pure: `step` takes a record and an event and returns the next record and what must now be done.
The caller saves the record first and then carries out the effects, each of which is idempotent;
`effects_after_restart` says which to repeat for a record found on disk.
"""

from collections.abc import Callable

import attrs

from cumulus_wire.codes import RETRIED, EndReason
from cumulusd.jobs import changes, timeline
from cumulusd.jobs.events import Effect, Event, EventKind, ImpossibleTransition
from cumulusd.jobs.model import End, JobRecord, Phase

Change = Callable[[JobRecord, Event], JobRecord]


@attrs.frozen
class Row:
    """One line of the table."""

    phase: Phase  #: the phase after it
    effects: tuple[Effect, ...]
    change: Change


_NOTHING: tuple[Effect, ...] = ()
_CLEAR = (Effect.CLEAR,)
_TELL_PAUSE = (Effect.TELL_PAUSE,)

#: Every transition there is.
TABLE: dict[tuple[Phase, EventKind], Row] = {
    (Phase.QUEUED, EventKind.PLACED): Row(Phase.PREPARING, (Effect.PREPARE,), changes.placed),
    (Phase.QUEUED, EventKind.STOP): Row(Phase.ENDED, _NOTHING, changes.stopped),
    (Phase.QUEUED, EventKind.REFUSED): Row(Phase.ENDED, _NOTHING, changes.ended),
    (Phase.QUEUED, EventKind.PAUSE): Row(Phase.PAUSED, _NOTHING, changes.paused),
    (Phase.PREPARING, EventKind.PREPARED): Row(Phase.LAUNCHING, (Effect.LAUNCH,), changes.prepared),
    (Phase.PREPARING, EventKind.UNPLACED): Row(Phase.QUEUED, _NOTHING, changes.unplaced),
    (Phase.PREPARING, EventKind.PREPARE_FAILED): Row(Phase.ENDING, _CLEAR, changes.ended),
    (Phase.PREPARING, EventKind.ATTEMPT_OVER): Row(Phase.RETRYING, _CLEAR, changes.attempt_over),
    (Phase.PREPARING, EventKind.STOP): Row(Phase.ENDING, _CLEAR, changes.stopped),
    (Phase.PREPARING, EventKind.PAUSE): Row(Phase.PREPARING, _NOTHING, changes.pause_wanted),
    (Phase.PREPARING, EventKind.RESUME): Row(Phase.PREPARING, _NOTHING, changes.pause_withdrawn),
    (Phase.PREPARING, EventKind.HELD): Row(Phase.PAUSED, _NOTHING, changes.paused_unplaced),
    (Phase.LAUNCHING, EventKind.LAUNCHED): Row(Phase.STARTING, _NOTHING, changes.launched),
    (Phase.LAUNCHING, EventKind.LAUNCH_FAILED): Row(Phase.ENDING, _CLEAR, changes.ended),
    (Phase.LAUNCHING, EventKind.ATTEMPT_OVER): Row(Phase.RETRYING, _CLEAR, changes.attempt_over),
    (Phase.LAUNCHING, EventKind.STOP): Row(Phase.ENDING, _CLEAR, changes.stopped),
    # The runner may speak before the platform has answered the launch.
    (Phase.LAUNCHING, EventKind.SETUP_BEGAN): Row(Phase.STARTING, _NOTHING, changes.setup_began),
    (Phase.LAUNCHING, EventKind.CODE_BEGAN): Row(Phase.RUNNING, _NOTHING, changes.code_began),
    (Phase.LAUNCHING, EventKind.BEFELL): Row(Phase.LAUNCHING, _NOTHING, changes.befell),
    (Phase.LAUNCHING, EventKind.FINAL): Row(Phase.ENDING, _CLEAR, changes.ended),
    (Phase.LAUNCHING, EventKind.CHECKPOINTED): Row(Phase.LAUNCHING, _NOTHING, changes.checkpointed),
    (Phase.LAUNCHING, EventKind.YIELDED): Row(Phase.PAUSING, _CLEAR, changes.yielded),
    (Phase.LAUNCHING, EventKind.PAUSE): Row(Phase.LAUNCHING, _NOTHING, changes.pause_wanted),
    (Phase.LAUNCHING, EventKind.RESUME): Row(Phase.LAUNCHING, _NOTHING, changes.pause_withdrawn),
    (Phase.STARTING, EventKind.SETUP_BEGAN): Row(Phase.STARTING, _NOTHING, changes.setup_began),
    (Phase.STARTING, EventKind.CODE_BEGAN): Row(Phase.RUNNING, _NOTHING, changes.code_began),
    (Phase.STARTING, EventKind.BEFELL): Row(Phase.STARTING, _NOTHING, changes.befell),
    (Phase.STARTING, EventKind.FINAL): Row(Phase.ENDING, _CLEAR, changes.ended),
    (Phase.STARTING, EventKind.LOST): Row(Phase.ENDING, _CLEAR, changes.ended),
    (Phase.STARTING, EventKind.ATTEMPT_OVER): Row(Phase.RETRYING, _CLEAR, changes.attempt_over),
    (Phase.STARTING, EventKind.STOP): Row(
        Phase.STARTING, (Effect.STOP_RUNNER,), changes.stop_asked
    ),
    (Phase.STARTING, EventKind.FORCED): Row(Phase.ENDING, _CLEAR, changes.stopped),
    (Phase.STARTING, EventKind.CHECKPOINTED): Row(Phase.STARTING, _NOTHING, changes.checkpointed),
    (Phase.STARTING, EventKind.YIELDED): Row(Phase.PAUSING, _CLEAR, changes.yielded),
    (Phase.STARTING, EventKind.PAUSE): Row(Phase.STARTING, _NOTHING, changes.pause_wanted),
    (Phase.STARTING, EventKind.RESUME): Row(Phase.STARTING, _NOTHING, changes.pause_withdrawn),
    (Phase.RUNNING, EventKind.BEFELL): Row(Phase.RUNNING, _NOTHING, changes.befell),
    (Phase.RUNNING, EventKind.FINAL): Row(Phase.ENDING, _CLEAR, changes.ended),
    (Phase.RUNNING, EventKind.LOST): Row(Phase.ENDING, _CLEAR, changes.ended),
    (Phase.RUNNING, EventKind.ATTEMPT_OVER): Row(Phase.RETRYING, _CLEAR, changes.attempt_over),
    (Phase.RUNNING, EventKind.STOP): Row(Phase.RUNNING, (Effect.STOP_RUNNER,), changes.stop_asked),
    (Phase.RUNNING, EventKind.FORCED): Row(Phase.ENDING, _CLEAR, changes.stopped),
    (Phase.RUNNING, EventKind.CHECKPOINTED): Row(Phase.RUNNING, _NOTHING, changes.checkpointed),
    (Phase.RUNNING, EventKind.PAUSE): Row(Phase.RUNNING, _TELL_PAUSE, changes.pause_wanted),
    (Phase.RUNNING, EventKind.RESUME): Row(Phase.RUNNING, _TELL_PAUSE, changes.pause_withdrawn),
    (Phase.RUNNING, EventKind.YIELDED): Row(Phase.PAUSING, _CLEAR, changes.yielded),
    (Phase.RETRYING, EventKind.CLEARED): Row(Phase.QUEUED, _NOTHING, changes.again),
    # A worker given up for lost came back, and its journal says how the code ended.
    (Phase.RETRYING, EventKind.FINAL): Row(Phase.ENDING, _CLEAR, changes.ended_after_all),
    (Phase.RETRYING, EventKind.YIELDED): Row(Phase.PAUSING, _CLEAR, changes.yielded_after_all),
    (Phase.RETRYING, EventKind.STOP): Row(Phase.ENDING, _CLEAR, changes.stopped_between),
    (Phase.RETRYING, EventKind.CHECKPOINTED): Row(Phase.RETRYING, _NOTHING, changes.checkpointed),
    (Phase.RETRYING, EventKind.PAUSE): Row(Phase.RETRYING, _NOTHING, changes.pause_wanted),
    (Phase.RETRYING, EventKind.RESUME): Row(Phase.RETRYING, _NOTHING, changes.pause_withdrawn),
    (Phase.RETRYING, EventKind.HELD): Row(Phase.PAUSED, _NOTHING, changes.paused_between),
    (Phase.PAUSING, EventKind.HELD): Row(Phase.PAUSED, _NOTHING, changes.paused_between),
    # The pause was withdrawn when the code had paused already.
    (Phase.PAUSING, EventKind.CLEARED): Row(Phase.QUEUED, _NOTHING, changes.again),
    (Phase.PAUSING, EventKind.PAUSE): Row(Phase.PAUSING, _NOTHING, changes.pause_wanted),
    (Phase.PAUSING, EventKind.RESUME): Row(Phase.PAUSING, _NOTHING, changes.pause_withdrawn),
    (Phase.PAUSING, EventKind.STOP): Row(Phase.ENDING, _CLEAR, changes.stopped),
    (Phase.PAUSED, EventKind.RESUME): Row(Phase.QUEUED, _NOTHING, changes.resumed),
    (Phase.PAUSED, EventKind.STOP): Row(Phase.ENDED, _NOTHING, changes.stopped_paused),
    (Phase.ENDING, EventKind.CLEARED): Row(Phase.ENDED, _NOTHING, changes.same),
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
    EventKind.CHECKPOINTED,
    EventKind.YIELDED,
    EventKind.PAUSE,
    EventKind.RESUME,
)

#: Events that end an attempt, and with it the job unless another one follows.
_ATTEMPT_ENDS = frozenset(
    {EventKind.FINAL, EventKind.LOST, EventKind.PREPARE_FAILED, EventKind.LAUNCH_FAILED}
)

#: Events that come too late or too early to matter; nothing changes.
IGNORED: frozenset[tuple[Phase, EventKind]] = frozenset(
    [(phase, kind) for phase in (Phase.ENDING, Phase.ENDED) for kind in _LATE]
    + [
        (phase, kind)
        for phase in (Phase.RETRYING, Phase.PAUSING)
        for kind in _LATE
        if (phase, kind) not in TABLE
    ]
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
        # So was one that is paused now.
        (Phase.PAUSED, EventKind.PLACED),
        (Phase.PAUSED, EventKind.REFUSED),
        # What is so already.
        (Phase.QUEUED, EventKind.RESUME),
        (Phase.PAUSED, EventKind.PAUSE),
    ]
)


def step(record: JobRecord, event: Event) -> tuple[JobRecord, tuple[Effect, ...]]:
    """The record after `event`, and the effects to carry out once it is saved.

    An event that doesn't matter in this phase gives the very same record and no effect.
    Raises ImpossibleTransition.
    """
    if event.attempt is not None and event.attempt != record.attempt:
        return record, _NOTHING
    event = attrs.evolve(event, kind=_true_kind(record, event))
    key = (record.phase, event.kind)
    row = TABLE.get(key)
    if row is None:
        if key in IGNORED:
            return record, _NOTHING
        raise ImpossibleTransition(f"{event.kind} in phase {record.phase} of {record.job_id}")
    if event.kind is EventKind.STOP and record.stop_reason is not None:
        return record, _NOTHING
    by_user = event.stop_reason is EndReason.CANCELLED_BY_USER
    over = record.phase in (Phase.RETRYING, Phase.PAUSING)
    if over and event.kind is EventKind.STOP and not by_user:
        return record, _NOTHING  # a bound of the attempt that is over
    if event.kind in (EventKind.PAUSE, EventKind.RESUME) and (
        record.stop_reason is not None or record.pause_requested == (event.kind is EventKind.PAUSE)
    ):
        return record, _NOTHING  # it is ended, or asked for already
    if event.kind is EventKind.CHECKPOINTED and event.checkpoints == record.checkpoints:
        return record, _NOTHING
    if event.kind is EventKind.BEFELL and event.fate == record.fate:
        return record, _NOTHING
    if event.kind is EventKind.SETUP_BEGAN and record.setup_at is not None:
        return record, _NOTHING
    after, effects = attrs.evolve(row.change(record, event), phase=row.phase), row.effects
    after = timeline.noted(after, event.at)
    if event.kind is EventKind.CODE_BEGAN and _is_to_pause(after):
        effects += _TELL_PAUSE  # asked for before the code was there to be asked
    return after, effects


def _true_kind(record: JobRecord, event: Event) -> EventKind:
    """What the event is, for a job that is to be tried again, paused, or stopped."""
    if _is_retried(record, event):
        return EventKind.ATTEMPT_OVER
    back = event.kind in (EventKind.UNPLACED, EventKind.CLEARED)
    if back and record.pause_requested and (record.phase, EventKind.HELD) in TABLE:
        return EventKind.HELD
    if event.kind is EventKind.YIELDED and record.stop_reason is not None:
        return EventKind.FORCED  # it was told to end meanwhile
    return event.kind


def _is_retried(record: JobRecord, event: Event) -> bool:
    return event.kind in _ATTEMPT_ENDS and event.end is not None and is_retried(record, event.end)


def is_retried(record: JobRecord, end: End) -> bool:
    """Whether what else would be the job's end only ends this attempt."""
    return (
        end.reason in RETRIED
        and record.stop_reason is not EndReason.CANCELLED_BY_USER
        and record.attempt < record.last_attempt
    )


def _is_to_pause(record: JobRecord) -> bool:
    return record.pause_requested and record.stop_reason is None


def effects_after_restart(record: JobRecord) -> tuple[Effect, ...]:
    """What to do (again) for a record found on disk: effects are idempotent."""
    if record.phase is Phase.PREPARING:
        return (Effect.PREPARE,)
    if record.phase is Phase.LAUNCHING:
        return (Effect.LAUNCH,)
    if record.phase in (Phase.STARTING, Phase.RUNNING) and record.stop_reason is not None:
        return (Effect.STOP_RUNNER,)
    if record.phase is Phase.RUNNING and _is_to_pause(record):
        return _TELL_PAUSE
    if record.phase in (Phase.RETRYING, Phase.PAUSING, Phase.ENDING):
        return _CLEAR
    return _NOTHING


def diagram() -> str:
    """The table as a Mermaid state diagram, for docs/architecture.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.QUEUED}"]
    for (phase, kind), row in TABLE.items():
        effects = "".join(f" / {effect}" for effect in row.effects)
        lines.append(f"    {phase} --> {row.phase}: {kind}{effects}")
    lines.append(f"    {Phase.ENDED} --> [*]")
    return "\n".join(lines)
