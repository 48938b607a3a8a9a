"""A result's bytes out of its job's journal, checked against what its end says of them."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from cumulus_wire.journal import Kind
from cumulusd.errors import CumulusError, JobFailed, NotEnded, NotFound
from cumulusd.jobs.journal import Journal
from cumulusd.jobs.model import JobRecord, ResultInfo

RESULT_CHUNK_BYTES = 512 * 1024


def result_info(record: JobRecord, view: Callable[[JobRecord], dict[str, Any]]) -> ResultInfo:
    """What the result of that job is. Raises NotEnded, JobFailed (which carries the view) when it
    has none."""
    job_id = record.job_id
    if record.end is None:
        raise NotEnded(f"Job {job_id} is {record.state} and has no result yet", job_id=job_id)
    if record.end.result is None:
        raise JobFailed(
            f"Job {job_id} is {record.state} and has no result: {record.end.message}",
            job_id=job_id,
            details={"job": view(record)},
            hint=record.end.hint,
        )
    return record.end.result


def stored_result(record: JobRecord, info: ResultInfo, journal: Journal) -> Iterator[bytes]:
    """The result in pieces of at most RESULT_CHUNK_BYTES, each read when it is asked for.

    Raises NotFound when history took it, CumulusError when it is damaged: behind the last piece, so
    only who read all of it has the result.
    """
    digest, size_bytes = hashlib.sha256(), 0
    offset = max(journal.start_offset, record.journal_start)
    while offset < journal.end_offset:
        chunk = journal.read(offset, RESULT_CHUNK_BYTES)
        for entry in chunk.records():
            if entry.kind is Kind.RESULT:
                digest.update(entry.payload)
                size_bytes += len(entry.payload)
                for start in range(0, len(entry.payload), RESULT_CHUNK_BYTES):
                    yield entry.payload[start : start + RESULT_CHUNK_BYTES]
        offset = chunk.next_offset
    job_id, about = record.job_id, attrs.asdict(info)
    if size_bytes == 0 and info.size_bytes and journal.start_offset > record.journal_start:
        raise NotFound(
            f"The result of job {job_id} is not kept any more: the journals of ended jobs were "
            "over the daemon's bound (jobs.history_max_bytes)",
            job_id=job_id,
            details=about,
            hint="submit the job again, and fetch its result sooner",
        )
    if size_bytes != info.size_bytes or digest.hexdigest() != info.sha256:
        raise CumulusError(
            f"The stored result of job {job_id} is damaged", job_id=job_id, details=about
        )
