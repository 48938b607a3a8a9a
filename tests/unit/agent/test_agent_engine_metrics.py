"""The agent's verb `metrics`: what its engine tells, bounded in bytes and time; none is fine."""

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from agent_world import World
from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from cumulusd.agent import engine_metrics
from cumulusd.agent.engine_metrics import EngineMetrics

PAGE = b"""# HELP engine_daemon_engine_cpus_cpus The number of cpus
# TYPE engine_daemon_engine_cpus_cpus gauge
engine_daemon_engine_cpus_cpus 8
go_gc_duration_seconds{quantile="0"} 1e-05
etcd_disk_wal_fsync_duration_seconds_count 9
engine_daemon_container_states_containers{state="running"} 2
"""


class _Engine(Resource):
    isLeaf = True

    def __init__(self, body: bytes | None, status: int) -> None:
        super().__init__()
        self.body, self.status = body, status
        self.asked: list[Any] = []
        self.gone: list[Deferred[None]] = []

    def render_GET(self, request: Any) -> Any:
        self.asked.append(request.path)
        gone: Deferred[None] = Deferred()
        self.gone.append(gone)
        request.notifyFinish().addBoth(lambda _: gone.callback(None))
        request.setResponseCode(self.status)
        return NOT_DONE_YET if self.body is None else self.body


async def told_by(body: bytes | None, status: int = 200) -> dict[str, Any]:
    engine = _Engine(body, status)
    site = Site(engine)
    site.noisy = False
    port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
    try:
        address = f"127.0.0.1:{port.getHost().port}"
        answer = await EngineMetrics(reactor, address).tell({})
        assert engine.asked == [b"/metrics"]
        return answer
    finally:
        for gone in engine.gone:
            await gone.addTimeout(30, reactor)
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_known_families_are_told_and_nothing_else() -> None:
    assert await told_by(PAGE) == {
        "text": "engine_daemon_engine_cpus_cpus 8\n"
        'engine_daemon_container_states_containers{state="running"} 2',
        "why": None,
    }


@pytest_twisted.ensureDeferred
async def test_another_status_is_none() -> None:
    answer = await told_by(b"no", 404)
    assert answer["text"] is None and "status 404" in answer["why"]


@pytest_twisted.ensureDeferred
async def test_what_is_no_engine_is_none() -> None:
    answer = await told_by(b"<html>\n")
    assert answer["text"] is None and "nothing of a Docker Engine" in answer["why"]


@pytest_twisted.ensureDeferred
async def test_too_long_an_answer_is_none() -> None:
    answer = await told_by(b"x" * (engine_metrics.MAX_BYTES + 100_000))
    assert answer["text"] is None and "more than" in answer["why"]


@pytest_twisted.ensureDeferred
async def test_an_engine_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_metrics, "DEADLINE_S", 0.2)
    answer = await told_by(None)
    assert answer["text"] is None and "within 0.2 s" in answer["why"]


@pytest_twisted.ensureDeferred
async def test_without_metrics_addr_it_says_what_to_set() -> None:
    port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
        Site(Resource())
    )
    address = f"127.0.0.1:{port.getHost().port}"
    await port.stopListening()
    answer = await EngineMetrics(reactor, address).tell({})
    assert answer["text"] is None
    assert address in answer["why"] and "metrics-addr in the engine's daemon.json" in answer["why"]
    answer = await EngineMetrics(reactor, None).tell({})
    assert answer["text"] is None and "no address" in answer["why"]


@pytest_twisted.ensureDeferred
async def test_it_is_a_verb_of_the_agent(make: Callable[..., World]) -> None:
    world = await make(engine_metrics=None).start()
    answer = await world.router.call("metrics")
    assert answer["text"] is None and "no address" in answer["why"]


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_does_not_know_the_verb_has_the_agent_all_the_same(
    make: Callable[..., World],
) -> None:
    world = make(engine_metrics=None)
    world.router.unknown = {"metrics"}
    await world.start()
    assert (await world.router.call("devices"))["hostname"] == "host-1"
    assert world.router.joined == 1
