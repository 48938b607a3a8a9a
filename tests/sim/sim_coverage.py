"""What a run has visited: pairs of the transition table, and boundaries of effects."""

from collections import Counter

from cumulusd.jobs.machine import IGNORED, TABLE, EventKind
from cumulusd.jobs.model import Phase

Pair = tuple[Phase, EventKind]

#: Calls that carry out effects, and the save before them; each at three moments.
EFFECT_CALLS = ("save", "prepare", "launch", "command", "stop", "remove", "release", "journals")
BOUNDARIES = tuple(
    f"{call}.{moment}" for call in EFFECT_CALLS for moment in ("before", "done", "answered")
)

#: Pairs that nothing can bring about here, and why.
UNREACHABLE: dict[Pair, str] = {
    (Phase.LAUNCHING, EventKind.CODE_BEGAN): "set-up is said before, which leads to STARTING",
}
#: Pairs that need so many things at once that a short run may miss them.
RARE = frozenset({(Phase.LAUNCHING, EventKind.FINAL), (Phase.LAUNCHING, EventKind.ATTEMPT_OVER)})


class Coverage:
    """Of one schedule or of many."""

    def __init__(self) -> None:
        self.pairs: Counter[Pair] = Counter()
        self.boundaries: Counter[str] = Counter()
        self.crashes: Counter[str] = Counter()  #: by the boundary at which the daemon was killed
        self.faults: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def add(self, other: "Coverage") -> None:
        self.pairs.update(other.pairs)
        self.boundaries.update(other.boundaries)
        self.crashes.update(other.crashes)
        self.faults.update(other.faults)
        self.ends.update(other.ends)

    def missing_pairs(self) -> list[Pair]:
        wanted = (set(TABLE) | set(IGNORED)) - set(UNREACHABLE)
        return sorted(wanted - set(self.pairs))

    def missing_boundaries(self) -> list[str]:
        return sorted(set(BOUNDARIES) - set(self.boundaries))

    def missing_crashes(self) -> list[str]:
        return sorted(set(BOUNDARIES) - set(self.crashes))
