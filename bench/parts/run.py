"""One module's measuring: how long it may take, and rounds by turns within that."""

import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from bench.parts.swarm import KeptSwarm
from bench.table import Row, not_measured

_T = TypeVar("_T")
_U = TypeVar("_U")


class Run:
    """What a module is given. Its folder is on the disk of the checkout, not in memory."""

    def __init__(
        self,
        *,
        seconds: float,
        folder: Path,
        quick: bool = False,
        swarm: KeptSwarm | None = None,
        why_no_swarm: str = "",
        words: tuple[str, ...] = (),
    ) -> None:
        """`seconds`: for all of the module; `words`: of the rows that are wanted, all without."""
        self.folder = folder
        self.quick = quick
        self.swarm = swarm
        self.why_no_swarm = why_no_swarm
        self.words = words
        self._ends_at = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """What is left of the module's time."""
        return max(0.0, self._ends_at - time.monotonic())

    def until(self, part: float) -> float:
        """The moment, monotonic, at which that part of what is left is over."""
        return time.monotonic() + self.left_s * part

    def wants(self, *cases: str) -> bool:
        """Whether one of those rows was asked for."""
        return not self.words or any(word in case for case in cases for word in self.words)

    def part(self, name: str, rows: Iterator[Row]) -> Iterator[Row]:
        """Those rows. Where they break off, why is on stderr and in a row, and the module goes
        on."""
        try:
            yield from rows
        except Exception as error:
            traceback.print_exc()
            text = str(error).strip() or type(error).__name__
            yield not_measured(f"{name}: the rest", text.splitlines()[0][:300])


def paired(
    ours: Callable[[], _T],
    theirs: Callable[[], _U],
    *,
    rounds: int,
    until: float,
    least: int = 3,
    warm_up: bool = True,
) -> tuple[list[_T], list[_U]]:
    """Rounds by turns, the other side first each time, until `rounds` or the moment `until`; at
    least `least`. The first round isn't counted with `warm_up`.

    Raises what the sides raise.
    """
    if warm_up:
        ours()
        theirs()
    found: tuple[list[_T], list[_U]] = ([], [])
    for turn in range(rounds):
        if turn >= least and time.monotonic() >= until:
            break
        if turn % 2:
            found[1].append(theirs())
            found[0].append(ours())
        else:
            found[0].append(ours())
            found[1].append(theirs())
    return found


def alone(
    measure: Callable[[], _T],
    *,
    rounds: int,
    until: float,
    least: int = 3,
    warm_up: bool = True,
) -> list[_T]:
    """The same where there is no peer."""
    return paired(measure, lambda: None, rounds=rounds, until=until, least=least, warm_up=warm_up)[
        0
    ]
