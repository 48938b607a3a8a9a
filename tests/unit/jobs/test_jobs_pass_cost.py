"""A pass does no work in proportion to the queue: counted in calls, not measured in time."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from bench.parts.queued import FullPool
from cumulusd.jobs import placing

FEW, MANY = 500, 20_000
#: Calls of Python functions and of built-in ones in the passes of one change with 20,000 waiting;
#: a little above what was counted when this was written. Work for each of them would be 20,000.
BOUNDS = {"nothing": 300, "submitted": 400, "freed": 5_300}


def nothing(pool: FullPool) -> None:
    assert pool.tick()


def submitted(pool: FullPool) -> None:
    pool.submit()
    assert pool.settle()


def freed(pool: FullPool) -> None:
    placed = pool.placed
    pool.end_one()
    assert pool.settle()
    assert pool.placed > placed


def calls_of(change: Callable[[FullPool], None], pool: FullPool) -> int:
    """How many functions are called in it."""
    count = 0

    def seen(frame: FrameType, event: str, of: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        change(pool)
    finally:
        sys.setprofile(before)
    return count


@pytest.fixture(scope="module")
def pools() -> tuple[FullPool, FullPool]:
    return FullPool(FEW), FullPool(MANY)


@pytest.mark.parametrize("change", [nothing, submitted, freed])
def test_work_of_a_pass_is_within_its_bound(
    change: Callable[[FullPool], None], pools: tuple[FullPool, FullPool]
) -> None:
    few, many = (max(calls_of(change, pool) for _ in range(5)) for pool in pools)
    assert many <= BOUNDS[change.__name__]
    # What grows with it at all does so as its logarithm, or as the blocks that the line is kept in.
    assert many <= 3 * few


def test_jobs_looked_at_are_those_placed_and_a_few(
    pools: tuple[FullPool, FullPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    place = placing.scheduler.place

    def counting(*args: Any) -> Any:
        decision = place(*args)
        looked_at.append((decision.looked_at, len(decision.placements)))
        return decision

    monkeypatch.setattr(placing.scheduler, "place", counting)
    for _ in range(20):
        submitted(pools[1])
        freed(pools[1])
    assert len(looked_at) >= 40
    # Four sizes: once nothing fits, each is found out once, and a few reserve a device meanwhile.
    assert max(seen - placed for seen, placed in looked_at) <= 20
    assert sum(placed for _, placed in looked_at) > 0
