"""What is told and sent of the outputs of a job that has ended."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import attrs

from cumulusd.errors import CumulusError, InvalidArgument, NotEnded, NotFound, TooLarge
from cumulusd.jobs.model import End, JobRecord, OutputInfo
from cumulusd.jobs.outputs import Outputs

OUTPUT_CHUNK_BYTES = 256 * 1024
#: An output that a caller without progressive results may get in one message.
OUTPUT_AT_ONCE_BYTES = 1024 * 1024

#: Takes one progressive result; fires when the reader can take more.
Sink = Callable[[Mapping[str, Any]], Awaitable[None]]


def listing(record: JobRecord, outputs: Outputs) -> dict[str, Any]:
    """`{outputs, note}` of docs/protocol.md. Raises NotEnded."""
    end = _end(record)
    note = end.outputs_note
    if end.outputs and not outputs.holds(record.job_id):
        gone = (
            "they are not kept any more: outputs of ended jobs were over the daemon's bound "
            "(jobs.outputs_history_max_bytes)"
        )
        note = f"{note}; {gone}" if note else gone
    return {"outputs": [attrs.asdict(info) for info in end.outputs], "note": note}


def output_of(record: JobRecord, name: str) -> OutputInfo:
    """The stored output of that name. Raises NotEnded, NotFound."""
    end = _end(record)
    for info in end.outputs:
        if info.name == name:
            return info
    names = ", ".join(repr(info.name) for info in end.outputs[:5]) or "none"
    more = ", ..." if len(end.outputs) > 5 else ""
    why = f" ({end.outputs_note})" if end.outputs_note else ""
    raise NotFound(
        f"Job {record.job_id} has no output {name[:200]!r}; it has {names}{more}{why}",
        job_id=record.job_id,
        hint="outputs are the files that the code writes below the folder CUMULUS_OUTPUT_DIR",
    )


async def send_output(
    record: JobRecord,
    outputs: Outputs,
    name: str,
    offset: int,
    sink: Sink | None,
    check: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """The output from `offset` on: in parts to `sink`, or at once without one; then what it is.

    The reader sets the pace; meanwhile the job may be deleted, and another owner's get its id: so
    `check` is asked before each part is told, and raises. Raises NotEnded, NotFound,
    InvalidArgument, TooLarge, StoreFailed.
    """
    info = output_of(record, name)
    job_id, about = record.job_id, attrs.asdict(info)
    if offset > info.size_bytes:
        message = f"Output {name!r} of job {job_id} has {info.size_bytes} bytes, not {offset}"
        faults = [{"key": "offset", "message": "is behind the output's end"}]
        raise InvalidArgument(message, job_id=job_id, details={"faults": faults})
    if sink is None and info.size_bytes - offset > OUTPUT_AT_ONCE_BYTES:
        raise TooLarge(
            f"Output {name!r} of job {job_id} has {info.size_bytes} bytes",
            job_id=job_id,
            hint="ask with receive_progress to get it in parts",
        )
    parts = []
    while offset < info.size_bytes:
        data = await outputs.read(job_id, info, offset, OUTPUT_CHUNK_BYTES)
        check()
        if not data:
            raise CumulusError(
                f"The stored output {name!r} of job {job_id} is damaged: it ends at {offset}",
                job_id=job_id,
                details=about,
                hint="the daemon's operator looks at the disk of its state_dir",
            )
        if sink is None:
            parts.append(data)
        else:
            await sink({"offset": offset, "data": data})
        offset += len(data)
    return about if sink is not None else {**about, "data": b"".join(parts)}


def output_pieces(
    record: JobRecord, outputs: Outputs, name: str, offset: int
) -> tuple[OutputInfo, Iterator[bytes]]:
    """What that output is, and its bytes from `offset` on, each piece read when it is asked for.

    Raises NotEnded, NotFound at once, StoreFailed later.
    """
    info = output_of(record, name)
    return info, outputs.pieces(record.job_id, info, offset, OUTPUT_CHUNK_BYTES)


def _end(record: JobRecord) -> End:
    if record.end is None:
        raise NotEnded(
            f"Job {record.job_id} is {record.state} and has no outputs yet",
            job_id=record.job_id,
            hint="outputs are stored when the job ends: wait for that",
        )
    return record.end
