"""The worker's partitions in libchronos, beside the ledger, where the agent keeps them there."""

from typing import Any

import attrs

from cumulusd.agent.partitions import Partitions
from cumulusd.chronos.grant import Grant
from cumulusd.chronos.libchronos import BUILTIN, BookingFailed, Libchronos
from cumulusd.errors import InternalError


class Books:
    """`libchronos`: None where nothing but the ledger books."""

    def __init__(self, partitions: Partitions, libchronos: Libchronos | None) -> None:
        self._partitions = partitions
        self._libchronos = libchronos

    def start(self) -> None:
        """From now on it holds what the ledger does."""
        if self._libchronos is not None:
            self._partitions.watch(self.update)
            self._libchronos.start()

    async def stop(self) -> None:
        """What it holds is given back, within a bound."""
        if self._libchronos is not None:
            await self._libchronos.stop()

    def update(self) -> None:
        """The ledger, or what is known of devices, has changed."""
        if self._libchronos is not None:
            self._libchronos.want(self._partitions.bookings())

    async def require(self, grant: Grant) -> None:
        """Where libchronos is required it has booked the partition when this fires. Elsewhere it
        does in its own time; what it can't is shown. Raises InternalError."""
        if self._libchronos is None or not self._libchronos.required:
            return
        try:
            await self._libchronos.book(grant.partition.partition_id)
        except BookingFailed as error:
            raise InternalError(
                f"libchronos has not booked the partition: {error}",
                job_id=grant.partition.job_id,
                hint="see what else holds shares there, or set chronos.backend to auto",
            ) from error

    def state(self) -> dict[str, Any]:
        """As `docs/protocol.md` has it: who books, and what is wrong with it."""
        if self._libchronos is None:
            return {"backend": BUILTIN, "fault": None}
        return attrs.asdict(self._libchronos.state)

    def fault(self) -> str | None:
        """Why no job can be taken."""
        return None if self._libchronos is None else self._libchronos.blocking_fault
