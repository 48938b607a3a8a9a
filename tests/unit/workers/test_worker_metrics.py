"""The page of the workers' engines: told from what is known, asked for meanwhile."""

from collections.abc import Mapping
from typing import Any

import pytest_twisted
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cumulus_wire import uris
from cumulusd.errors import Unavailable
from cumulusd.identity import Principal, Role
from cumulusd.workers.engine_metrics import FRESH_S, MAX_ASKED, STALE_S, WorkerMetrics

TEXT = "engine_daemon_engine_cpus_cpus 8\nprocess_open_fds 20"


class World:
    def __init__(self, count: int = 2) -> None:
        self.clock = Clock()
        self.labels: dict[str, str | None] = {f"n{i}": f"gpu {i}" for i in range(count)}
        self.calls: list[tuple[str, Deferred[dict[str, Any]]]] = []
        self.page = WorkerMetrics(self.call, self.clock, lambda: self.labels)
        for node_id in self.labels:
            self.register(node_id)

    def register(self, node_id: str, there: bool = True, verb: str = "metrics") -> None:
        who = Principal(name=node_id, owner="agents", role=Role.AGENT, node_id=node_id)
        self.page.registration_changed(uris.agent_procedure(node_id, verb), who, there)

    def call(
        self, uri: str, kwargs: Mapping[str, Any], timeout_s: float
    ) -> Deferred[dict[str, Any]]:
        answer: Deferred[dict[str, Any]] = Deferred()
        self.calls.append((uri, answer))
        return answer

    def answer(self, text: Any = TEXT, why: str | None = None) -> None:
        calls, self.calls = self.calls, []
        for _, answer in calls:
            answer.callback({"text": text, "why": why})

    def samples(self) -> dict[tuple[str, str], float]:
        return {
            (sample.name, sample.labels["worker"]): sample.value
            for family in text_string_to_metric_families(self.page.text().decode())
            for sample in family.samples
        }


def test_the_first_scrape_asks_and_the_next_one_tells() -> None:
    world = World()
    first = world.page.text().decode()
    assert first.splitlines() == [
        "# worker gpu 0 gives none: it is being asked: see the next scrape",
        "# worker gpu 1 gives none: it is being asked: see the next scrape",
    ]
    assert [uri for uri, _ in world.calls] == [
        "cumulus.agent.n0.metrics",
        "cumulus.agent.n1.metrics",
    ]
    world.answer()
    world.clock.advance(3)
    found = world.samples()
    assert found["engine_daemon_engine_cpus_cpus", "gpu 1"] == 8
    assert found["cumulus_worker_metrics_age_seconds", "gpu 0"] == 3
    assert not world.calls, "they are fresh"


def test_an_aged_answer_is_told_while_the_next_one_is_asked_for_and_then_no_more() -> None:
    world = World(1)
    world.page.text()
    world.answer()
    world.clock.advance(FRESH_S)
    assert world.samples()["process_open_fds", "gpu 0"] == 20
    assert len(world.calls) == 1
    world.samples()
    assert len(world.calls) == 1, "it is being asked already"
    world.clock.advance(STALE_S)
    assert "told them last" in world.page.text().decode()
    assert ("process_open_fds", "gpu 0") not in world.samples()
    world.answer()
    assert world.samples()["process_open_fds", "gpu 0"] == 20


def test_a_worker_that_lies_keeps_no_other_from_the_page() -> None:
    world = World(2)
    world.page.text()
    (_, first), (_, second) = world.calls
    first.callback({"text": 'process_open_fds{a="\ud800"} 1\nprocess_max_fds 9', "why": None})
    second.callback({"text": TEXT, "why": None})
    found = world.samples()
    assert found["process_open_fds", "gpu 1"] == 20
    assert found["process_max_fds", "gpu 0"] == 9 and ("process_open_fds", "gpu 0") not in found


def test_who_gives_none_is_named_with_the_reason() -> None:
    world = World(2)
    world.page.text()
    world.answer(None, "nothing answers at 127.0.0.1:9323\nevil_metric 1")
    text = world.page.text().decode()
    assert "# worker gpu 0 gives none: nothing answers at 127.0.0.1:9323?evil_metric 1" in text
    assert all(line.startswith("# worker gpu ") for line in text.splitlines())


def test_an_agent_of_an_earlier_version_is_not_asked() -> None:
    world = World(2)
    world.register("n1", there=False)
    text = world.page.text().decode()
    assert "# worker gpu 1 gives none: its agent is away, or of a version that tells none" in text
    assert [uri for uri, _ in world.calls] == ["cumulus.agent.n0.metrics"]
    world.register("n1", verb="devices")
    assert "gpu 1 gives none: its agent is away" in world.page.text().decode()


def test_an_agent_that_does_not_answer_keeps_nobody_and_what_it_told_stands() -> None:
    world = World(1)
    world.page.text()
    world.answer()
    world.clock.advance(FRESH_S)
    world.page.text()
    world.calls.pop()[1].errback(Unavailable("no answer within 15 s"))
    assert world.samples()["process_open_fds", "gpu 0"] == 20
    world.calls.pop()[1].errback(Unavailable("no answer within 15 s"))
    other = World(1)
    other.page.text()
    other.calls.pop()[1].errback(Unavailable("no answer within 15 s"))
    assert "gpu 0 gives none: no answer within 15 s" in other.page.text().decode()


def test_only_some_agents_are_asked_at_a_time_and_all_in_the_end() -> None:
    world = World(3 * MAX_ASKED)
    world.page.text()
    assert len(world.calls) == MAX_ASKED
    world.page.text()
    asked = 0
    while world.calls:
        asked += len(world.calls)
        assert len(world.calls) <= MAX_ASKED
        world.answer()
    assert asked == 3 * MAX_ASKED


def test_agents_that_answer_at_once_by_the_thousand() -> None:
    world = World(2000)
    world.page._call = lambda uri, kwargs, timeout_s: _now({"text": TEXT, "why": None})
    world.page.text()
    assert world.page.text().decode().count("\nprocess_open_fds{") == 2000


async def _now(answer: dict[str, Any]) -> dict[str, Any]:
    return answer


def test_what_an_agent_makes_up_breaks_nothing() -> None:
    world = World(4)
    world.page.text()
    bad: list[Any] = [
        17,
        "x" * (1 << 20),
        'cumulus_part_ok 0\nprocess_open_fds{worker="gpu 0"} 1',
        "process_open_fds 5\nprocess_open_fds 6\n# TYPE process_open_fds histogram",
    ]
    for (_, answer), text in zip(world.calls, bad, strict=True):
        answer.callback({"text": text})
    world.calls.clear()
    found = {key: value for key, value in world.samples().items() if "age" not in key[0]}
    assert found == {("process_open_fds", "gpu 3"): 5}


def test_workers_without_series_of_their_own_are_not_asked_and_gone_ones_are_forgotten() -> None:
    world = World(2)
    world.labels["n1"] = None
    world.page.text()
    assert len(world.calls) == 1
    world.answer()
    del world.labels["n0"]
    assert world.samples() == {} and not world.page._told


@pytest_twisted.ensureDeferred
async def test_stopping_ends_what_is_asked() -> None:
    world = World(3 * MAX_ASKED)
    world.page.text()
    await world.page.stop()
    assert not world.page._asked and len(world.calls) == MAX_ASKED
