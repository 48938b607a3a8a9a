"""What a run has visited: pairs of the transition table, and boundaries of effects."""

from collections import Counter

from cumulusd.jobs.events import EventKind
from cumulusd.jobs.machine import IGNORED, TABLE
from cumulusd.jobs.model import Phase

Pair = tuple[Phase, EventKind]

#: Calls that carry out effects, and the save before them; each at three moments.
EFFECT_CALLS = ("save", "prepare", "launch", "command", "stop", "remove", "release", "journals")
BOUNDARIES = tuple(
    f"{call}.{moment}" for call in EFFECT_CALLS for moment in ("before", "done", "answered")
)

_LATE_FOR_ENDED = (
    EventKind.UNPLACED,
    EventKind.PREPARED,
    EventKind.PREPARE_FAILED,
    EventKind.LAUNCHED,
    EventKind.LAUNCH_FAILED,
    EventKind.SETUP_BEGAN,
    EventKind.CODE_BEGAN,
    EventKind.LOST,
    EventKind.BEFELL,
    EventKind.FORCED,
)
#: Pairs that nothing can bring about, and why. They stand in the machine so that every pair is
#: decided.
UNREACHABLE: dict[Pair, str] = {
    (Phase.LAUNCHING, EventKind.CODE_BEGAN): "set-up is said before, which leads to STARTING",
    **{
        (phase, kind): "the code is said to run before, which leads to RUNNING"
        for phase in (Phase.LAUNCHING, Phase.STARTING)
        for kind in (EventKind.CHECKPOINTED, EventKind.YIELDED)
    },
    **{
        (Phase.ENDED, kind): "clearing ends every other effect first and waits for the journal; "
        "what was told before its end is taken before it"
        for kind in _LATE_FOR_ENDED
    },
    **{
        (Phase.RETRYING, kind): "PREPARE_FAILED, the effect's last word, led there"
        for kind in (EventKind.UNPLACED, EventKind.PREPARED, EventKind.PREPARE_FAILED)
    },
    **{
        (Phase.PAUSING, kind): "YIELDED, the runner's last word, led there"
        for kind in (EventKind.UNPLACED, EventKind.PREPARED, EventKind.PREPARE_FAILED)
    },
    (Phase.PAUSED, EventKind.PAUSE): "its one user is refused before it is told",
    (Phase.QUEUED, EventKind.RESUME): "its one user is refused before it is told",
}
#: Pairs that need several things within the milliseconds of one save: also thousands of schedules,
#: some on a disk that is slow throughout, have missed them.
RARE = frozenset(
    {
        (Phase.RETRYING, EventKind.LAUNCHED),
        (Phase.RETRYING, EventKind.LAUNCH_FAILED),
        (Phase.RETRYING, EventKind.LOST),
        (Phase.RETRYING, EventKind.BEFELL),
        (Phase.RETRYING, EventKind.FORCED),
        (Phase.ENDING, EventKind.PREPARE_FAILED),
        (Phase.ENDED, EventKind.ATTEMPT_OVER),
        (Phase.ENDED, EventKind.CHECKPOINTED),
        (Phase.ENDED, EventKind.YIELDED),
        (Phase.ENDING, EventKind.YIELDED),
        (Phase.RETRYING, EventKind.CHECKPOINTED),
        (Phase.RETRYING, EventKind.YIELDED),
        (Phase.PAUSING, EventKind.LAUNCHED),
        (Phase.PAUSING, EventKind.LAUNCH_FAILED),
        (Phase.PAUSING, EventKind.LOST),
        (Phase.PAUSING, EventKind.FINAL),
        (Phase.PAUSING, EventKind.BEFELL),
        (Phase.PAUSING, EventKind.FORCED),
        (Phase.PAUSING, EventKind.ATTEMPT_OVER),
        # A job is starting for milliseconds; a launch is given up after seconds.
        (Phase.STARTING, EventKind.LAUNCH_FAILED),
    }
)


class Coverage:
    """Of one schedule or of many."""

    def __init__(self) -> None:
        self.pairs: Counter[Pair] = Counter()
        self.boundaries: Counter[str] = Counter()
        self.crashes: Counter[str] = Counter()  #: by the boundary at which the daemon was killed
        self.faults: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()  #: pauses and resumes that were acknowledged

    def add(self, other: "Coverage") -> None:
        self.pairs.update(other.pairs)
        self.boundaries.update(other.boundaries)
        self.crashes.update(other.crashes)
        self.faults.update(other.faults)
        self.ends.update(other.ends)
        self.actions.update(other.actions)

    def missing_pairs(self) -> list[Pair]:
        """Of the whole table, what was not visited though it can be."""
        wanted = (set(TABLE) | set(IGNORED)) - set(UNREACHABLE)
        return sorted(wanted - set(self.pairs))

    def missing_boundaries(self) -> list[str]:
        return sorted(set(BOUNDARIES) - set(self.boundaries))

    def missing_crashes(self) -> list[str]:
        return sorted(set(BOUNDARIES) - set(self.crashes))
