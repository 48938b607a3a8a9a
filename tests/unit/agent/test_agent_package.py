"""Fetching a package: how long it may take."""

import hashlib
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from cumulus_wire.link import SLOWEST_PACKAGE_BYTES_PER_S
from cumulusd.agent.package import AHEAD_BYTES, RANGE_BYTES, Ranges, fetch_package
from cumulusd.errors import Unavailable
from cumulusd.tasks import Signal

DATA = bytes(4 * RANGE_BYTES)


class Line:
    """A link that brings so many bytes a second, one range after the other."""

    is_up = True

    def __init__(self, clock: Clock, bytes_per_s: float) -> None:
        self.came_up = Signal()
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def get(self, sha256: str, offset: int, length: int) -> Deferred[tuple[bytes, int]]:
        answer: Deferred[tuple[bytes, int]] = Deferred()
        now = self._clock.seconds()
        self._free_at = max(now, self._free_at) + length / self._bytes_per_s
        arrival = self._clock.callLater(
            self._free_at - now,
            lambda: answer.called or answer.callback((DATA[offset : offset + length], len(DATA))),
        )
        answer.addErrback(lambda failure: (arrival.active() and arrival.cancel(), failure)[1])
        return answer


def fetched(bytes_per_s: float) -> tuple[float, Any]:
    """(seconds, what came of it)."""
    clock = Clock()
    line: Any = Line(clock, bytes_per_s)
    taken: list[bytes] = []
    outcome: list[Any] = []
    fetching = ensureDeferred(
        fetch_package(
            line,
            clock,
            job_id="j",
            sha256=hashlib.sha256(DATA).hexdigest(),
            size_bytes=len(DATA),
            sink=taken.append,
            timeout_s=3.0,
        )
    )
    fetching.addBoth(outcome.append)
    while not outcome:
        clock.advance(0.25)
    assert not clock.getDelayedCalls()
    return clock.seconds(), outcome[0] or b"".join(taken)


def test_a_slow_line_is_waited_for_as_long_as_the_size_allows() -> None:
    own_s = len(DATA) / SLOWEST_PACKAGE_BYTES_PER_S
    took_s, found = fetched(len(DATA) / (2.0 + own_s))
    assert found == DATA and 3.0 < took_s < 3.0 + own_s


def test_a_slower_one_is_given_up() -> None:
    took_s, failed = fetched(len(DATA) / 60)
    with pytest.raises(Unavailable, match=r"did not arrive within 5\.0 s: .* of 2097152 B"):
        failed.raiseException()
    assert took_s < 8


class Wire:
    """A link that keeps what is asked for."""

    def __init__(self, is_up: bool = True) -> None:
        self.is_up = is_up
        self.asked: list[tuple[int, int, Deferred[tuple[bytes, int]]]] = []
        self.forgotten = 0

    def get(self, sha256: str, offset: int, length: int) -> Deferred[tuple[bytes, int]]:
        answer: Deferred[tuple[bytes, int]] = Deferred(self._forget)
        self.asked.append((offset, length, answer))
        return answer

    def _forget(self, answer: object) -> None:
        self.forgotten += 1


def ranges(wire: Any, size_bytes: int) -> Ranges:
    return Ranges(wire, "0" * 64, 0, size_bytes)


def test_a_small_package_is_asked_for_ahead_and_once() -> None:
    wire = Wire()
    with ranges(wire, AHEAD_BYTES) as asked:
        asked.ask_if_small()
        ((offset, length, answer),) = wire.asked
        assert (offset, length) == (0, AHEAD_BYTES)
        answer.callback((b"early", 5))  # before anybody waits for it
        got: list[object] = []
        asked.take().addCallback(got.append)
        assert got == [(b"early", 5)]
    assert len(wire.asked) == 1 and not wire.forgotten


def test_nobody_waits_for_what_was_asked_for_in_vain() -> None:
    wire = Wire()
    with ranges(wire, 10) as asked:
        asked.ask_if_small()
    assert wire.forgotten == 1
    with ranges(wire, 10) as asked:
        asked.ask_if_small()
        wire.asked[-1][2].errback(Unavailable("the link went down"))
    assert wire.forgotten == 1  # and its failure is nobody's


def test_a_larger_one_or_one_without_a_link_is_not() -> None:
    large, down = Wire(), Wire(is_up=False)
    ranges(large, AHEAD_BYTES + 1).ask_if_small()
    ranges(down, 10).ask_if_small()
    assert not large.asked and not down.asked
