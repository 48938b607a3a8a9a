"""Which items of a map are under way, and whose outcome comes next. No I/O."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cumulus_client._options import (
    Options,
    checked_args,
    checked_timeout,
    parted,
)
from cumulus_client._package_files import Files
from cumulus_client._raising import bare

#: Jobs of one map that are under way at a time, unless its caller says otherwise.
MAX_IN_FLIGHT = 32


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A value, or what was raised in its stead."""

    value: Any = None
    error: BaseException | None = None


class Window:
    """At most `max_in_flight` items are under way, and as many outcomes wait to be taken, so that
    one slow item doesn't stop all others and memory is bounded."""

    def __init__(self, max_in_flight: int, *, ordered: bool) -> None:
        self._max_in_flight = max_in_flight
        self._ordered = ordered
        self._began = 0
        self._under_way: set[int] = set()
        self._waiting: deque[int] = deque()  # ended, not taken; in the order in which they ended
        self._outcomes: dict[int, Outcome] = {}
        self._next = 0  # the index that comes next, where that matters
        self._no_more = False

    @property
    def wants_more(self) -> bool:
        """May another item begin?"""
        return (
            not self._no_more
            and len(self._under_way) < self._max_in_flight
            and len(self._under_way) + len(self._outcomes) < 2 * self._max_in_flight
        )

    @property
    def under_way(self) -> int:
        """How many items are."""
        return len(self._under_way)

    @property
    def finished(self) -> bool:
        """Every item's outcome was taken, and no more will begin."""
        return self._no_more and not self._under_way and not self._outcomes

    def no_more(self) -> None:
        """There are no further items."""
        self._no_more = True

    def begin(self) -> int:
        """Another item is under way: its index."""
        index = self._began
        self._began += 1
        self._under_way.add(index)
        return index

    def end(self, index: int, outcome: Outcome) -> None:
        """That item is done."""
        self._under_way.remove(index)
        self._outcomes[index] = outcome
        self._waiting.append(index)

    def take(self) -> tuple[int, Outcome] | None:
        """The next outcome and its index; None when it isn't there yet."""
        if self._ordered:
            if self._next not in self._outcomes:
                return None
            index = self._next
            self._next += 1
        else:
            if not self._waiting:
                return None
            index = self._waiting.popleft()
        return index, self._outcomes.pop(index)


@dataclass(frozen=True, kw_only=True)
class MapCall:
    """A checked call of `map`."""

    kwargs: dict[str, Any]
    spec: dict[str, Any]
    files: Files
    timeout: float | None
    max_in_flight: int
    ordered: bool
    return_exceptions: bool

    def window(self) -> Window:
        """A new one."""
        return Window(self.max_in_flight, ordered=self.ordered)

    def shown(self, index: int, outcome: Outcome) -> Any:
        """What the caller gets of an outcome. Raises its error."""
        value = outcome.value
        if outcome.error is not None:
            if not (self.return_exceptions and isinstance(outcome.error, Exception)):
                bare(outcome.error.__cause__)
                raise outcome.error.with_traceback(None)
            value = outcome.error
        return value if self.ordered else (index, value)


def make_map_call(
    func: Any,
    iterables: tuple[Any, ...],
    *,
    kwargs: Mapping[str, Any] | None,
    timeout: Any,
    max_in_flight: Any,
    ordered: bool,
    return_exceptions: bool,
    options: Options,
) -> MapCall:
    """Raises TypeError, ValueError."""
    if not callable(func):
        raise TypeError(f"map() needs a function, not {type(func).__name__}")
    if not iterables:
        raise TypeError(
            "map() needs at least one iterable of arguments: map(func, [1, 2, 3]); keyword "
            "arguments that all calls get are given as kwargs={...}"
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs must be a dict, not {type(kwargs).__name__}")
    if isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int):
        raise TypeError(f"max_in_flight must be an int, not {type(max_in_flight).__name__}")
    if max_in_flight < 1:
        raise ValueError(f"max_in_flight must be at least 1: {max_in_flight}")
    spec, files = parted(options)
    return MapCall(
        kwargs=dict(kwargs or {}),
        spec=spec,
        files=files,
        timeout=checked_timeout("timeout", timeout),
        max_in_flight=max_in_flight,
        ordered=ordered,
        return_exceptions=return_exceptions,
    )


def zipped(iterables: Iterable[Iterable[Any]]) -> Iterator[list[Any]]:
    """The positional arguments of each call, as of the built-in `map`."""
    return (checked_args(values) for values in zip(*iterables, strict=False))
