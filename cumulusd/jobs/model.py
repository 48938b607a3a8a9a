"""What a job is: its specification, its record, its end. Plain values, no behaviour with I/O."""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

import attrs

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.states import JobState

#: A device's share is booked in ten-thousandths.
UNITS_PER_DEVICE = 10_000


def units_for_fraction(fraction: float) -> int:
    """Units of a share: quantised once, half to even, at least one unit."""
    return max(1, round(fraction * UNITS_PER_DEVICE))


@attrs.frozen(kw_only=True)
class JobSpec:
    """What was asked for, validated."""

    package_sha256: str
    package_size_bytes: int
    gpu_memory: float  #: share of one device's memory, 0 < x <= 1
    duration_s: float  #: bound on the user's code
    requirements: tuple[str, ...] = ()
    setup_timeout_s: float = 600.0  #: bound on installing the requirements
    queue_timeout_s: float | None = None  #: 0 fails rather than waits; None waits for ever
    priority: int = 0  #: higher first, within one owner's fair share
    name: str | None = None
    environment: Mapping[str, str] = attrs.field(factory=dict)
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    python_version: str | None = None  #: the submitting client's, "3.11.7"
    idempotency_key: str | None = None
    retries: int = 0  #: further attempts, for ends in `cumulus_wire.codes.RETRIED` only
    #: the package holds code or values pickled for this minor version of Python, "3.11"
    needs_python: str | None = None
    secret_names: tuple[str, ...] = ()  #: their values are never in a record

    @cached_property
    def units(self) -> int:
        """The share in ten-thousandths of a device."""
        return units_for_fraction(self.gpu_memory)


class Phase(StrEnum):
    """Where a job is inside the daemon; the public `JobState` is coarser."""

    QUEUED = "queued"
    PREPARING = "preparing"  #: the agent makes partition and folder
    LAUNCHING = "launching"  #: the platform is asked for the container
    STARTING = "starting"  #: the container is asked for; the runner sets up
    RUNNING = "running"  #: the user's code runs
    RETRYING = "retrying"  #: an attempt ended, another follows; the worker is being cleared
    PAUSING = "pausing"  #: the code has paused; the worker is being cleared of all it doesn't keep
    PAUSED = "paused"  #: holds no share and no container; goes on when it is resumed
    ENDING = "ending"  #: the end is known and announced; the worker is being cleared
    ENDED = "ended"  #: nothing of it is left on any worker


@attrs.frozen(kw_only=True)
class Wait:
    """Why a job is pending, in words and data."""

    reason: WaitReason
    message: str
    details: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Placement:
    """Where a job goes: one device of one worker."""

    node_id: str
    hostname: str
    device_id: str


@attrs.frozen(kw_only=True)
class Grant:
    """What the agent made for a job: the partition and what the container needs of it."""

    partition_id: str
    device_id: str
    device_name: str
    device_index: int
    units: int
    gpu_memory_bytes: int
    tier: str  #: how the share is enforced, see cumulusd/chronos/grant.py
    tier_note: str  #: the same in plain words
    folder: str  #: the job's folder on the worker, absolute
    environment: Mapping[str, str] = attrs.field(factory=dict)
    #: (path on the worker, path in the container, read only)
    mounts: tuple[tuple[str, str, bool], ...] = ()
    #: so long after the partition was made, its runner has ended by itself; None: not known
    lifetime_s: float | None = None


@attrs.frozen(kw_only=True)
class Fate:
    """What befell a job's worker that would end a job there."""

    drained: bool = False  #: its operator set it to drain
    down: bool = False  #: it was down or cut off; the platform ends what ran there when it is back

    def __or__(self, other: "Fate") -> "Fate":
        return Fate(drained=self.drained or other.drained, down=self.down or other.down)


@attrs.frozen(kw_only=True)
class ResultInfo:
    """What the runner says of the result; its bytes are the journal's RESULT records."""

    encoding: str  #: "json" or "pickle"
    size_bytes: int
    sha256: str


@attrs.frozen(kw_only=True)
class OutputInfo:
    """A file that the job left in its output folder."""

    name: str  #: relative to that folder, with "/"
    size_bytes: int
    sha256: str


@attrs.frozen(kw_only=True)
class Checkpoint:
    """A checkpoint as the code reported it: nothing of it is checked but its type."""

    filename: str
    path: str  #: on the worker, absolute
    epoch: int | None
    step: int | None
    framework: str | None
    timestamp: float  #: unix time
    size_bytes: int
    s3_key: str | None  #: None: it is on its worker only


@attrs.frozen(kw_only=True)
class End:
    """How a job ended. `reason` is None only for `completed`."""

    state: JobState
    reason: EndReason | None
    message: str
    exit_code: int | None = None
    signal: int | None = None
    error: Mapping[str, Any] | None = None  #: the ERROR record of the user's exception
    result: ResultInfo | None = None
    hint: str | None = None
    log_tail: str | None = None  #: the end of what it printed; None: not known (yet)
    outputs: tuple[OutputInfo, ...] = ()  #: those that were stored at the daemon
    outputs_note: str | None = None  #: why some or all of the outputs are missing


@attrs.frozen(kw_only=True)
class EndedAttempt:
    """An attempt that another one followed. Times are unix seconds."""

    attempt: int
    reason: EndReason
    message: str  #: its end's, at most `MAX_ATTEMPT_MESSAGE` characters
    node_id: str | None
    hostname: str | None
    started_at: float | None
    ended_at: float


class Stage(StrEnum):
    """What a job's owner is told of its way: of `Phase` what tells times apart."""

    QUEUED = "queued"
    PREPARING = "preparing"  #: the worker makes partition and folder
    LAUNCHING = "launching"  #: the platform makes the container, which has not spoken yet
    SETUP = "setup"  #: the runner installs what the job requires
    RUNNING = "running"  #: the user's code runs
    PAUSED = "paused"
    ENDING = "ending"  #: the attempt is over; its worker is being cleared
    ENDED = "ended"


@attrs.frozen(kw_only=True)
class Moment:
    """When a job came to a stage, in which attempt. `at` is unix seconds, by this machine's clock
    and never before the moment ahead of it."""

    stage: Stage
    at: float
    attempt: int


#: An attempt after a pause has so long at least: the code that paused was within its duration.
MIN_DURATION_LEFT_S = 1.0

#: What an ended attempt keeps of its message: a record holds up to a hundred of them.
MAX_ATTEMPT_MESSAGE = 500


class Seen(Protocol):
    """What lists and searches look at: of a record and of an ended job alike."""

    @property
    def job_id(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def state(self) -> JobState: ...
    @property
    def created_at(self) -> float: ...


@attrs.frozen(kw_only=True)
class JobRecord:
    """All that is checkpointed of a job. Times are unix seconds."""

    job_id: str
    owner: str
    spec: JobSpec
    phase: Phase
    created_at: float
    attempt: int = 1
    attempts: tuple[EndedAttempt, ...] = ()  #: those before this one
    journal_start: int = 0  #: journal offset at which this attempt begins
    queued_at: float | None = None  #: when it began to wait again; None: when it was created
    wait: Wait | None = None
    placement: Placement | None = None
    grant: Grant | None = None
    fate: Fate = Fate()  #: what was seen of the worker while this attempt was on it
    stop_reason: EndReason | None = None  #: why the runner was told to stop, if it was
    setup_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    end: End | None = None
    pause_requested: bool = False  #: somebody wants it paused, and it has not been resumed since
    pauses: int = 0  #: how often its code has paused
    checkpoints: tuple[Checkpoint, ...] = ()  #: as last reported, the newest last
    #: it may run on this node only: what it is to go on from is there, or it never was to run
    #: elsewhere
    pinned_node: str | None = None
    ran_s: float = 0.0  #: time that its code ran in earlier, paused attempts
    paused_at: float | None = None  #: since when it is paused
    #: its way so far, oldest first; see `cumulusd.jobs.timeline`
    moments: tuple[Moment, ...] = attrs.Factory(
        lambda self: (Moment(stage=Stage.QUEUED, at=self.created_at, attempt=self.attempt),),
        takes_self=True,
    )

    @property
    def name(self) -> str | None:
        """What its submitter calls it."""
        return self.spec.name

    @property
    def duration_left_s(self) -> float:
        """What this attempt's code has of the job's duration, over 0."""
        return max(MIN_DURATION_LEFT_S, self.spec.duration_s - self.ran_s)

    @property
    def last_attempt(self) -> int:
        """The number of the last attempt that may follow: one that paused costs no retry."""
        return 1 + self.spec.retries + self.pauses

    @property
    def needs_kept(self) -> bool:
        """It goes on from what an earlier attempt kept on `pinned_node`."""
        return self.pinned_node is not None and self.pauses > 0

    @property
    def waits_since(self) -> float:
        """Since when it waits for a place, or when it began to wait for the one it has."""
        return self.created_at if self.queued_at is None else self.queued_at

    @property
    def state(self) -> JobState:
        """The public state."""
        if self.end is not None:
            return self.end.state
        return _PUBLIC[self.phase]


_PUBLIC = {
    Phase.QUEUED: JobState.PENDING,
    Phase.PREPARING: JobState.PENDING,
    Phase.LAUNCHING: JobState.STARTING,
    Phase.STARTING: JobState.STARTING,
    Phase.RUNNING: JobState.RUNNING,
    Phase.RETRYING: JobState.PENDING,
    # It is paused in public once nothing of it holds the share any more.
    Phase.PAUSING: JobState.RUNNING,
    Phase.PAUSED: JobState.PAUSED,
}
