"""The one error tree.

Every error a user can meet is a `CumulusError`; its `code` names the WAMP URI
`cumulus.error.<code>` and the exception the client raises, its `status` is the HTTP status::

    CumulusError
     +- InvalidArgument        400
     +- NotAuthenticated       401
     +- NotAuthorized          403
     +- NotFound               404
     +- NotEnded               400   (the old SDK's status for results of an unfinished job)
     +- JobFailed              400
     +- Conflict               409
     +- TooLarge               413
     +- TooMany                429
     +- NoWorkers              503   "No GPU workers available"
     +- InsufficientResources  503   no worker could ever fit it
     +- Unavailable            503
     +- InternalError          500   carries a log id instead of the cause
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from cumulus_wire import uris
from cumulus_wire.codes import ErrorCode


class CumulusError(Exception):
    """An error with everything its reader needs: what, which job, why, what to do."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        details: Mapping[str, Any] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.job_id = job_id
        self.details: dict[str, Any] = dict(details or {})
        self.hint = hint

    @property
    def uri(self) -> str:
        """The WAMP error URI."""
        return uris.ERROR_PREFIX + self.code.value

    def as_dict(self) -> dict[str, Any]:
        """The body of an HTTP error and the keyword arguments of a WAMP one."""
        return {
            "error": self.message,
            "code": self.code.value,
            "status": self.status,
            "message": self.message,
            "job_id": self.job_id,
            "details": self.details,
            "hint": self.hint,
        }


class InvalidArgument(CumulusError):
    """The request is malformed; `details["faults"]` lists every fault as {"key", "message"}."""

    code, status = ErrorCode.INVALID_ARGUMENT, 400


class NotAuthenticated(CumulusError):
    """No token, or none that is known."""

    code, status = ErrorCode.NOT_AUTHENTICATED, 401


class NotAuthorized(CumulusError):
    """The token's role may not do this."""

    code, status = ErrorCode.NOT_AUTHORIZED, 403


class NotFound(CumulusError):
    """There is no such thing, or it is somebody else's."""

    code, status = ErrorCode.NOT_FOUND, 404


class NotEnded(CumulusError):
    """The job has no result yet."""

    code, status = ErrorCode.NOT_ENDED, 400


class Conflict(CumulusError):
    """The state of the thing doesn't allow it."""

    code, status = ErrorCode.CONFLICT, 409


class TooLarge(CumulusError):
    """Over a limit of size."""

    code, status = ErrorCode.TOO_LARGE, 413


class TooMany(CumulusError):
    """Over a limit of count; trying later may help."""

    code, status = ErrorCode.TOO_MANY, 429


class JobFailed(CumulusError):
    """The job has ended without a result; `details["job"]` is its view."""

    code, status = ErrorCode.JOB_FAILED, 400


class NoWorkers(CumulusError):
    """No usable worker in the pool."""

    code, status = ErrorCode.NO_WORKERS, 503


class InsufficientResources(CumulusError):
    """No worker could ever fit the request."""

    code, status = ErrorCode.INSUFFICIENT_RESOURCES, 503


class Unavailable(CumulusError):
    """A part that the request needs is away."""

    code, status = ErrorCode.UNAVAILABLE, 503


class InternalError(CumulusError):
    """A fault of the daemon's own; the cause stands in its log under `details["log_id"]`."""

    code, status = ErrorCode.INTERNAL, 500


#: Error code -> class, for those who get an error by its code.
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
        JobFailed,
        NoWorkers,
        InsufficientResources,
        Unavailable,
        InternalError,
    )
}
