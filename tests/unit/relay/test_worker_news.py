"""Who listens is told of workers soon, and no more often than every so often."""

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from cumulusd.worker_news import LOOK_S, PAUSE_S, WorkerNews


class Pool:
    def __init__(self) -> None:
        self.state = "ready"
        self.remaining_s = 100.0
        self.broken = False
        self.told: list[Any] = []
        self.clock = Clock()
        self.news = WorkerNews(clock=self.clock, views=self.views, publish=self.told.append)

    def views(self) -> list[dict[str, Any]]:
        if self.broken:
            raise RuntimeError("no view")
        self.remaining_s -= 1.0
        partitions = [{"partition_id": "p", "remaining_s": self.remaining_s}]
        return [{"state": self.state, "devices": [{"partitions": partitions}]}]


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool()
    pool.news.start()
    yield pool
    pytest_twisted.blockon(Deferred.fromCoroutine(pool.news.stop()))
    assert not pool.clock.getDelayedCalls()


def test_a_change_is_told_at_once_and_many_make_one(pool: Pool) -> None:
    pool.news.changed()
    assert len(pool.told) == 1
    for state in ("down", "unknown", "ready", "down"):
        pool.state = state
        pool.news.changed()
    assert len(pool.told) == 1, "within the pause"
    pool.clock.advance(PAUSE_S)
    assert [views[0]["state"] for views in pool.told] == ["ready", "down"]


def test_time_alone_is_no_news_and_what_nobody_tells_is_found(pool: Pool) -> None:
    pool.news.changed()
    for _ in range(60):
        pool.clock.advance(1.0)
    assert len(pool.told) == 1
    pool.state = "down"
    pool.clock.pump([1.0] * int(LOOK_S + PAUSE_S))
    assert len(pool.told) == 2


def test_a_bad_look_does_not_end_it(pool: Pool) -> None:
    pool.broken = True
    with capturedLogs() as logs:
        pool.news.changed()
    assert len(logs) == 1 and "log_failure" in logs[0]
    pool.broken = False
    pool.news.changed()
    pool.clock.advance(PAUSE_S)
    assert len(pool.told) == 1


@pytest_twisted.ensureDeferred
async def test_nothing_is_looked_at_for_nobody_and_who_comes_is_told() -> None:
    heard, looks, told = False, [], list[Any]()
    clock = Clock()

    def views() -> list[dict[str, Any]]:
        looks.append(clock.seconds())
        return []

    news = WorkerNews(clock=clock, views=views, publish=told.append, is_heard=lambda: heard)
    news.start()
    for _ in range(20):
        news.changed()
        clock.advance(1.0)
    assert (looks, told) == ([], [])
    heard = True
    clock.pump([1.0] * int(LOOK_S + PAUSE_S))
    assert looks and told == [[]]
    await news.stop()
    assert not clock.getDelayedCalls()
