"""Prunes what history no longer keeps: records, journals, outputs, packages."""

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulusd.errors import CumulusError
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.model import Phase
from cumulusd.jobs.outputs import Outputs
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.ports import Clock
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.store import Store
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import Tasks, sleep

_INTERVAL_S = 30.0
#: A package no job names any more is kept this long for the next submit of the same code.
_PACKAGE_AGE_S = 3600.0
#: Records deleted in one transaction.
_BATCH = 200


class History:
    """Keeps ended jobs for `settings.history_s` after their end, in small steps.

    Of more than `settings.history_max_jobs` the oldest ends go before their time. Journals of ended
    jobs are bounded by `settings.history_max_bytes` too: beyond it output goes before its time, the
    oldest end first, and when that isn't enough, results; the record with status and durations
    stays. Outputs are bounded by `settings.outputs_history_max_bytes`: beyond it those of the
    oldest end go first. A job that has not ended is never touched.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        store: Store,
        journals: Journals,
        packages: Packages,
        outputs: Outputs,
        clock: Clock,
        wall_clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        self._table = table
        self._store = store
        self._journals = journals
        self._packages = packages
        self._outputs = outputs
        self._clock = clock
        self._wall_clock = wall_clock
        self._settings = settings
        self._tasks = Tasks()
        #: Job id -> whether its result is still there, of journals whose output was pruned.
        self._pruned: dict[str, bool] = {}

    def start(self) -> None:
        """Begins to prune in the background."""
        self._tasks.start(self._run(), "pruning history")

    async def stop(self) -> None:
        """Ends it."""
        await self._tasks.stop()

    async def _run(self) -> None:
        await self._try(self._journals.measure)
        while True:
            await sleep(self._clock, _INTERVAL_S)
            await self._try(self.prune)

    async def _try(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except CumulusError as error:
            self._log.warn("history can't be pruned now: {why}", why=error.message)
        except CancelledError:
            raise
        except Exception:
            # A failed pass must not end the pruning; the next one comes.
            self._log.failure("pruning history failed, going on")

    async def prune(self) -> None:
        """One pass."""
        await self._prune_by_time()
        await self._prune_by_count()
        await self.make_room_for_outputs(0)
        in_use = {record.spec.package_sha256 for record in self._table.live()}
        await self._packages.prune(in_use, self._wall_clock(), _PACKAGE_AGE_S)
        # Last: a folder that can't be looked at must not keep the rest.
        await self._journals.measure()
        await self._prune_by_size()

    async def delete(self, job_id: str) -> None:
        """Deletes all that is kept of a job that has ended, before its time. What it kept on
        workers that are away the watcher clears when they are back. Raises StoreFailed."""
        await self._delete([job_id])

    async def _prune_by_time(self) -> None:
        now = self._wall_clock()
        before = now - self._settings.history_s
        old = self._table.ended_before(before)
        await self._delete(old)
        if old:
            self._log.info("history: {count} job(s) pruned", count=len(old))
        # Journals of no record: the record was lost with a damaged store, or its deletion was cut
        # off between the two.
        for job_id in [one for one in self._journals.known() if one not in self._table]:
            if self._journals.age_s(job_id, now) > self._settings.history_s:
                await self._journals.delete(job_id)
                self._log.info("history: the journal of no job {id} pruned", id=job_id)
        for job_id in self._outputs.known():
            if job_id not in self._table and (
                self._outputs.age_s(job_id, now) > self._settings.history_s
            ):
                await self._outputs.delete(job_id)
                self._log.info("history: the outputs of no job {id} pruned", id=job_id)

    async def _prune_by_count(self) -> None:
        bound = self._settings.history_max_jobs
        count = max(0, self._table.ended_count - bound)
        surplus = self._table.oldest_ends(count)
        await self._delete(surplus)
        if surplus:
            self._log.warn(
                "history: {count} job(s) pruned before their time, more than {bound} have ended "
                "(jobs.history_max_jobs)",
                count=len(surplus),
                bound=bound,
            )

    async def _delete(self, job_ids: list[str]) -> None:
        for start in range(0, len(job_ids), _BATCH):
            batch = job_ids[start : start + _BATCH]
            await self._store.delete(batch)
            for job_id in batch:
                self._table.forget(job_id)
                self._pruned.pop(job_id, None)
                await self._journals.delete(job_id)
                await self._outputs.delete(job_id)

    async def make_room_for_outputs(self, size_bytes: int) -> None:
        """Deletes outputs of ended jobs, the oldest end first, until so many bytes more are within
        the bound on all of them, or there are none left to delete. Raises StoreFailed."""
        bound = self._settings.outputs_history_max_bytes
        if self._outputs.total_bytes + size_bytes <= bound:
            return
        for job_id in self._table.oldest_ends():
            if not self._outputs.size_bytes(job_id):
                continue
            freed = await self._outputs.delete(job_id)
            self._log.warn(
                "job {job_id}: its outputs were pruned before their time, those of all jobs are "
                "over {bound} bytes (jobs.outputs_history_max_bytes)",
                job_id=job_id,
                freed_bytes=freed,
                bound=bound,
            )
            if self._outputs.total_bytes + size_bytes <= bound:
                return

    async def _prune_by_size(self) -> None:
        for job_id in self._journals.over_cap():
            large = self._table.get(job_id)
            if large is not None and large.phase is Phase.ENDED:
                await self._journals.fit(job_id, large.journal_start)
        bound = self._settings.history_max_bytes
        if self._journals.total_bytes <= bound:
            return  # those of the ended are less still: none of them need be looked at
        ended = self._table.oldest_ends()
        used = sum(self._journals.size_bytes(job_id) for job_id in ended)
        for keep_result in (True, False):
            for job_id in ended:
                if used <= bound:
                    return
                if self._pruned.get(job_id, True) and not (keep_result and job_id in self._pruned):
                    used -= await self._prune_one(job_id, keep_result)

    async def _prune_one(self, job_id: str, keep_result: bool) -> int:
        record = self._table.get(job_id)
        if record is None:
            return 0
        freed = await self._journals.prune(
            record.job_id, record.journal_start, keep_result=keep_result
        )
        self._pruned[record.job_id] = keep_result
        if freed:
            self._log.warn(
                "job {job_id}: its {what} was pruned before its time, journals of ended jobs are "
                "over {bound} bytes (jobs.history_max_bytes)",
                job_id=record.job_id,
                what="output" if keep_result else "result",
                freed_bytes=freed,
                bound=self._settings.history_max_bytes,
            )
        return freed
