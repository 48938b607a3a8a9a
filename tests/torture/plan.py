"""What a round does: its jobs and its faults, from the seed alone. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState


class Fault(StrEnum):
    """Everything that is done to the system."""

    DAEMON_KILL = "daemon_kill"  #: kill -9, and a new one
    ENGINE_KILL = "engine_kill"  #: a worker's engine and all on it, as when its power fails
    LINK_CUT = "link_cut"  #: a worker's network cable, pulled for some 20 s
    MANAGER_RESTART = "manager_restart"
    AGENT_KILL = "agent_kill"
    RUNNER_KILL = "runner_kill"
    READERS_STALLED = "readers_stalled"  #: a client that stops reading for seconds
    CLIENT_KILL = "client_kill"  #: a client killed, started again, attached where it was


#: Each takes a machine away.
HEAVY = (Fault.ENGINE_KILL, Fault.LINK_CUT, Fault.MANAGER_RESTART)
LIGHT = tuple(fault for fault in Fault if fault not in HEAVY)
#: How many of them a round has. They overlap as chance will have it.
HEAVY_PER_ROUND, LIGHT_PER_ROUND = 2, 3
#: Within so many rounds every kind comes.
COVERING_ROUNDS = 3
#: Faults begin in this span of a round.
FAULTS_FROM_S, FAULTS_TO_S = 2.5, 12.0


@dataclass(frozen=True, kw_only=True)
class End:
    """How a job ends when nothing but itself has a say in it."""

    status: JobState
    reason: EndReason | None = None
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of a round."""

    number: int
    kind: str
    seed: str
    at_s: float  #: when in the round it is submitted
    expected: End
    end: str = "return"
    out_bytes: int = 400
    err_bytes: int = 0
    as_lines: bool = True
    speaks_s: float = 0.5
    idles_s: float = 0.0
    result_bytes: int = 16
    duration_s: float = 120.0
    gpu_memory: float = 0.19
    cancel: str | None = None  #: in which state it is cancelled
    retries: int = 0

    @property
    def name(self) -> str:
        return f"{self.number:02d}-{self.kind}"

    @property
    def arguments(self) -> list[Any]:
        """Of `work.work`."""
        return [
            self.seed,
            self.end,
            self.out_bytes,
            self.err_bytes,
            self.as_lines,
            self.speaks_s,
            self.idles_s,
            self.result_bytes,
        ]


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One fault at its time. `worker`: which of them, if they have equally many jobs then."""

    fault: Fault
    at_s: float
    lasts_s: float
    worker: str


@dataclass(frozen=True, kw_only=True)
class Round:
    """All of one round."""

    number: int
    jobs: tuple[Job, ...]
    strikes: tuple[Strike, ...] = field(default=())


_LASTS_S = {
    Fault.DAEMON_KILL: (0.0, 2.5),
    Fault.ENGINE_KILL: (2.0, 12.0),
    Fault.LINK_CUT: (20.0, 20.0),
    Fault.MANAGER_RESTART: (1.0, 5.0),
    Fault.AGENT_KILL: (0.0, 0.0),
    Fault.RUNNER_KILL: (0.0, 0.0),
    Fault.READERS_STALLED: (5.0, 12.0),
    Fault.CLIENT_KILL: (0.0, 2.0),
}


def plan_rounds(seed: int, rounds: int, workers: Sequence[str]) -> list[Round]:
    """The same for the same arguments. Every `COVERING_ROUNDS` rounds have every kind of fault."""
    chance = random.Random(f"torture {seed}")
    heavy: list[Fault] = []
    light: list[Fault] = []
    planned = []
    for number in range(1, rounds + 1):
        faults = _next(heavy, HEAVY, HEAVY_PER_ROUND, chance) + _next(
            light, LIGHT, LIGHT_PER_ROUND, chance
        )
        strikes = [_strike(fault, chance, workers) for fault in faults]
        planned.append(
            Round(
                number=number,
                jobs=tuple(_jobs(f"{seed}/{number}", chance)),
                strikes=tuple(sorted(strikes, key=lambda strike: strike.at_s)),
            )
        )
    return planned


def _next(
    deck: list[Fault], kinds: Sequence[Fault], count: int, chance: random.Random
) -> list[Fault]:
    """Deals from a shuffled deck, so that none is left out for long; none twice at a time."""
    dealt: list[Fault] = []
    while len(dealt) < count:
        if not (new := [fault for fault in deck if fault not in dealt]):
            deck += chance.sample(list(kinds), len(kinds))
            continue
        deck.remove(new[0])
        dealt.append(new[0])
    return dealt


def _strike(fault: Fault, chance: random.Random, workers: Sequence[str]) -> Strike:
    return Strike(
        fault=fault,
        at_s=chance.uniform(FAULTS_FROM_S, FAULTS_TO_S),
        lasts_s=chance.uniform(*_LASTS_S[fault]),
        worker=chance.choice(list(workers)),
    )


_COMPLETED = End(status=JobState.COMPLETED, exit_code=0)
_CANCELLED = End(status=JobState.CANCELLED, reason=EndReason.CANCELLED_BY_USER)


def _jobs(seed: str, chance: random.Random) -> list[Job]:
    kinds: list[tuple[str, End, dict[str, Any]]] = [
        ("short", _COMPLETED, {}),
        ("late", _COMPLETED, {"at_s": chance.uniform(6.0, 16.0), "out_bytes": 5_000}),
        ("long", _COMPLETED, {"out_bytes": 3_000_000, "speaks_s": chance.uniform(14.0, 34.0)}),
        # More than any buffer on the way holds, and several segments on both disks.
        (
            "loud",
            _COMPLETED,
            {"out_bytes": 24_000_000, "speaks_s": chance.uniform(6.0, 14.0)},
        ),
        (
            "binary",
            _COMPLETED,
            {
                "out_bytes": 400_000,
                "err_bytes": 90_000,
                "as_lines": False,
                "speaks_s": chance.uniform(8.0, 30.0),
            },
        ),
        (
            "again",
            _COMPLETED,
            {"retries": 4, "out_bytes": 300_000, "speaks_s": chance.uniform(10.0, 20.0)},
        ),
        (
            "quiet",
            _COMPLETED,
            {"out_bytes": 2_000, "speaks_s": 2.0, "idles_s": chance.uniform(14.0, 34.0)},
        ),
        (
            "result",
            _COMPLETED,
            {"result_bytes": 150_000, "out_bytes": 20_000, "speaks_s": chance.uniform(2.0, 14.0)},
        ),
        (
            "raises",
            End(status=JobState.FAILED, reason=EndReason.USER_ERROR, exit_code=1),
            {
                "end": "raise",
                "retries": 4,  # which are not for this
                "out_bytes": 40_000,
                "speaks_s": chance.uniform(1.0, 14.0),
            },
        ),
        (
            "exits",
            End(status=JobState.FAILED, reason=EndReason.EXIT_CODE, exit_code=7),
            {"end": "exit", "out_bytes": 40_000, "speaks_s": chance.uniform(1.0, 14.0)},
        ),
        (
            "signalled",
            End(status=JobState.FAILED, reason=EndReason.SIGNALLED, signal=11),
            {"end": "signal", "err_bytes": 30_000, "speaks_s": chance.uniform(1.0, 14.0)},
        ),
        (
            "overlong",
            End(status=JobState.TIMEOUT, reason=EndReason.DURATION_EXCEEDED),
            {
                "duration_s": chance.uniform(4.0, 12.0),
                "out_bytes": 60_000,
                "speaks_s": 14.0,
                "idles_s": 60.0,
            },
        ),
        # Takes a whole device, so it waits for as long as others run.
        ("unplaced", _CANCELLED, {"cancel": "pending", "gpu_memory": 1.0, "at_s": 3.0}),
        ("unstarted", _CANCELLED, {"cancel": "starting", "idles_s": 90.0}),
        (
            "stopped",
            _CANCELLED,
            {"cancel": "running", "out_bytes": 500_000, "speaks_s": 60.0, "idles_s": 60.0},
        ),
    ]
    times = sorted(chance.uniform(0.0, 2.5) for _ in kinds)
    chance.shuffle(times)
    return [
        Job(
            number=number,
            kind=kind,
            seed=f"{seed}/{number}",
            expected=expected,
            **{"at_s": at_s, **changes},
        )
        for number, ((kind, expected, changes), at_s) in enumerate(
            zip(kinds, times, strict=True), start=1
        )
    ]
