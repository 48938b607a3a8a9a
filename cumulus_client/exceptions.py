"""What the client raises.

Every class is a `CumulusError`, which is a `RuntimeError` (what the old SDK raised)::

    CumulusError                RuntimeError
     +- JobFailed               the job ended without a value; str() has the remote traceback,
     |                          `__cause__` is an exception of the type that the code raised
     +- JobTimeout              + TimeoutError: the job used up its duration
     +- JobCancelled            somebody cancelled the job
     +- ClientTimeout           + TimeoutError: the caller's own `timeout`; the job goes on
     +- ConnectionFailed        + ConnectionError: no session with the daemon
     |   +- ConnectionLost      a session broke in the middle of a call
     +- PackagingError          the function, a global or an argument can't travel
     +- ResultError             the value is there but can't be brought back here
     +- InvalidArgument         400, every fault in `details["faults"]`
     +- NotAuthenticated        401
     +- NotAuthorized           403
     +- NotFound                404
     +- NotEnded                400, asked for the result of a job that goes on
     +- Conflict                409
     +- TooLarge                413
     +- TooMany                 429
     +- NoWorkersAvailable      503
     +- InsufficientResources   503, no worker could ever fit it
     +- Unavailable             503
     +- ServerError             500, and whatever has no name of its own
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cumulus_client._remote_error import original
from cumulus_client._wording import PYTHON, Words, end_told, faults_told
from cumulus_wire import uris
from cumulus_wire.codes import EndReason, ErrorCode
from cumulus_wire.states import JobState


class CumulusError(RuntimeError):
    """An error with everything its reader needs: what, which job, why, what to do.

    `message` is the sentence alone; `str()` adds each fault on a line of its own and the hint.
    `status` is the HTTP status of an error of the daemon's, None for one made here.
    """

    code: ClassVar[ErrorCode | None] = None

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.job_id = job_id
        self.status = status if status is not None else _STATUS.get(type(self).code)
        self.details: dict[str, Any] = dict(details or {})
        self.hint = hint

        #: The end of a job's output that nobody was shown yet.
        self._log_tail = ""
        #: Message and hint in the daemon's own words, for an error of the daemon's.
        self._daemons: tuple[str, str | None] | None = None

    def __str__(self) -> str:
        return self.text(PYTHON)

    def text(self, words: Words) -> str:
        """What `str()` gives, with options called what `words` calls them."""
        message, hint = self.message, self.hint
        if self._daemons is not None:
            message = self._daemons[0]
            hint = None if self._daemons[1] is None else words.text(self._daemons[1])
        lines = faults_told(message, self.details, words if self._daemons else _AS_IT_IS)
        if self.job_id and self.job_id not in self.message:
            if type(self) in _REFUSALS:
                lines.append(f"  (refused as {self.job_id})")
            else:
                lines.append(f"  job: {self.job_id}")
        if hint:
            lines.append(f"  hint: {words.phrased(hint)}")
        if self._log_tail.strip():
            lines.append("  last output:")
            last = self._log_tail.rstrip().splitlines()[-_TAIL_LINES:]
            lines += [f"    {line}" for line in last]
        return "\n".join(lines)


_AS_IT_IS = Words({})
#: How many lines of a job's last output an error shows.
_TAIL_LINES = 20

_STATUS: dict[ErrorCode | None, int] = {
    ErrorCode.INVALID_ARGUMENT: 400,
    ErrorCode.NOT_AUTHENTICATED: 401,
    ErrorCode.NOT_AUTHORIZED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.NOT_ENDED: 400,
    ErrorCode.CONFLICT: 409,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.TOO_MANY: 429,
    ErrorCode.NO_WORKERS: 503,
    ErrorCode.INSUFFICIENT_RESOURCES: 503,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}


class RemoteTraceback(Exception):
    """The traceback of the job's own exception, as text; `__cause__` of a `JobFailed` of which no
    more is known."""

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        # Python prints causes before what they caused, and that has the whole traceback.
        lines = self.traceback.strip().splitlines()
        return f"{lines[-1] if lines else ''} (in the job; its traceback stands below)"


class JobFailed(CumulusError):
    """The job ended as `failed`. `str()` starts with "Job failed: "."""

    code = ErrorCode.JOB_FAILED

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        reason: str | None = None,
        remote_traceback: str | None = None,
        error_type: str | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
        hint: str | None = None,
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, status=status, details=details, hint=hint)
        self.reason = reason
        self.remote_traceback = remote_traceback
        self.error_type = error_type
        self.exit_code = exit_code
        self.signal = signal
        if remote_traceback:
            self.__cause__ = RemoteTraceback(remote_traceback)

    def text(self, words: Words) -> str:
        text = super().text(words)
        text = text if text.startswith("Job failed") else f"Job failed: {text}"
        if self.remote_traceback:
            text += f"\n\nRemote traceback:\n{self.remote_traceback.rstrip()}"
        return text


class JobTimeout(CumulusError, TimeoutError):
    """The job ended as `timeout`. `str()` starts with "Job timed out"."""


class JobCancelled(CumulusError):
    """The job ended as `cancelled`."""


class ClientTimeout(CumulusError, TimeoutError):
    """The caller's own `timeout` passed. The job goes on. Starts "Client timeout exceeded"."""


class ConnectionFailed(CumulusError, ConnectionError):
    """There is no session with the daemon: refused, not found, no Cumulus daemon, gave up."""


class ConnectionLost(ConnectionFailed):
    """The session broke while a call was under way; the call may or may not have been made."""


class PackagingError(CumulusError):
    """The function, a global it uses, or an argument can't be shipped."""


class ResultError(CumulusError):
    """The job has a value, but it can't be brought back here."""


class InvalidArgument(CumulusError):
    """The request is malformed; `details["faults"]` lists every fault."""

    code = ErrorCode.INVALID_ARGUMENT


class NotAuthenticated(CumulusError):
    """The daemon wants an API key, or doesn't know this one."""

    code = ErrorCode.NOT_AUTHENTICATED


class NotAuthorized(CumulusError):
    """The API key's role may not do this."""

    code = ErrorCode.NOT_AUTHORIZED


class NotFound(CumulusError):
    """There is no such job, or it is somebody else's."""

    code = ErrorCode.NOT_FOUND


class NotEnded(CumulusError):
    """The job has no result yet."""

    code = ErrorCode.NOT_ENDED


class Conflict(CumulusError):
    """The state of the job doesn't allow it."""

    code = ErrorCode.CONFLICT


class TooLarge(CumulusError):
    """Over a limit of size."""

    code = ErrorCode.TOO_LARGE


class TooMany(CumulusError):
    """Over a limit of count; trying later may help."""

    code = ErrorCode.TOO_MANY


class NoWorkersAvailable(CumulusError):
    """No usable worker in the pool."""

    code = ErrorCode.NO_WORKERS


class InsufficientResources(CumulusError):
    """No worker could ever fit the request."""

    code = ErrorCode.INSUFFICIENT_RESOURCES


class Unavailable(CumulusError):
    """A part of the daemon that the request needs is away."""

    code = ErrorCode.UNAVAILABLE


class ServerError(CumulusError):
    """A fault of the daemon's own; `details["log_id"]` names it in the daemon's log."""

    code = ErrorCode.INTERNAL


#: Error code -> class.
BY_CODE: dict[ErrorCode, type[CumulusError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotAuthenticated,
        NotAuthorized,
        NotFound,
        NotEnded,
        Conflict,
        TooLarge,
        TooMany,
        NoWorkersAvailable,
        InsufficientResources,
        Unavailable,
        ServerError,
        JobFailed,
    )
    if cls.code is not None
}


_NAMES = frozenset(code.value for code in BY_CODE)

#: Refusals of a submission: the job whose id they carry was never stored.
_REFUSALS = frozenset(
    {InvalidArgument, TooLarge, TooMany, NoWorkersAvailable, InsufficientResources}
)


def error_from_wire(uri: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CumulusError:
    """The exception for a WAMP ERROR. What has no name of its own is a `ServerError`."""
    message = kwargs.get("message") or (args[0] if args else None) or uri
    name = uri.removeprefix(uris.ERROR_PREFIX)
    cls: type[CumulusError] = ServerError
    if name in _NAMES and name != uri:
        cls = BY_CODE[ErrorCode(name)]
    elif uri == "wamp.error.no_such_procedure":
        message = f"{message} (the daemon doesn't offer it: is it older than this client?)"
    elif uri == "wamp.error.not_authorized":
        cls = NotAuthorized
    details = kwargs.get("details")
    status = kwargs.get("status")
    message, hint = str(message), kwargs.get("hint")
    error = cls(
        PYTHON.text(message),
        job_id=kwargs.get("job_id"),
        status=status if isinstance(status, int) else None,
        details=details if isinstance(details, Mapping) else None,
        hint=PYTHON.text(str(hint)) if hint else None,
    )
    error._daemons = (message, str(hint) if hint else None)
    return error


def error_from_end(
    view: Mapping[str, Any],
    show_output: bool = False,
    *,
    aliases: Mapping[str, str] | None = None,
    may_import: bool = False,
) -> CumulusError | None:
    """The exception for how a job ended, None for one that completed. `view`: a job view.

    `show_output`: `str()` has the last of the job's output, which nobody was shown. `aliases`:
    module names in the job -> here. `may_import`: the type of the job's own exception is looked for
    by importing its module; otherwise only among the modules that are imported.
    """
    error = _error_from_end(view)
    if error is None:
        return None
    told = (view.get("end") or {}).get("error")
    if isinstance(error, JobFailed) and isinstance(told, Mapping) and told.get("type"):
        error.__cause__ = original(told, aliases or {}, may_import=may_import)
    if show_output:
        error._log_tail = str((view.get("end") or {}).get("log_tail") or "")
    return error


def _error_from_end(view: Mapping[str, Any]) -> CumulusError | None:
    status = view.get("status")
    if status == JobState.COMPLETED:
        return None
    job_id = view.get("job_id")
    end = view.get("end") or {}
    error = end.get("error") or {}
    reason = end.get("reason")
    message, hint = end_told(view, PYTHON)
    message = message or f"the job ended as {status}"
    details = {"end": dict(end)}
    if status == JobState.TIMEOUT:
        text = message if message.startswith("Job timed out") else f"Job timed out: {message}"
        return JobTimeout(text, job_id=job_id, details=details, hint=hint)
    if status == JobState.CANCELLED:
        return JobCancelled(f"Job cancelled: {message}", job_id=job_id, details=details, hint=hint)
    if reason == EndReason.USER_ERROR and error:
        kind, said = error.get("type"), error.get("message")
        message = f"{kind}: {said}" if said else f"{kind}"
    return JobFailed(
        f"Job failed: {message}",
        job_id=job_id,
        reason=reason,
        remote_traceback=error.get("traceback"),
        error_type=error.get("type"),
        exit_code=end.get("exit_code"),
        signal=end.get("signal"),
        hint=hint,
        details=details,
    )
