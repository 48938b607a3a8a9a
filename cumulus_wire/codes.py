"""Machine-readable reasons: why a job waits, why it ended, why a request was refused."""

from cumulus_wire.enums import StrEnum


class EndReason(StrEnum):
    """Why a job is `failed`, `timeout` or `cancelled`; `completed` has none."""

    USER_ERROR = "user_error"  #: the code raised
    EXIT_CODE = "exit_code"  #: the code left with a non-zero exit code
    SIGNALLED = "signalled"  #: the code's process was killed by a signal
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"  #: the disk, or what the job may have of it, is full
    PROCESS_LIMIT = "process_limit"  #: the job came to its limit of processes and threads
    RESULT_INVALID = "result_invalid"  #: the function's value can't be brought back
    REQUIREMENTS_FAILED = "requirements_failed"
    SETUP_TIMEOUT = "setup_timeout"
    PACKAGE_INVALID = "package_invalid"
    ENTRY_POINT_MISSING = "entry_point_missing"
    RUNNER_FAILED = "runner_failed"  #: the runner could not start or died
    DURATION_EXCEEDED = "duration_exceeded"
    QUEUE_TIMEOUT = "queue_timeout"
    CANCELLED_BY_USER = "cancelled_by_user"
    WORKER_LOST = "worker_lost"
    WORKER_DRAINED = "worker_drained"
    DEVICE_LOST = "device_lost"  #: its driver doesn't show the job's device any more
    IMAGE_MISSING = "image_missing"
    UNSCHEDULABLE = "unschedulable"
    PARTITION_FAILED = "partition_failed"
    LAUNCH_FAILED = "launch_failed"
    CHECKPOINT_LOST = "checkpoint_lost"
    JOURNAL_CORRUPT = "journal_corrupt"


#: Ends that are the infrastructure's fault, never the code's: `retries` runs such a job again.
RETRIED = frozenset(
    {
        EndReason.WORKER_LOST,
        EndReason.WORKER_DRAINED,
        EndReason.DEVICE_LOST,
        EndReason.RUNNER_FAILED,
        EndReason.LAUNCH_FAILED,
        EndReason.PARTITION_FAILED,
        EndReason.JOURNAL_CORRUPT,
    }
)


class WaitReason(StrEnum):
    """Why a job is `pending` or `starting`, or is still `running` though its code has ended."""

    QUEUED = "queued"  #: not yet looked at
    NO_FREE_SHARE = "no_free_share"  #: it fits a device, but none has enough free now
    AGENT_AWAY = "agent_away"  #: a worker is there, its agent is not
    BEHIND_OTHERS = "behind_others"  #: it would fit, but others come first
    PLACING = "placing"  #: a partition is being made for it
    LAUNCHING = "launching"  #: the platform is asked for its container
    STARTING = "starting"  #: its container is there, or on its way
    NO_PLACE = "no_place"  #: the platform finds no place for its container
    RETRYING = "retrying"  #: an attempt ended; the next begins when nothing of it can run any more
    STORING_OUTPUTS = "storing_outputs"  #: its code has ended; what it left is being stored


class ErrorCode(StrEnum):
    """Last part of the WAMP URI `cumulus.error.<code>` and `code` in HTTP error bodies."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_AUTHENTICATED = "not_authenticated"
    NOT_AUTHORIZED = "not_authorized"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    NOT_ENDED = "not_ended"
    NO_WORKERS = "no_workers"
    INSUFFICIENT_RESOURCES = "insufficient_resources"
    UNAVAILABLE = "unavailable"
    JOB_FAILED = "job_failed"
    INTERNAL = "internal"
