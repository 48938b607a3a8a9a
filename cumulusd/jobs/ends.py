"""How a job ended, from what is known of it. Pure."""

from collections.abc import Mapping
from typing import Any

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.errors import CumulusError
from cumulusd.jobs.model import End, JobRecord, ResultInfo
from cumulusd.jobs.ports import Container

_OUTCOMES = {
    "completed": JobState.COMPLETED,
    "failed": JobState.FAILED,
    "timeout": JobState.TIMEOUT,
    "cancelled": JobState.CANCELLED,
}


def end_of_exit(exit_record: Mapping[str, Any], error: Mapping[str, Any] | None) -> End:
    """The end as the runner's EXIT record tells it. `error`: the ERROR record before it, if any.

    Raises ValueError when the record isn't as docs/protocol.md says.
    """
    try:
        state = _OUTCOMES[exit_record["outcome"]]
        reason = exit_record.get("reason")
        result = exit_record.get("result")
        return End(
            state=state,
            reason=None if reason is None else EndReason(reason),
            message=_text(exit_record.get("message") or ""),
            exit_code=_optional_int(exit_record.get("exit_code")),
            signal=_optional_int(exit_record.get("signal")),
            hint=None if exit_record.get("hint") is None else _text(exit_record["hint"]),
            error=None
            if state is JobState.COMPLETED or error is None
            else {str(key): _text(value) for key, value in error.items()},
            result=None
            if result is None
            else ResultInfo(
                encoding=str(result["encoding"]),
                size_bytes=int(result["size_bytes"]),
                sha256=str(result["sha256"]),
            ),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"malformed EXIT record: {problem!r}") from problem


def _text(value: Any) -> str:
    """Text that every serialisation of WAMP carries: in JSON a leading NUL would mean binary."""
    return str(value).replace("\0", "\\0")


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)


def end_of_error(error: CumulusError, reason: EndReason, what: str) -> End:
    """A job that could not be started. `what` was being done when `error` was raised."""
    words = error.details.get("platform")
    return End(
        state=JobState.FAILED,
        reason=reason,
        message=f"{what}: {error.message}" + (f" ({words})" if words else ""),
        hint=error.hint,
    )


def end_of_lost_container(record: JobRecord, container: Container | None, explanation: str) -> End:
    """The container is gone, the journal is complete and has no last record."""
    where = record.placement.hostname if record.placement else "its worker"
    if container is None:
        fate = "its container vanished"
    elif container.exit_code is not None:
        fate = f"its container ended with exit code {container.exit_code}"
    else:
        fate = "its container ended"
    words = f": {container.message}" if container is not None and container.message else ""
    when = "before its runner started" if record.setup_at is None else "and the runner said no end"
    return End(
        state=JobState.FAILED,
        reason=EndReason.RUNNER_FAILED,
        message=f"The job's runner on {where} was lost, {fate} {when}{words}"
        + (f"\n{explanation}" if explanation else ""),
        exit_code=None if container is None else container.exit_code,
        hint="somebody or something killed it from outside; submit the job again",
    )


def end_of_lost_worker(record: JobRecord, why: str) -> End:
    """The worker did not come back in time."""
    where = record.placement.hostname if record.placement else "its worker"
    return End(
        state=JobState.FAILED,
        reason=EndReason.WORKER_LOST,
        message=f"Worker {where} was lost while the job ran there: {why}",
        hint="submit the job again; the output up to here is kept",
    )


def end_of_bad_journal(why: str) -> End:
    """The worker's journal can't be continued."""
    return End(
        state=JobState.FAILED,
        reason=EndReason.JOURNAL_CORRUPT,
        message=f"The job's journal is damaged: {why}",
        hint="the output up to there is kept; the worker's disk or memory may be faulty",
    )
