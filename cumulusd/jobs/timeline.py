"""A job's way through its stages, and when it came to each. Pure."""

import attrs

from cumulusd.jobs.model import JobRecord, Moment, Phase, Stage

#: A record keeps so many moments at most: the first and the newest ones.
MAX_MOMENTS = 64

_STAGES = {
    Phase.QUEUED: Stage.QUEUED,
    Phase.PREPARING: Stage.PREPARING,
    Phase.LAUNCHING: Stage.LAUNCHING,
    Phase.STARTING: Stage.LAUNCHING,
    Phase.RUNNING: Stage.RUNNING,
    Phase.RETRYING: Stage.ENDING,
    Phase.PAUSING: Stage.ENDING,
    Phase.PAUSED: Stage.PAUSED,
    Phase.ENDING: Stage.ENDING,
    Phase.ENDED: Stage.ENDED,
}


@attrs.frozen(kw_only=True)
class Span:
    """A stage that is over, and how long it lasted."""

    stage: Stage
    seconds: float


def stage_of(record: JobRecord) -> Stage:
    """Where the job is now."""
    if record.phase is Phase.STARTING and record.setup_at is not None:
        return Stage.SETUP
    return _STAGES[record.phase]


def noted(record: JobRecord, at: float) -> JobRecord:
    """The record with the moment `at`, if it came to another stage or attempt."""
    stage, last = stage_of(record), record.moments[-1]
    if (stage, record.attempt) == (last.stage, last.attempt):
        return record
    # Clocks are set back, and a worker's may be set otherwise than ours.
    now = Moment(stage=stage, at=max(at, last.at), attempt=record.attempt)
    moments = (*record.moments, now)
    if len(moments) > MAX_MOMENTS:
        moments = (moments[0], *moments[-(MAX_MOMENTS - 1) :])
    return attrs.evolve(record, moments=moments)


def passed(before: JobRecord, after: JobRecord) -> Span | None:
    """The stage that was over when `before` became `after` by one event; None: it is in it yet."""
    last, now = before.moments[-1], after.moments[-1]
    if now == last:
        return None
    return Span(stage=last.stage, seconds=now.at - last.at)
