"""The room on a worker's disk, as its free space and its last refusals tell it."""

from typing import Protocol

from cumulusd.disk import Disk
from cumulusd.errors import InsufficientResources

#: What a disk refused counts as a fault for so long, whatever it says of its free space.
REFUSAL_S = 20.0


class _Clock(Protocol):
    def seconds(self) -> float: ...


class DiskRoom:
    """Says whether jobs find room, and remembers for a while that one found none."""

    def __init__(self, clock: _Clock, disk: Disk, hostname: str) -> None:
        self._clock = clock
        self._disk = disk
        self._hostname = hostname
        self._refusal: tuple[float, str] | None = None  #: (until when it is told, why)

    def fault(self) -> str | None:
        """Why this worker takes no job now."""
        why = self._disk.fault()
        if why is None and self._refusal is not None and self._clock.seconds() < self._refusal[0]:
            return self._refusal[1]
        return why

    def lacking_bytes(self) -> int:
        """How much would have to be freed before jobs are taken again."""
        return self._disk.lacking_bytes()

    def has(self, size_bytes: int) -> bool:
        """Whether the disk says that so much fits."""
        return self._disk.fault(size_bytes) is None

    def require(self, job_id: str, size_bytes: int) -> None:
        """Raises InsufficientResources when the disk says that so much doesn't fit."""
        why = self._disk.fault(size_bytes)
        if why is not None:
            raise self.refusal(job_id, why)

    def refusal(self, job_id: str, why: str) -> InsufficientResources:
        """The refusal of a job for want of disk, which the daemon places elsewhere or lets wait."""
        self._refusal = self._clock.seconds() + REFUSAL_S, why
        return InsufficientResources(
            f"worker {self._hostname} takes no job now: {why}",
            job_id=job_id,
            details={"fault": why},
            hint="make room on the worker's disk; it takes jobs again then",
        )
