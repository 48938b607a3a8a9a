"""What is taken of clients as new jobs, and what is refused and why."""

import secrets
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulus_wire.codes import WaitReason
from cumulusd.errors import (
    CumulusError,
    InternalError,
    NotAuthorized,
    NotFound,
    TooMany,
    Unavailable,
)
from cumulusd.identity import Principal, Role
from cumulusd.jobs.model import JobRecord, Phase, Wait
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.spec import SpecLimits, parse_spec


@attrs.frozen(kw_only=True)
class SubmitLimits:
    """Bounds on what is accepted."""

    max_queued: int = 20_000
    max_queued_per_owner: int = 5_000
    spec: SpecLimits = attrs.field(factory=SpecLimits)


class Submissions:
    """Takes jobs for the supervisor, within bounds."""

    _log = Logger()

    def __init__(
        self,
        *,
        packages: Packages,
        supervisor: Supervisor,
        wall_clock: Callable[[], float],
        limits: SubmitLimits,
        refused: Callable[[str], None],
        no_room: Callable[[], CumulusError | None],
    ) -> None:
        """`refused(error code)` is told of every submit that was not accepted; `no_room` says why
        the daemon's disk takes no more jobs, None when it does."""
        self._packages = packages
        self._supervisor = supervisor
        self._wall_clock = wall_clock
        self._limits = limits
        self._refused = refused
        self._no_room = no_room
        self.closing = False

    def close(self) -> None:
        """From now on no job is accepted."""
        self.closing = True

    async def submit(self, who: Principal, spec_value: Any) -> JobRecord:
        """The new job, which is durable. Every error carries its id."""
        job_id = f"job_{secrets.token_hex(6)}"
        try:
            record = await self._submit(who, spec_value, job_id)
        except CumulusError as error:
            error.job_id = error.job_id or job_id
            self._refused(error.code.value)
            self._log.info(
                "job {job_id} of {owner} refused: {why}",
                job_id=error.job_id,
                owner=who.owner,
                why=error.message,
                code=error.code.value,
            )
            raise
        except CancelledError:
            raise  # the caller went
        except Exception as error:
            log_id = secrets.token_hex(4)
            self._log.failure("submit failed ({log_id})", log_id=log_id, job_id=job_id)
            raise InternalError(
                "The daemon failed to take the job",
                job_id=job_id,
                details={"log_id": log_id},
                hint="its operator finds the cause in the log under this log_id",
            ) from error
        return record

    async def _submit(self, who: Principal, spec_value: Any, job_id: str) -> JobRecord:
        if who.role not in (Role.CLIENT, Role.ADMIN):
            raise NotAuthorized(f"A token of role {who.role} may not submit jobs")
        if self.closing:
            raise Unavailable(
                "The daemon is stopping and accepts no new jobs", hint="try again in a moment"
            )
        spec = parse_spec(spec_value, self._limits.spec)
        # A repeated submit is answered from memory, whatever the disk is like.
        if spec.idempotency_key is not None:
            known = await self._supervisor.earlier_submit(who.owner, spec.idempotency_key)
            if known is not None:
                return known
        self.check_disk()
        if not self._packages.check(spec.package_sha256, spec.package_size_bytes)[0]:
            raise NotFound(
                f"The package {spec.package_sha256[:12]}… was not uploaded",
                hint="upload it with cumulus.package.put and .commit first",
            )
        self._check_room(who.owner)
        refusal = self._supervisor.placing.refusal(spec)
        if refusal is not None:
            raise refusal
        record = JobRecord(
            job_id=job_id,
            owner=who.owner,
            spec=spec,
            phase=Phase.QUEUED,
            created_at=self._wall_clock(),
            wait=Wait(reason=WaitReason.QUEUED, message="waiting to be placed"),
        )
        await self._supervisor.submit(record)
        return record

    def check_disk(self) -> None:
        """Raises CumulusError when the daemon's disk takes nothing more."""
        refusal = self._no_room()
        if refusal is not None:
            raise refusal

    def _check_room(self, owner: str) -> None:
        placing = self._supervisor.placing
        for count, bound, whose in (
            (placing.waiting_of(owner), self._limits.max_queued_per_owner, f"of {owner} "),
            (placing.waiting_count, self._limits.max_queued, ""),
        ):
            if count >= bound:
                raise TooMany(
                    f"{count} jobs {whose}wait already, {bound} may",
                    hint="wait until some have started, or cancel some",
                )
