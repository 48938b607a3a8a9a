"""How large each journal is on disk, and all of them together."""

from collections.abc import Callable, Iterable
from functools import partial

from cumulusd.jobs.ports import RunInThread

#: Looked at by one errand to a thread.
_AT_ONCE = 500


class JournalSizes:
    """Of those that an earlier daemon left, the size is unknown until somebody measured it."""

    def __init__(self, cap_bytes: int, measure: Callable[[str], int]) -> None:
        """`cap_bytes`: on one of them. `measure(job id)` looks at the disk, where one that is gone
        has 0 bytes; raises OSError."""
        self._cap_bytes = cap_bytes
        self._measure = measure
        self._sizes: dict[str, int] = {}
        self._unmeasured: dict[str, None] = {}
        self._over_cap: set[str] = set()
        self.total_bytes = 0  #: of those that are measured

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._sizes or job_id in self._unmeasured

    def known(self) -> list[str]:
        """Job ids of all."""
        return [*self._sizes, *self._unmeasured]

    def over_cap(self) -> list[str]:
        """Job ids of those known to be over the cap."""
        return sorted(self._over_cap)

    def of(self, job_id: str) -> int:
        """0 when there is none. Raises OSError."""
        if job_id in self._unmeasured:
            self.put(job_id, self._measure(job_id))
        return self._sizes.get(job_id, 0)

    def found(self, job_id: str) -> None:
        """There is one, of unknown size."""
        self._unmeasured[job_id] = None

    async def measure_all(self, run_in_thread: RunInThread) -> None:
        """Fires when all sizes are known. Raises OSError; what was measured by then counts."""
        names = list(self._unmeasured)
        for begin in range(0, len(names), _AT_ONCE):
            measuring = partial(self._measured, names[begin : begin + _AT_ONCE])
            for job_id, size_bytes in await run_in_thread(measuring):
                # What became known meanwhile is newer.
                if job_id in self._unmeasured:
                    self.put(job_id, size_bytes)

    def _measured(self, job_ids: Iterable[str]) -> list[tuple[str, int]]:
        """Blocking."""
        return [(job_id, self._measure(job_id)) for job_id in job_ids]

    def put(self, job_id: str, size_bytes: int) -> None:
        """It is so large now."""
        self._unmeasured.pop(job_id, None)
        self.total_bytes += size_bytes - self._sizes.get(job_id, 0)
        self._sizes[job_id] = size_bytes
        if size_bytes > self._cap_bytes:
            self._over_cap.add(job_id)
        else:
            self._over_cap.discard(job_id)

    def drop(self, job_id: str) -> None:
        """It is gone."""
        self._unmeasured.pop(job_id, None)
        self.total_bytes -= self._sizes.pop(job_id, 0)
        self._over_cap.discard(job_id)
