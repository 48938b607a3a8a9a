"""What was measured, as rows of the one table. Pure.

A ratio is the median of the ratios of paired rounds, so that what the machine does beside it falls
on both; a row's own number is a median, with quartiles in brackets.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

COLUMNS = ("case", "ours", "peer", "ratio", "goal", "met or not")


class Met(Enum):
    """What became of a row's goals."""

    YES = "met"
    NO = "not met"
    #: It has a goal, and the number it needs is missing.
    UNKNOWN = "not measured"
    #: It has no goal.
    NONE = ""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles of some rounds."""

    low: float
    median: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one round."""
        if len(values) == 1:
            return cls(low=values[0], median=values[0], high=values[0], rounds=1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low=low, median=median, high=high, rounds=len(values))

    def text(self, unit: str) -> str:
        if self.rounds == 1:
            return f"{number(self.median)} {unit}"
        return f"{number(self.median)} [{number(self.low)} {number(self.high)}] {unit}"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bound on the row's own number, or on its ratio to the peer's."""

    bound: float
    at_most: bool  #: else at least
    of_ratio: bool

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def text(self, unit: str) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{sign} {self.bound:g}{'×' if self.of_ratio else f' {unit}'}"


def at_most(bound: float) -> Goal:
    return Goal(bound=bound, at_most=True, of_ratio=False)


def at_least(bound: float) -> Goal:
    return Goal(bound=bound, at_most=False, of_ratio=False)


def ratio_at_most(bound: float) -> Goal:
    return Goal(bound=bound, at_most=True, of_ratio=True)


def ratio_at_least(bound: float) -> Goal:
    return Goal(bound=bound, at_most=False, of_ratio=True)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What a user would take instead."""

    name: str
    command: str  #: exactly what was run, for whoever wants to repeat it


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    case: str
    unit: str = ""
    ours: Spread | None = None
    peer: Peer | None = None
    theirs: Spread | None = None
    ratio: float | None = None
    goals: tuple[Goal, ...] = ()
    why_not: str = ""  #: why ours, or the peer's number, was not measured
    more: Mapping[str, Any] = field(default_factory=dict)  #: for the JSON alone

    @property
    def met(self) -> Met:
        if not self.goals:
            return Met.NONE
        values = [self._value(goal) for goal in self.goals]
        if any(v is not None and not g.holds(v) for g, v in zip(self.goals, values, strict=True)):
            return Met.NO
        return Met.UNKNOWN if None in values else Met.YES

    def _value(self, goal: Goal) -> float | None:
        if goal.of_ratio:
            return self.ratio
        return None if self.ours is None else self.ours.median

    def cells(self) -> list[str]:
        """In the order of COLUMNS."""
        peer = ""
        if self.theirs is not None and self.peer is not None:
            peer = f"{self.theirs.text(self.unit)} ({self.peer.name})"
        met = self.met.value
        if self.why_not:
            met = f"{met or 'not measured'}: {self.why_not}"
        return [
            self.case,
            "" if self.ours is None else self.ours.text(self.unit),
            peer,
            "" if self.ratio is None else f"{number(self.ratio)}×",
            ", ".join(goal.text(self.unit) for goal in self.goals),
            met,
        ]

    def as_json(self) -> dict[str, Any]:
        """`row_of` makes the same row of it."""
        return {
            "case": self.case,
            "unit": self.unit,
            "ours": None if self.ours is None else vars(self.ours),
            "peer": None if self.peer is None else vars(self.peer),
            "theirs": None if self.theirs is None else vars(self.theirs),
            "ratio": self.ratio,
            "goals": [vars(goal) for goal in self.goals],
            "why_not": self.why_not,
            "met": self.met.value,
            "more": dict(self.more),
        }


def row_of(value: Mapping[str, Any]) -> Row:
    """What `as_json` gave. Raises KeyError, TypeError."""

    def spread(key: str) -> Spread | None:
        return None if value[key] is None else Spread(**value[key])

    return Row(
        case=value["case"],
        unit=value["unit"],
        ours=spread("ours"),
        peer=None if value["peer"] is None else Peer(**value["peer"]),
        theirs=spread("theirs"),
        ratio=value["ratio"],
        goals=tuple(Goal(**goal) for goal in value["goals"]),
        why_not=value["why_not"],
        more=value["more"],
    )


def measured(
    case: str,
    unit: str,
    ours: Sequence[float],
    peer: Peer | None = None,
    theirs: Sequence[float] = (),
    *,
    goals: Iterable[Goal] = (),
    why_not: str = "",
    more: Mapping[str, Any] | None = None,
    has_ratio: bool = True,
) -> Row:
    """A row of rounds. With as many of the peer's, round by round, the ratio is of the pairs; of
    differences about zero it would say nothing: without `has_ratio` there is none."""
    if not ours:
        raise ValueError(f"{case}: no round was measured")
    ratio = None
    if has_ratio and theirs and len(theirs) == len(ours):
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    elif has_ratio and theirs:
        ratio = statistics.median(ours) / statistics.median(theirs)
    return Row(
        case=case,
        unit=unit,
        ours=Spread.of(ours),
        peer=peer,
        theirs=Spread.of(theirs) if theirs else None,
        ratio=ratio,
        goals=tuple(goals),
        why_not=why_not,
        more=more or {},
    )


def not_measured(case: str, why: str, *, unit: str = "", goals: Iterable[Goal] = ()) -> Row:
    """A row for what could not be."""
    return Row(case=case, unit=unit, goals=tuple(goals), why_not=why)


def markdown(rows: Iterable[Row]) -> str:
    """The table."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS)]
    lines += [tuple(cell.replace("|", "\\|") for cell in row.cells()) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def commands(rows: Iterable[Row]) -> str:
    """What each peer was, exactly: a list in Markdown."""
    found = {row.peer.name: row.peer.command for row in rows if row.peer is not None}
    return "\n".join(f"- {name}: `{command}`" for name, command in found.items())


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
