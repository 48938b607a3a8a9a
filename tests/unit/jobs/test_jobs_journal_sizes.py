"""The sizes of journals that are there already are measured beside everything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred

from cumulusd.jobs.journal_sizes import JournalSizes
from cumulusd.jobs.segments import size_bytes

_T = TypeVar("_T")


class Later:
    """A thread that does its errands when it is told to."""

    def __init__(self) -> None:
        self.errands: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, function: Callable[[], _T]) -> Deferred[_T]:
        done: Deferred[_T] = Deferred()
        self.errands.append((function, done))
        return done


def test_what_becomes_known_meanwhile_is_newer() -> None:
    disk = {f"j{number}": 10 for number in range(1200)}
    sizes, thread = JournalSizes(100, disk.__getitem__), Later()
    for job_id in disk:
        sizes.found(job_id)
    measuring = Deferred.fromCoroutine(sizes.measure_all(thread))
    function, done = thread.errands.pop()
    found = function()
    sizes.put("j0", 150)  # it grew
    sizes.drop("j1")
    sizes.drop("j1199")
    assert sizes.of("j600") == 10, "known when it is asked for"
    done.callback(found)
    while thread.errands:
        function, done = thread.errands.pop()
        done.callback(function())
    assert measuring.called
    assert (sizes.of("j0"), sizes.of("j1"), "j1" in sizes) == (150, 0, False)
    assert sizes.total_bytes == 150 + 10 * 1197
    assert sizes.over_cap() == ["j0"]
    assert len(sizes.known()) == 1198
    sizes.put("j0", 90)
    assert sizes.over_cap() == []


def test_a_disk_that_refuses_is_told_and_what_is_gone_is_not(tmp_path: Path) -> None:
    def measure(job_id: str) -> int:
        if job_id == "bad":
            raise OSError(job_id)
        return size_bytes(tmp_path / job_id)

    def at_once(function: Callable[[], _T]) -> Deferred[_T]:
        done: Deferred[_T] = Deferred()
        try:
            done.callback(function())
        except OSError:
            done.errback()
        return done

    sizes = JournalSizes(100, measure)
    sizes.found("gone")
    outcomes: list[Any] = []
    Deferred.fromCoroutine(sizes.measure_all(at_once)).addBoth(outcomes.append)
    assert outcomes == [None] and sizes.of("gone") == 0
    sizes.found("bad")
    Deferred.fromCoroutine(sizes.measure_all(at_once)).addBoth(outcomes.append)
    with pytest.raises(OSError, match="bad"):
        outcomes[1].raiseException()
