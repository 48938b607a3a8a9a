"""The job's result: from the file that the code left into the journal."""

from __future__ import annotations

import os

from cumulus_runner.light_sha256 import sha256
from cumulus_runner.outcome import JobFailed, Stop
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import MAX_PAYLOAD_BYTES
from cumulus_wire.light_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cumulus_runner.supervisor import Supervisor

MAX_RESULT_BYTES = 100 << 20
MAX_LOGGED_RESULT_BYTES = 64 << 10


class Result:
    """What EXIT says of a result that is in the journal, and the container's log shows of it."""

    __slots__ = ("description", "last_line")

    def __init__(self, description: dict[str, Any], last_line: str) -> None:
        self.description = description
        self.last_line = last_line


def send_result(
    path: str, encoding: str, supervisor: Supervisor, max_bytes: int, grace_s: float
) -> Result:
    """The result's bytes from that file into the journal, whose bound is `max_bytes`.

    There is time for it until the job's deadline, and `grace_s` longer.

    Raises JobFailed (result_invalid) when it isn't there, is too large, or found no room.
    """
    size = 0
    part_bytes = min(MAX_PAYLOAD_BYTES, max(4096, max_bytes // 8))
    until = supervisor.deadline + grace_s
    supervisor.set_deadline(float("inf"), Stop(None, "", 0.0))
    logged = b""
    try:
        with open(path, "rb") as file:
            digest = sha256(os.fstat(file.fileno()).st_size)
            while part := file.read(part_bytes):
                digest.update(part)
                size += len(part)
                if size > MAX_RESULT_BYTES:
                    raise JobFailed(
                        EndReason.RESULT_INVALID, f"the result is over {MAX_RESULT_BYTES} bytes"
                    )
                if not supervisor.record_result(part, until):
                    raise JobFailed(
                        EndReason.RESULT_INVALID,
                        "the result found no room in the worker's journal within the job's "
                        f"time: after {size - len(part)} bytes nobody had taken any away",
                        "Was the daemon away? Submit again, or return less.",
                    )
                if size <= MAX_LOGGED_RESULT_BYTES:
                    logged += part
    except FileNotFoundError:
        raise JobFailed(
            EndReason.RESULT_INVALID, "the code took away the file of its own result"
        ) from None
    description: dict[str, Any] = {
        "encoding": encoding,
        "size_bytes": size,
        "sha256": digest.hexdigest(),
    }
    if encoding == "json" and size <= MAX_LOGGED_RESULT_BYTES:
        return Result(description, logged.decode(errors="replace"))
    return Result(description, dumps(description))
