"""A scheduling pass that breaks off is made again, though nothing changed since."""

from typing import Any

import pytest

from bench.parts.queued import FullPool
from cumulusd.jobs import placing


def test_a_pass_that_breaks_off_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FullPool(50)
    place, failed = placing.scheduler.place, []

    def failing_once(*args: Any) -> Any:
        if not failed:
            failed.append(True)
            raise ValueError("a bug")
        return place(*args)

    before = pool.placed
    monkeypatch.setattr(placing.scheduler, "place", failing_once)
    pool.end_one()
    pool.settle()
    assert failed and pool.placed == before
    pool.tick()
    assert pool.placed > before
