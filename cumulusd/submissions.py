"""What is taken of clients as new jobs, and what is refused and why."""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger

from cumulus_wire.codes import WaitReason
from cumulusd.errors import (
    Conflict,
    CumulusError,
    InternalError,
    InvalidArgument,
    NotAuthorized,
    NotFound,
    TooMany,
    Unavailable,
)
from cumulusd.identity import Principal, Role
from cumulusd.jobs.model import JobRecord, JobSpec, Phase, Wait
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.package_contents import PackageContents, look_inside
from cumulusd.spec import SpecLimits, invalid_spec, parse_spec, secret_values
from cumulusd.tasks import waiting_for

#: An id goes into names of folders, sockets and services, and into topics.
MAX_JOB_ID_CHARS = 46
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


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
        image_python: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`refused(error code)` is told of every submit that was not accepted; `no_room` says why
        the daemon's disk takes no more jobs, None when it does; `image_python` is the version of
        Python in the job image, where there is one that tells."""
        self._packages = packages
        self._supervisor = supervisor
        self._wall_clock = wall_clock
        self._limits = limits
        self._refused = refused
        self._no_room = no_room
        self._image_python = image_python
        #: of those whose package comes with them: their jobs stand in line as they were sent
        self._turns = DeferredLock()
        self.closing = False

    def close(self) -> None:
        """From now on no job is accepted."""
        self.closing = True

    async def submit(
        self,
        who: Principal,
        spec_value: Any,
        *,
        job_id: Any = None,
        faults: Sequence[Mapping[str, str]] = (),
        posted: bool = False,
        code: bytes | None = None,
        only_node: str | None = None,
    ) -> JobRecord:
        """The new job, which is durable. Every error carries its id.

        `job_id`: the submitter's own for it. `faults`: what is wrong already, told together with
        the rest. `posted`: look into the package, as an old client's says itself what to install.
        `code`: the package, for when it isn't here. `only_node`: the only one that it may run on.
        """
        used_id = f"job_{secrets.token_hex(6)}"
        found = list(faults)
        if job_id is not None and not _is_job_id(job_id):
            found.append({"key": "job_id", "message": _JOB_ID_WORDS})
        elif job_id is not None:
            used_id = job_id
        try:
            self.check_open(who)
            if posted and not found:
                spec_value = await self._with_contents(who, spec_value)
            record = await self._submit(
                who, spec_value, used_id, found, job_id is not None, code, only_node
            )
        except CumulusError as error:
            error.job_id = error.job_id or used_id
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
            self._log.failure("submit failed ({log_id})", log_id=log_id, job_id=used_id)
            raise InternalError(
                "The daemon failed to take the job",
                job_id=used_id,
                details={"log_id": log_id},
                hint="its operator finds the cause in the log under this log_id",
            ) from error
        return record

    def check_open(self, who: Principal) -> None:
        """Raises CumulusError when this principal can't submit, whatever the job is."""
        if who.role not in (Role.CLIENT, Role.ADMIN):
            raise NotAuthorized(f"A token of role {who.role} may not submit jobs")
        if self.closing:
            raise Unavailable(
                "The daemon is stopping and accepts no new jobs", hint="try again in a moment"
            )

    def check_upload(self, who: Principal) -> None:
        """Raises CumulusError when a job that is uploaded now would be refused, whatever it is."""
        self.check_open(who)
        self.check_disk()
        self._check_room(who.owner)

    async def _submit(
        self,
        who: Principal,
        spec_value: Any,
        job_id: str,
        faults: Sequence[Mapping[str, str]],
        is_own_id: bool,
        code: bytes | None,
        only_node: str | None,
    ) -> JobRecord:
        spec = self._parse(spec_value, faults)
        # A repeated submit is answered from memory, whatever the disk is like.
        known = await self._earlier(who, spec)
        if known is not None:
            return known
        self.check_disk()
        self._check_room(who.owner)
        if self._packages.check(who.owner, spec.package_sha256, spec.package_size_bytes)[0]:
            record, saving = self._begin(who, spec_value, spec, job_id, is_own_id, only_node)
        else:
            await self._bring(who, spec, code)
            try:
                # What was found before that may be otherwise now.
                self.check_open(who)
                known = await self._earlier(who, spec)
                if known is not None:
                    return known
                self._check_room(who.owner)
                record, saving = self._begin(who, spec_value, spec, job_id, is_own_id, only_node)
            finally:
                self._turns.release()
        await saving
        return record

    def _begin(
        self,
        who: Principal,
        spec_value: Any,
        spec: JobSpec,
        job_id: str,
        is_own_id: bool,
        only_node: str | None,
    ) -> tuple[JobRecord, Deferred[None]]:
        """The new job, and what fires when it is durable. Raises CumulusError."""
        self._check_python(spec)
        refusal = self._supervisor.placing.refusal(spec)
        if refusal is not None:
            raise refusal
        if is_own_id and self._supervisor.is_taken(job_id):
            raise Conflict(
                f"There is a job {job_id} already",
                job_id=job_id,
                hint="send another job_id, or none: the daemon makes one",
            )
        record = JobRecord(
            job_id=job_id,
            owner=who.owner,
            spec=spec,
            phase=Phase.QUEUED,
            created_at=self._wall_clock(),
            wait=Wait(reason=WaitReason.QUEUED, message="waiting to be placed"),
            pinned_node=only_node,
        )
        submitting = self._supervisor.submit(record, secret_values(spec_value))
        return record, Deferred.fromCoroutine(submitting)

    async def _earlier(self, who: Principal, spec: JobSpec) -> JobRecord | None:
        """The job that this submit made when it was sent before."""
        if spec.idempotency_key is None:
            return None
        return await self._supervisor.earlier_submit(who.owner, spec.idempotency_key)

    async def _bring(self, who: Principal, spec: JobSpec, code: bytes | None) -> None:
        """The package is here, and durable, out of what came with the job, and it is this job's
        turn, to be released. Raises NotFound when nothing did, or no more can be taken now."""
        if code is not None and len(code) != spec.package_size_bytes:
            raise invalid_spec(
                [
                    {
                        "key": "package.size_bytes",
                        "message": f"is {spec.package_size_bytes}, and the code that came with it "
                        f"has {len(code)} bytes",
                    }
                ]
            )
        missing = NotFound(
            f"The package {spec.package_sha256[:12]}… was not uploaded",
            hint="upload it with cumulus.package.put and .commit first",
        )
        if code is None:
            raise missing
        turn = self._turns.acquire()
        try:
            if not await self._packages.bring(who.owner, spec.package_sha256, code):
                raise missing
            await waiting_for(turn)
        except BaseException:
            # Its turn has come, or comes: for the next one.
            turn.addCallback(lambda _: self._turns.release())
            raise

    def _parse(self, spec_value: Any, faults: Sequence[Mapping[str, str]]) -> JobSpec:
        """Raises InvalidArgument with those faults and the specification's own; TooLarge."""
        try:
            spec = parse_spec(spec_value, self._limits.spec)
        except InvalidArgument as error:
            if not faults:
                raise
            raise invalid_spec([*faults, *error.details["faults"]]) from error
        if faults:
            raise invalid_spec(faults)
        return spec

    async def _with_contents(self, who: Principal, spec_value: Any) -> Any:
        """The specification, and what the package's own files say of it. Raises InvalidArgument."""
        package = spec_value.get("package") if isinstance(spec_value, Mapping) else None
        sha256 = package.get("sha256") if isinstance(package, Mapping) else None
        if not isinstance(sha256, str):
            return spec_value  # which is refused for that
        contents: PackageContents = await self._packages.look(who.owner, sha256, look_inside)
        given = spec_value.get("requirements", [])
        if not contents.requirements or not isinstance(given, list):
            return spec_value
        return {**spec_value, "requirements": [*contents.requirements, *given]}

    def _check_python(self, spec: JobSpec) -> None:
        """Raises InvalidArgument where every worker's Python is known to be another one."""
        if spec.needs_python is None:
            return
        of_workers = self._supervisor.placing.python_versions()
        versions = {version or self._image_python() for version in of_workers}
        known = {".".join(version.split(".")[:2]) for version in versions if version is not None}
        if not known or None in versions or spec.needs_python in known:
            return
        theirs = ", ".join(sorted(known))
        raise InvalidArgument(
            f"The package holds code pickled by Python {spec.needs_python}, and jobs here run on "
            f"Python {theirs}",
            details={"needs_python": spec.needs_python, "python_versions": sorted(known)},
            hint=f"submit from Python {theirs}, or send a plain function of a script or module: "
            "its source runs on any Python",
        )

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
                job, wait = ("job", "waits") if count == 1 else ("jobs", "wait")
                raise TooMany(
                    f"{count} {job} {whose}{wait} already, {bound} may",
                    hint="wait until some have started, or cancel some",
                )


_JOB_ID_WORDS = (
    f"must be 1 to {MAX_JOB_ID_CHARS} letters, digits, _ and -, the first a letter or digit"
)


def _is_job_id(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > MAX_JOB_ID_CHARS:
        return False
    return _JOB_ID.fullmatch(value) is not None
