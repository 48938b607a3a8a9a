"""How a job ended, decided from what is known of it. Pure: no I/O."""

from __future__ import annotations

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAX_MESSAGE_CHARS = 4000
MAX_GRACE_S = 3600.0
_SIGKILL = 9
DISK_FULL_HINT = (
    "Write less, or delete what is not needed any more: the job's folder and /tmp are bounded. "
    "If the worker's disk itself is full, its administrator makes room."
)
#: Ends that the code came to by itself.
_OF_CODE = frozenset({EndReason.USER_ERROR, EndReason.EXIT_CODE, EndReason.SIGNALLED})


class Stop:
    """Why the job is to end before its time. `reason` None: the container is stopped."""

    __slots__ = ("grace_s", "message", "reason")

    def __init__(self, reason: EndReason | None, message: str, grace_s: float) -> None:
        self.reason = reason
        self.message = message
        self.grace_s = grace_s


def stop_asked(message: Mapping[str, Any], grace_s: float) -> Stop:
    """The stop that an agent's message asks for; `grace_s`: where it doesn't say how long."""
    asked_s = message.get("grace_s")
    if isinstance(asked_s, bool) or not isinstance(asked_s, int | float) or asked_s != asked_s:
        asked_s = grace_s
    given = message.get("reason")
    try:
        reason: EndReason = EndReason(str(given))
        text = _STOPPED.get(reason, f"stopped: {reason.value}")
    except ValueError:
        reason, text = EndReason.RUNNER_FAILED, f"stopped for an unknown reason: {given!r}"
    return Stop(reason, text, min(MAX_GRACE_S, max(0.0, float(asked_s))))


_STOPPED = {
    EndReason.CANCELLED_BY_USER: "cancelled by its user",
    EndReason.DURATION_EXCEEDED: "stopped: its duration is over",
    EndReason.WORKER_DRAINED: "stopped: its worker is being drained",
    EndReason.DEVICE_LOST: "stopped: its driver doesn't show its device any more",
    EndReason.WORKER_LOST: "stopped: its worker was given up for lost",
}


class StopRequested(Exception):
    """Raised where the work in hand is to be left: the job was stopped."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.message)
        self.stop = stop


class JobFailed(Exception):
    """The job can't go on."""

    def __init__(self, reason: EndReason, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint


class Outcome:
    """The decided part of an EXIT record."""

    __slots__ = ("exit_code", "hint", "message", "reason", "signal", "state")

    def __init__(
        self,
        state: JobState,
        reason: EndReason | None,
        message: str,
        *,
        hint: str | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
    ) -> None:
        self.state = state
        self.reason = reason
        self.message = message[:MAX_MESSAGE_CHARS]
        self.hint = None if hint is None else hint[:MAX_MESSAGE_CHARS]
        self.exit_code = exit_code
        self.signal = signal

    def exit_record(
        self, result: dict[str, Any] | None, setup_s: float, run_s: float
    ) -> dict[str, Any]:
        """The EXIT record. `result`: the description of the one in the journal."""
        return {
            "outcome": self.state.value,
            "reason": None if self.reason is None else self.reason.value,
            "message": self.message,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "hint": self.hint,
            "result": result,
            "setup_s": round(setup_s, 6),
            "run_s": round(run_s, 6),
        }


def paused() -> Outcome:
    """The outcome of an attempt whose code has paused, as it was asked to."""
    return Outcome(JobState.PAUSED, None, "paused")


def of_stop(stop: Stop, exit_code: int | None = None, signal: int | None = None) -> Outcome:
    """The outcome of a job that was stopped."""
    state, reason, hint = JobState.FAILED, stop.reason, None
    if reason is EndReason.CANCELLED_BY_USER:
        state = JobState.CANCELLED
    elif reason is EndReason.DURATION_EXCEEDED:
        state, hint = JobState.TIMEOUT, "Ask for a longer `duration`."
    elif reason is EndReason.SETUP_TIMEOUT:
        hint = "Ask for a longer `setup_timeout_s`, or for fewer requirements."
    elif reason is None:
        reason = EndReason.RUNNER_FAILED
    return Outcome(state, reason, stop.message, hint=hint, exit_code=exit_code, signal=signal)


def of_crash(error: Exception, disk_full: bool) -> Outcome:
    """The outcome of a fault of the runner's own, or of the worker's disk."""
    if disk_full:
        return Outcome(
            JobState.FAILED,
            EndReason.DISK_FULL,
            f"the worker's disk is full, or what the job may have of it: {error}",
            hint=DISK_FULL_HINT,
        )
    return Outcome(
        JobState.FAILED,
        EndReason.RUNNER_FAILED,
        f"the runner failed: {type(error).__name__}: {error}",
        hint="This is no fault of the job's; the container's log has the details.",
    )


def of_failure(failure: JobFailed) -> Outcome:
    """The outcome of a job that couldn't go on."""
    return Outcome(JobState.FAILED, failure.reason, failure.message, hint=failure.hint)


def of_code(
    report: Mapping[str, Any] | None,
    exit_code: int | None,
    signal: int | None,
    oom_kills: int,
    processes_refused: int = 0,
) -> Outcome:
    """The outcome of code that ended by itself.

    `report`: what `bootstrap` left, None: nothing. Meanwhile the kernel killed `oom_kills` of the
    container's processes for want of memory, and refused `processes_refused` at their limit.
    """
    verdict = _of_code(report, exit_code, signal, oom_kills)
    if verdict.state is JobState.COMPLETED:
        return verdict
    if report is not None and report.get("disk_full") is True:
        verdict.reason = EndReason.DISK_FULL
        verdict.hint = DISK_FULL_HINT
    elif processes_refused and verdict.reason in _OF_CODE:
        verdict.reason = EndReason.PROCESS_LIMIT
        verdict.message = (
            f"the job came to its limit of processes and threads (the kernel refused "
            f"{processes_refused}): {verdict.message}"
        )[:MAX_MESSAGE_CHARS]
        verdict.hint = (
            "Start fewer processes and threads: fewer workers of a pool, OMP_NUM_THREADS."
        )
    return verdict


def _of_code(
    report: Mapping[str, Any] | None, exit_code: int | None, signal: int | None, oom_kills: int
) -> Outcome:
    state = None if report is None else _text(report.get("state"))
    hint = None if report is None else _text(report.get("hint"))
    if oom_kills and hint is None:
        hint = (
            f"The kernel killed {oom_kills} of the job's processes for want of memory: "
            "ask for more with `memory_bytes`, or use less."
        )
    if report is not None and state in ("raised", "paused"):  # a pause that nobody asked for
        return _failed(EndReason.USER_ERROR, error_line(report), hint, exit_code, signal)
    if report is not None and state in _REASONS:
        message = _text(report.get("message")) or "the code could not be run"
        return _failed(_REASONS[state], message, hint, exit_code, signal)
    if signal is not None:
        name = signal_name(signal)
        if state == "returned":
            # The value is safe; what crashed was the interpreter's leaving, often a driver's fault.
            message = f"completed; the process was then killed by signal {signal} ({name})"
            return Outcome(JobState.COMPLETED, None, message, hint=hint, signal=signal)
        if signal == _SIGKILL and oom_kills:
            message = "the job's process was killed by the kernel: out of memory"
            return _failed(EndReason.OUT_OF_MEMORY, message, hint, None, signal)
        message = f"the job's process was killed by signal {signal} ({name})"
        return _failed(EndReason.SIGNALLED, message, hint, None, signal)
    if exit_code:
        message = f"the code left with exit code {exit_code}"
        return _failed(EndReason.EXIT_CODE, message, hint, exit_code, None)
    return Outcome(JobState.COMPLETED, None, "completed", exit_code=exit_code)


def error_line(report: Mapping[str, Any]) -> str:
    """The exception in one line, as `ValueError: boom`."""
    error = report.get("error")
    if not isinstance(error, dict):
        return "the code raised an exception"
    module, kind = _text(error.get("module")), _text(error.get("type")) or "Exception"
    name = kind if module in (None, "builtins", "__main__") else f"{module}.{kind}"
    message = _text(error.get("message"))
    return f"{name}: {message}" if message else name


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11."""
    try:
        import signal as signals  # with enumerations, which few jobs need

        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


_REASONS = {
    "missing": EndReason.ENTRY_POINT_MISSING,
    "unreturnable": EndReason.RESULT_INVALID,
    "invalid": EndReason.PACKAGE_INVALID,
}


def _failed(
    reason: EndReason, message: str, hint: str | None, exit_code: int | None, signal: int | None
) -> Outcome:
    return Outcome(JobState.FAILED, reason, message, hint=hint, exit_code=exit_code, signal=signal)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
