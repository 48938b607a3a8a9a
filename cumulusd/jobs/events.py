"""What can happen to a job, and what is to be done for it then. Plain values."""

from enum import StrEnum

import attrs

from cumulus_wire.codes import EndReason
from cumulusd.jobs.model import Checkpoint, End, Fate, Grant, Placement


class EventKind(StrEnum):
    """What can happen to a job."""

    PLACED = "placed"  #: the scheduler chose a device (`placement`)
    REFUSED = "refused"  #: the scheduler found that nothing can ever take it (`end`)
    UNPLACED = "unplaced"  #: the agent refused: the share was not free after all
    PREPARED = "prepared"  #: the agent made partition and folder (`grant`)
    PREPARE_FAILED = "prepare_failed"  #: it can't (`end`)
    LAUNCHED = "launched"  #: the platform accepted the container
    LAUNCH_FAILED = "launch_failed"  #: it did not (`end`)
    SETUP_BEGAN = "setup_began"  #: the runner speaks
    CODE_BEGAN = "code_began"  #: the user's code runs
    FINAL = "final"  #: the runner's last record (`end`)
    LOST = "lost"  #: the container is gone without a last record (`end`)
    BEFELL = "befell"  #: its worker was seen down or draining (`fate`)
    STOP = "stop"  #: somebody wants it ended (`stop_reason`)
    FORCED = "forced"  #: the runner did not obey the stop in time
    CHECKPOINTED = "checkpointed"  #: the code told its checkpoints (`checkpoints`)
    YIELDED = "yielded"  #: the runner's last record: the code has paused (`ran_s`)
    PAUSE = "pause"  #: somebody wants it paused
    RESUME = "resume"  #: somebody wants it to go on
    CLEARED = "cleared"  #: container, partition and folder are gone, or can't run any more
    #: what else would be its end is the infrastructure's fault, and retries are left (`end`);
    #: made of FINAL, LOST, PREPARE_FAILED and LAUNCH_FAILED by `step`, never told
    ATTEMPT_OVER = "attempt_over"
    #: what else would lead it back into the queue finds that it is to be paused; made of UNPLACED
    #: and CLEARED by `step`, never told
    HELD = "held"


class Effect(StrEnum):
    """What the supervisor has to do after saving."""

    PREPARE = "prepare"
    LAUNCH = "launch"
    STOP_RUNNER = "stop_runner"
    TELL_PAUSE = "tell_pause"  #: the runner is told whether the code is to pause
    CLEAR = "clear"


@attrs.frozen(kw_only=True)
class Event:
    """One thing that happened; `at` is unix time."""

    kind: EventKind
    at: float
    placement: Placement | None = None
    grant: Grant | None = None
    end: End | None = None
    stop_reason: EndReason | None = None
    fate: Fate | None = None
    #: which attempt it happened to: with another one it is too late; None: to the job
    attempt: int | None = None
    journal_start: int | None = None  #: with CLEARED: where the next attempt's journal begins
    pinned_node: str | None = None  #: with CLEARED, after a pause: what it keeps is there only
    checkpoints: tuple[Checkpoint, ...] = ()
    ran_s: float = 0.0


class ImpossibleTransition(Exception):
    """An event that can't happen in this phase: a fault in the caller."""
