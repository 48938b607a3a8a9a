"""How a job ended, from what is known of it. Pure."""

from collections.abc import Mapping
from typing import Any

import attrs

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.errors import CumulusError
from cumulusd.jobs.carried_text import carried
from cumulusd.jobs.model import End, Fate, JobRecord, ResultInfo
from cumulusd.jobs.ports import Container
from cumulusd.jobs.waits import NO_PLACE

#: No number that a runner tells is as large.
_TOO_LARGE = 1 << 62
_OUTCOMES = {
    "completed": JobState.COMPLETED,
    "failed": JobState.FAILED,
    "timeout": JobState.TIMEOUT,
    "cancelled": JobState.CANCELLED,
}

#: What to do about an end that brings no better advice of its own.
HINTS: Mapping[EndReason, str] = {
    EndReason.USER_ERROR: "the exception is the code's own: its traceback says where",
    EndReason.EXIT_CODE: "the code itself left so: its last output may say why",
    EndReason.SIGNALLED: "the code crashed or was killed by a process of its own: see its output",
    EndReason.OUT_OF_MEMORY: "use less memory, or ask for more with `memory_bytes`",
    EndReason.DISK_FULL: "write less; if the worker's disk itself is full, its operator makes room",
    EndReason.PROCESS_LIMIT: "start fewer processes and threads",
    EndReason.RESULT_INVALID: "return plain data, or less of it",
    EndReason.REQUIREMENTS_FAILED: "check the names and versions in `requirements`",
    EndReason.SETUP_TIMEOUT: "ask for a longer `setup_timeout_s`, or for fewer requirements",
    EndReason.PACKAGE_INVALID: "make the package anew with the client, and submit it again",
    EndReason.ENTRY_POINT_MISSING: "name a function or script that the package has",
    EndReason.RUNNER_FAILED: "submit the job again, or with retries",
    EndReason.DURATION_EXCEEDED: "ask for a longer `duration_s`",
    EndReason.QUEUE_TIMEOUT: "submit with a longer `queue_timeout_s`",
    EndReason.CANCELLED_BY_USER: "submit the job again if it is wanted after all",
    EndReason.WORKER_LOST: "submit the job again, or with retries",
    EndReason.WORKER_DRAINED: "submit the job again, or with retries",
    EndReason.DEVICE_LOST: "submit the job again, or with retries; see the worker's driver",
    EndReason.IMAGE_MISSING: "the operator loads the job image on the manager and every worker",
    EndReason.UNSCHEDULABLE: "the operator looks at the pool: `docker node ls`, the agents' logs",
    EndReason.PARTITION_FAILED: "submit the job again, or with retries; see the agent's log",
    EndReason.LAUNCH_FAILED: "submit the job again, or with retries; see the engine's log",
    EndReason.CHECKPOINT_LOST: "submit the job again: it begins anew",
    EndReason.JOURNAL_CORRUPT: "submit the job again; the worker's disk may be faulty",
}


def advised(end: End) -> End:
    """The end with a hint, its own or the one for its reason."""
    if end.reason is None or end.hint:
        return end
    return attrs.evolve(end, hint=HINTS[end.reason])


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
            else {_text(key): _text(value) for key, value in error.items()},
            result=None
            if result is None
            else ResultInfo(
                encoding=_text(result["encoding"]),
                size_bytes=_int(result["size_bytes"]),
                sha256=_text(result["sha256"]),
            ),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"malformed EXIT record: {problem!r}") from problem


def run_time(exit_record: Mapping[str, Any]) -> float:
    """How many seconds the code ran, by the runner's EXIT record. Raises ValueError."""
    run_s = exit_record.get("run_s")
    if not isinstance(run_s, int | float) or not 0 <= run_s < _TOO_LARGE:
        raise ValueError(f"an EXIT record that says the code ran for {run_s!r} seconds")
    return float(run_s)


def _text(value: Any) -> str:
    return carried(str(value))


def _optional_int(value: Any) -> int | None:
    return None if value is None else _int(value)


def _int(value: Any) -> int:
    """What every serialisation has a form for. Raises ValueError, TypeError."""
    if not -_TOO_LARGE < value < _TOO_LARGE:  # also what is no number
        raise ValueError("a number is out of all bounds")
    return int(value)


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
    """The container is gone, or its runner never spoke; the journal is complete and has no last
    record. `explanation`: the end of the container's own log."""
    where = record.placement.hostname if record.placement else "its worker"
    said = container.message if container is not None else ""
    exit_code = None if container is None else container.exit_code
    words = (f": {said}" if said else "") + (f"\n{explanation}" if explanation else "")
    reason, hint = EndReason.RUNNER_FAILED, "submit the job again, or with retries"
    if container is not None and container.alive:
        message = f"The job's runner on {where} never spoke, though its container is there{words}"
        if NO_PLACE in said:
            reason = EndReason.UNSCHEDULABLE
            message = f"The platform finds no place for the job's container on {where}{words}"
            hint = (
                "its operator compares what the worker offers with what its jobs reserve: "
                "generic resources, CPU, memory, constraints"
            )
    elif _NO_IMAGE in said:
        reason = EndReason.IMAGE_MISSING
        message = f"Worker {where} doesn't have the job image{words}"
        hint = "its operator loads the image there, or puts it where the worker can pull it"
    elif record.setup_at is None and (
        _NO_START in said or exit_code in _CANT_EXECUTE or (said and exit_code is None)
    ):
        reason = EndReason.LAUNCH_FAILED
        message = f"The job's container could not be started on {where}{words}"
        hint = "its operator looks at the job image and at the worker's engine"
    elif exit_code == _CANT_RECORD and any(each in explanation for each in _DISK_FULL):
        reason = EndReason.DISK_FULL
        message = f"The disk of {where} was full, so that the job's end could not be written{words}"
        hint = "write less in the job; if the worker's disk itself is full, its operator makes room"
    elif exit_code == _ENGINE_DIED:
        reason = EndReason.WORKER_LOST
        message = f"The engine of worker {where} ended under the job, and its container with it"
        message += f": {said}" if said else ""
        hint = "submit the job again, or with retries; the output up to here is kept"
    else:
        fate = "its container vanished" if container is None else "its container ended"
        if exit_code is not None:
            fate += f" with exit code {exit_code}"
        when = "before its runner started" if record.setup_at is None else "and said no end"
        message = f"The job's runner on {where} was lost, {fate} {when}{words}"
        hint = "somebody or something killed it from outside; " + hint
    return End(
        state=JobState.FAILED, reason=reason, message=message, exit_code=exit_code, hint=hint
    )


#: Docker's own words.
_NO_IMAGE = "No such image"
_NO_START = "starting container failed"
#: A container's init says so of a command that can't be executed, or isn't there.
_CANT_EXECUTE = (126, 127)
#: What an engine, once it is back, says of a container that ended with it: neither the runner nor
#: a signal gives this code.
_ENGINE_DIED = 255
#: The runner's exit code when it could not write its last record, and why that was.
_CANT_RECORD = 74
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "the disk was full")
#: Ends that may be the worker's fate by another name.
_OF_WORKERS = frozenset({EndReason.RUNNER_FAILED, EndReason.LAUNCH_FAILED, EndReason.UNSCHEDULABLE})


def may_be_the_workers(end: End) -> bool:
    """Whether what befell the worker may explain this end."""
    return end.reason in _OF_WORKERS


def named_by_fate(end: End, record: JobRecord, fate: Fate) -> End:
    """The end under the name of what befell its worker: to a runner a drained or a lost worker
    looks like any signal from outside."""
    where = record.placement.hostname if record.placement else "its worker"
    if not may_be_the_workers(end):
        return end
    if fate.drained:
        return attrs.evolve(
            end,
            reason=EndReason.WORKER_DRAINED,
            message=f"Worker {where} was set to drain while the job was on it: {end.message}",
            hint="submit the job again, or with retries: it then goes to another worker",
        )
    if fate.down:
        return attrs.evolve(
            end,
            reason=EndReason.WORKER_LOST,
            message=f"Worker {where} was down or cut off while the job was on it; what ran there "
            f"is ended when it comes back: {end.message}",
            hint="submit the job again, or with retries; the output up to here is kept",
        )
    return end


def end_of_lost_worker(record: JobRecord, why: str) -> End:
    """The worker did not come back in time."""
    where = record.placement.hostname if record.placement else "its worker"
    return End(
        state=JobState.FAILED,
        reason=EndReason.WORKER_LOST,
        message=f"Worker {where} was lost while the job ran there: {why}",
        hint="submit the job again, or with retries; the output up to here is kept",
    )


def end_of_lost_checkpoint(record: JobRecord, hostname: str, why: str) -> End:
    """What a resumed job was to go on from is gone."""
    return End(
        state=JobState.FAILED,
        reason=EndReason.CHECKPOINT_LOST,
        message=f"The job can't go on after its pause: what it was to go on from was on {hostname} "
        f"only, and {why}",
        hint="submit the job again: it begins anew; checkpoints that are saved to S3 outlive their "
        "worker",
    )


def end_of_lost_node(record: JobRecord) -> End:
    """The only worker that a job was to run on is gone."""
    return End(
        state=JobState.FAILED,
        reason=EndReason.UNSCHEDULABLE,
        message=f"The job was to run on the node {record.pinned_node} only, which was removed from "
        "the pool",
    )


def end_of_bad_journal(why: str) -> End:
    """The worker's journal can't be continued."""
    return End(
        state=JobState.FAILED,
        reason=EndReason.JOURNAL_CORRUPT,
        message=f"The job's journal is damaged: {why}",
        hint="the output up to there is kept; the worker's disk or memory may be faulty",
    )
