"""What each transition of the job machine changes in the record. Pure."""

import attrs

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs import checkpoints, waits
from cumulusd.jobs.events import Event, ImpossibleTransition
from cumulusd.jobs.model import (
    MAX_ATTEMPT_MESSAGE,
    End,
    EndedAttempt,
    Fate,
    JobRecord,
    Phase,
)


def same(record: JobRecord, event: Event) -> JobRecord:
    return record


def placed(record: JobRecord, event: Event) -> JobRecord:
    if event.placement is None:
        raise ImpossibleTransition("placed without a placement")
    return attrs.evolve(
        record, placement=event.placement, wait=waits.placing(event.placement.hostname)
    )


def unplaced(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, placement=None, wait=None)


def prepared(record: JobRecord, event: Event) -> JobRecord:
    if event.grant is None:
        raise ImpossibleTransition("prepared without a grant")
    return attrs.evolve(record, grant=event.grant, wait=waits.launching(hostname(record)))


def launched(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, wait=waits.starting(hostname(record), ""))


def hostname(record: JobRecord) -> str:
    return record.placement.hostname if record.placement is not None else "its worker"


def setup_began(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, setup_at=record.setup_at or event.at, wait=None)


def code_began(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(setup_began(record, event), started_at=record.started_at or event.at)


def ended(record: JobRecord, event: Event) -> JobRecord:
    if event.end is None:
        raise ImpossibleTransition(f"{event.kind} without an end")
    return attrs.evolve(record, end=event.end, ended_at=event.at, wait=None)


def attempt_over(record: JobRecord, event: Event) -> JobRecord:
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
    wait = waits.retrying(over, record.last_attempt, None, None)
    return attrs.evolve(record, attempts=(*record.attempts, over), wait=wait)


def ended_after_all(record: JobRecord, event: Event) -> JobRecord:
    """The attempt that was given up for lost has ended by itself: there is nothing to repeat."""
    return attrs.evolve(ended(record, event), attempts=record.attempts[:-1])


def again(record: JobRecord, event: Event) -> JobRecord:
    if event.journal_start is None:
        raise ImpossibleTransition("cleared for another attempt without the journal's offset")
    pinned = record.pinned_node
    if record.phase is Phase.PAUSING:
        pinned = event.pinned_node
    elif checkpoints.are_anywhere(record.checkpoints):
        pinned = None  # it has come to one since it was resumed
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
        pinned_node=pinned,
    )


def yielded(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(
        record, pauses=record.pauses + 1, ran_s=record.ran_s + event.ran_s, wait=None
    )


def yielded_after_all(record: JobRecord, event: Event) -> JobRecord:
    """The attempt that was given up for lost has paused by itself: there is nothing to repeat."""
    return attrs.evolve(yielded(record, event), attempts=record.attempts[:-1])


def pause_wanted(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, pause_requested=True)


def pause_withdrawn(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, pause_requested=False)


def paused(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, pause_requested=True, paused_at=event.at, wait=None)


def paused_unplaced(record: JobRecord, event: Event) -> JobRecord:
    return paused(unplaced(record, event), event)


def paused_between(record: JobRecord, event: Event) -> JobRecord:
    return paused(again(record, event), event)


def resumed(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, pause_requested=False, paused_at=None, queued_at=event.at)


def checkpointed(record: JobRecord, event: Event) -> JobRecord:
    return attrs.evolve(record, checkpoints=event.checkpoints)


def befell(record: JobRecord, event: Event) -> JobRecord:
    if event.fate is None:
        raise ImpossibleTransition("befell without a fate")
    return attrs.evolve(record, fate=record.fate | event.fate)


def stop_asked(record: JobRecord, event: Event) -> JobRecord:
    if event.stop_reason is None:
        raise ImpossibleTransition("stop without a reason")
    return attrs.evolve(record, stop_reason=event.stop_reason)


def stopped(record: JobRecord, event: Event) -> JobRecord:
    stopping = stop_asked(record, event) if record.stop_reason is None else record
    return attrs.evolve(stopping, end=end_of_stop(stopping), ended_at=event.at, wait=None)


def stopped_paused(record: JobRecord, event: Event) -> JobRecord:
    """Nobody is there to list what it has left on its worker, which goes with the job."""
    stopped_now = stopped(record, event)
    if record.pauses == 0 or stopped_now.end is None:
        return stopped_now
    note = "the job was ended while it was paused: what it had left so far was not brought here"
    return attrs.evolve(stopped_now, end=attrs.evolve(stopped_now.end, outputs_note=note))


def stopped_between(record: JobRecord, event: Event) -> JobRecord:
    """No attempt follows on the one that is over, so that is the job's last, and not one before."""
    over, last = record.attempts[-1], stopped(record, event)
    assert last.end is not None
    words = f": attempt {over.attempt} had ended ({over.reason.value}: {over.message})"
    end = attrs.evolve(last.end, message=last.end.message + words)
    return attrs.evolve(last, end=end, attempts=record.attempts[:-1])


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
