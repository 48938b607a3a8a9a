"""One verb at a time changes a job on its worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import DeferredLock


class JobLocks:
    """A lock for each job that somebody is at; they are taken in the order of asking."""

    def __init__(self) -> None:
        self._locks: dict[str, DeferredLock] = {}

    @asynccontextmanager
    async def only_one(self, job_id: str) -> AsyncIterator[None]:
        """Nobody else is at that job inside."""
        lock = self._locks.setdefault(job_id, DeferredLock())
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()
            if not lock.locked and not lock.waiting:
                self._locks.pop(job_id, None)
