"""Agents that come: who is asked what is held, and how often."""

from collections.abc import Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from cumulusd.jobs.ports import Inventory
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.table import JobTable
from cumulusd.jobs.watcher import Watcher
from cumulusd.tasks import Merged, Tasks


class Platform:
    async def all_containers(self) -> list[Any]:
        return []

    async def disagreements(self, held: Any) -> list[Any]:
        return []


class Agents:
    """Who was asked since that was looked at last, in order."""

    def __init__(self) -> None:
        self.present: dict[str, Any] = {}
        self.asked: list[str] = []

    def agents(self) -> Mapping[str, Any]:
        return self.present

    async def inventory(self, node_id: str) -> Inventory:
        self.asked.append(node_id)
        return Inventory(jobs=frozenset(), holdings=(), kept=frozenset())


def test_an_agent_that_comes_is_asked_and_all_when_many_come() -> None:
    clock, agents = Clock(), Agents()
    settings = Settings()
    watcher = Watcher(
        table=JobTable(),
        journals=None,  # type: ignore[arg-type]
        platform=Platform(),  # type: ignore[arg-type]
        workers=agents,  # type: ignore[arg-type]
        clock=clock,
        settings=settings,
        tell=None,  # type: ignore[arg-type]
        named=None,  # type: ignore[arg-type]
    )

    def asked_after(*come: str) -> list[str]:
        agents.present.update(dict.fromkeys(come))
        agents.asked.clear()
        clock.advance(settings.watch_interval_s)
        return agents.asked

    watcher.start()
    assert asked_after() == []
    assert asked_after("a", "b", "c") == ["a", "b", "c"]
    assert asked_after("d") == ["d"]
    assert asked_after() == []
    assert asked_after("e", "f", "g", "h", "i") == list("abcdefghi")
    del agents.present["e"]
    assert asked_after() == []
    assert asked_after("e") == ["e"], "it may hold what it did before"
    agents.asked.clear()
    clock.advance(settings.reap_interval_s)
    assert sorted(agents.asked) == list("abcdefghi"), "all are from time to time"
    ended = Deferred.fromCoroutine(watcher.stop())
    assert ended.called and not clock.getDelayedCalls()


def test_merged_work_runs_once_for_all_who_ask_meanwhile() -> None:
    clock, tasks = Clock(), Tasks()
    under_way: list[Deferred[None]] = []

    def work() -> Coroutine[Any, Any, None]:
        async def wait() -> None:
            under_way.append(Deferred())
            await under_way[-1]

        return wait()

    merged = Merged(work, "testing", tasks=tasks, clock=clock, pause_s=1.0)
    merged.ask()
    assert len(under_way) == 1, "the first begins at once"
    for _ in range(5):
        merged.ask()
    under_way[0].callback(None)
    assert len(under_way) == 1
    merged.ask()
    clock.advance(1.0)
    assert len(under_way) == 2, "one for all five, and for the one in the pause"
    under_way[1].callback(None)
    clock.advance(10.0)
    assert len(under_way) == 2
    merged.ask()
    assert len(under_way) == 3, "and at once again"
    merged.ask()
    with capturedLogs() as events:
        under_way[2].errback(ValueError("bad"))
    assert [str(formatEvent(event)) for event in events] == ["testing failed"]
    clock.advance(1.0)
    assert len(under_way) == 4, "who asked before a failure is served as well"
    with capturedLogs():
        under_way[3].errback(ValueError("bad"))
    merged.ask()
    assert len(under_way) == 5, "a failure ends nothing"
    assert Deferred.fromCoroutine(tasks.stop()).called and not clock.getDelayedCalls()
