"""Prunes what history no longer keeps: records, journals, packages."""

from collections.abc import Callable

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulusd.errors import CumulusError
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.model import Phase
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.ports import Clock
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.store import Store
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import Tasks, sleep

_INTERVAL_S = 300.0
#: A package no job names any more is kept this long for the next submit of the same code.
_PACKAGE_AGE_S = 3600.0


class History:
    """Keeps ended jobs for `settings.history_s` after their end."""

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        store: Store,
        journals: Journals,
        packages: Packages,
        clock: Clock,
        wall_clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        self._table = table
        self._store = store
        self._journals = journals
        self._packages = packages
        self._clock = clock
        self._wall_clock = wall_clock
        self._settings = settings
        self._tasks = Tasks()

    def start(self) -> None:
        """Begins to prune in the background."""
        self._tasks.start(self._run(), "pruning history")

    async def stop(self) -> None:
        """Ends it."""
        await self._tasks.stop()

    async def _run(self) -> None:
        while True:
            await sleep(self._clock, _INTERVAL_S)
            try:
                await self.prune()
            except CumulusError as error:
                self._log.warn("history can't be pruned now: {why}", why=error.message)
            except CancelledError:
                raise
            except Exception:
                # A failed pass must not end the pruning; the next one comes.
                self._log.failure("pruning history failed, going on")

    async def prune(self) -> None:
        """One pass."""
        before = self._wall_clock() - self._settings.history_s
        old = [
            record.job_id
            for record in self._table.all()
            if record.phase is Phase.ENDED and (record.ended_at or 0.0) < before
        ]
        if old:
            await self._store.delete(old)
            for job_id in old:
                self._table.forget(job_id)
                await self._journals.delete(job_id)
            self._log.info("history: {count} job(s) pruned", count=len(old))
        in_use = {record.spec.package_sha256 for record in self._table.live()}
        await self._packages.prune(in_use, self._wall_clock(), _PACKAGE_AGE_S)
