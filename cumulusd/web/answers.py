"""What HTTP answers, as values: whole bodies, streams, errors."""

import json
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import attrs
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulusd.errors import CumulusError, InternalError, InvalidArgument, NotAuthenticated

#: Sends one piece; fires when the reader can take more.
Send = Callable[[bytes], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Answer:
    """An HTTP answer: whole; or `body` followed by what `stream` gives, as fast as it is read; or
    what `events` or `pushed` sends for as long as it takes."""

    status: int
    body: bytes = b""
    stream: Iterator[bytes] | None = None
    stream_bytes: int | None = None  #: how much that is, where it is known
    events: Callable[[Send], Awaitable[None]] | None = None
    pushed: Callable[[Send], Awaitable[None]] | None = None  #: bytes, with nothing between them
    content_type: str = "application/json"
    headers: Mapping[str, str] = attrs.field(factory=dict)


class MethodNotAllowed(CumulusError):
    """The path is there, not for this method."""

    code, status = InvalidArgument.code, 405


class TooSlow(CumulusError):
    """The request's body came slower than is waited for."""

    code, status = InvalidArgument.code, 408


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """`value` as JSON."""
    body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return Answer(
        status=status,
        body=body,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )


def unknown_error(log: Logger, failure: Failure, what: str, job_id: str | None) -> InternalError:
    """Logs the cause; what leaves tells only where it stands."""
    log_id = secrets.token_hex(8)
    log.failure("{what} failed, log id {log_id}", failure, what=what, log_id=log_id, job_id=job_id)
    return InternalError(
        f"The daemon failed to answer; its log has the cause under {log_id}",
        job_id=job_id,
        details={"log_id": log_id},
        hint="tell the daemon's operator that log id",
    )


def error_answer(error: CumulusError, job_id: str | None = None) -> Answer:
    """The error's own status and body; it gets that job's id unless it has one."""
    value = error.as_dict()
    value["job_id"] = value["job_id"] or job_id
    if isinstance(error, NotAuthenticated):
        return json_answer(value, error.status, WWW_Authenticate='Bearer realm="cumulus"')
    return json_answer(value, error.status)
