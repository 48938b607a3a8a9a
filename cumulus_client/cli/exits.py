"""What the command exits with; docs/cli.md has the table."""

from collections.abc import Mapping
from typing import Any

from cumulus_client.exceptions import (
    Conflict,
    CumulusError,
    InvalidArgument,
    NotFound,
    PackagingError,
    ResultError,
)
from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_TIMEOUT = 124
EXIT_CANCELLED = 130
#: Whoever read this command's output is gone: 128 + SIGPIPE.
EXIT_UNREAD = 141

#: Ends that are the job's own doing; every other failure is the infrastructure's.
OWN_REASONS = frozenset(
    {
        EndReason.USER_ERROR,
        EndReason.EXIT_CODE,
        EndReason.SIGNALLED,
        EndReason.OUT_OF_MEMORY,
        EndReason.DISK_FULL,
        EndReason.PROCESS_LIMIT,
        EndReason.RESULT_INVALID,
        EndReason.REQUIREMENTS_FAILED,
        EndReason.ENTRY_POINT_MISSING,
    }
)


def exit_code(view: Mapping[str, Any]) -> int:
    """What an ended job makes the command exit with."""
    status = view.get("status")
    end = view.get("end") or {}
    if status == JobState.COMPLETED:
        return 0
    if status == JobState.TIMEOUT:
        return EXIT_TIMEOUT
    if status == JobState.CANCELLED:
        return EXIT_CANCELLED
    if end.get("reason") not in OWN_REASONS:
        return EXIT_UNAVAILABLE
    if end.get("exit_code"):
        return int(end["exit_code"]) & 0xFF or 1
    if end.get("signal"):
        return 128 + int(end["signal"])
    return 1


def error_code(error: CumulusError) -> int:
    """What an error that is no job's end makes the command exit with."""
    if isinstance(error, PackagingError | InvalidArgument | NotFound):
        return EXIT_USAGE
    if isinstance(error, Conflict | ResultError):
        return EXIT_FAULT
    return EXIT_UNAVAILABLE
