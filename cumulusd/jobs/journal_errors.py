"""What can be wrong with the bytes of a journal, or with the disk under them."""

from pathlib import Path

from cumulus_wire.journal import JournalCorrupt, Record
from cumulusd.errors import Conflict
from cumulusd.jobs.store import StoreFailed


class JournalHole(Conflict):
    """Bytes were sent that don't follow on what is held: send from `received_offset` on."""


class JournalDamaged(JournalCorrupt):
    """Bytes were sent that are no frames. What was whole before them is kept, in `records` too."""

    def __init__(self, offset: int, why: str, records: list[Record]) -> None:
        super().__init__(offset, why)
        self.why = why
        self.records = records


def disk_error(job_id: str, verb: str, folder: Path, error: OSError) -> StoreFailed:
    """What is raised when a journal's files can't be `verb`."""
    return StoreFailed(
        f"The journal of job {job_id} can't be {verb}: {error}",
        job_id=job_id,
        details={"path": str(folder)},
        hint=f"Check the free space and the health of the disk that holds {folder}.",
    )
