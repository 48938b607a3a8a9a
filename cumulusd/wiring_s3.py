"""What the configured S3 brings into the daemon, or that there is none. Of `assembly`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cumulus_wire.states import JobState
from cumulusd.config_s3 import S3Section
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.table import JobTable
from cumulusd.s3.access import Access

if TYPE_CHECKING:
    from cumulusd.s3.janitor import Fate, Janitor


class S3Parts:
    """The bucket for jobs, and the removal of what jobs left there."""

    def __init__(
        self, section: S3Section | None, reactor: Any, instance_id: str, table: JobTable
    ) -> None:
        """`section`: None: there is no S3, and all of this does nothing. The keys of each daemon
        begin with its instance: several may share a bucket and a prefix."""
        self._table = table
        self._access: Access | None = None
        self._janitor: Janitor | None = None
        if section is None:
            return
        # Only here: who has no S3 goes without its libraries.
        from cumulusd.s3 import janitor
        from cumulusd.s3.client import S3Client

        self._access = Access(
            bucket=section.bucket,
            region=section.region,
            endpoint_url=section.endpoint_url,
            prefix=f"{section.prefix}{instance_id}/",
            access_key=section.access_key,
            secret_key=section.secret_key,
        )
        client = S3Client(self._access, reactor)
        self._janitor = janitor.Janitor(client, self._access, reactor, self._fate)
        table.watch(self._changed)
        table.watch_forgotten(self._janitor.changed)

    def variables(self, own: Iterable[str]) -> dict[str, str]:
        """What a job that itself sets the variables `own` is told of S3."""
        return {} if self._access is None else self._access.variables(own)

    def start(self) -> None:
        """Begins to remove; the jobs there are must be known by now."""
        if self._janitor is not None:
            self._janitor.start()

    async def stop(self) -> None:
        """Ends it."""
        if self._janitor is not None:
            await self._janitor.stop()

    def _changed(self, before: JobRecord | None, after: JobRecord) -> None:
        if self._janitor is not None and after.phase is Phase.ENDED:
            self._janitor.changed(after.job_id)

    def _fate(self, job_id: str) -> "Fate":
        from cumulusd.s3.janitor import Fate

        record = self._table.get(job_id)
        if record is None:
            return Fate.ALL
        # Nothing of it can write any more only when its worker was cleared.
        cancelled = record.end is not None and record.end.state is JobState.CANCELLED
        return Fate.CHECKPOINTS if cancelled and record.phase is Phase.ENDED else Fate.KEEP
