"""The client against an engine that is old, new, away, slow, or says nonsense."""

from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from cumulusd.errors import Conflict, CumulusError, TooLarge, Unavailable
from cumulusd.swarm import answers
from cumulusd.swarm.answers import ApiVersion
from cumulusd.swarm.endpoint import EndpointFactory
from cumulusd.swarm.engine import NEWEST_API, Engine
from cumulusd.swarm.transport import Transport
from cumulusd.tasks import Tasks, sleep
from tests.contract.fake_engine import FakeEngine, Fault
from tests.contract.site import socket_endpoint

SERVICE = {
    "Name": "one",
    "Labels": {"a": "b"},
    "TaskTemplate": {
        "ContainerSpec": {"Image": "none", "Command": ["x"]},
        "Placement": {"Constraints": ["node.id==nobody"]},
    },
    "Mode": {"Replicated": {"Replicas": 1}},
}


@pytest.mark.parametrize(
    ("oldest", "newest", "spoken"),
    [
        ((1, 12), (1, 41), (1, 41)),
        ((1, 24), (1, 51), (1, 51)),
        ((1, 44), (1, 52), (1, 52)),
        ((1, 44), (1, 99), NEWEST_API),
        ((1, 44), (2, 0), NEWEST_API),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_newest_common_version_is_spoken(
    fake: FakeEngine,
    client: Engine,
    oldest: ApiVersion,
    newest: ApiVersion,
    spoken: ApiVersion,
) -> None:
    fake.oldest, fake.newest = oldest, newest
    assert await client.negotiate() == spoken
    assert len(await client.nodes()) == 2
    assert fake.asked[-1] == f"GET /v{answers.version_text(spoken)}/nodes"


@pytest.mark.parametrize(
    ("oldest", "newest", "word"),
    [((1, 12), (1, 40), "too old"), ((1, 53), (1, 60), "too new")],
)
@pytest_twisted.ensureDeferred
async def test_a_version_out_of_range_is_refused_in_words(
    fake: FakeEngine,
    client: Engine,
    oldest: ApiVersion,
    newest: ApiVersion,
    word: str,
) -> None:
    fake.oldest, fake.newest = oldest, newest
    with pytest.raises(CumulusError, match=word) as caught:
        await client.nodes()
    assert answers.version_text(newest) in caught.value.message
    assert caught.value.hint and "upgrade" in caught.value.hint
    assert not isinstance(caught.value, Unavailable)


@pytest_twisted.ensureDeferred
async def test_an_engine_that_comes_back_older_is_asked_anew(
    fake: FakeEngine,
    client: Engine,
) -> None:
    fake.newest = (1, 51)
    await client.nodes()
    fake.newest = (1, 41)
    assert len(await client.nodes()) == 2
    assert await client.negotiate() == (1, 41)


@pytest_twisted.ensureDeferred
async def test_an_engine_that_is_away_is_unavailable_until_it_is_back(
    fake: FakeEngine,
    client: Engine,
    tmp_path: Path,
) -> None:
    await client.nodes()
    await fake.close()
    with pytest.raises(Unavailable, match="can't be reached") as caught:
        await client.nodes()
    assert caught.value.details["platform"] and caught.value.hint
    await fake.listen(reactor, str(tmp_path / "engine.sock"))
    assert len(await client.nodes()) == 2


@pytest.mark.parametrize("action", ["drop", "cut"])
@pytest_twisted.ensureDeferred
async def test_a_lost_connection_is_tried_again(
    fake: FakeEngine,
    client: Engine,
    action: str,
) -> None:
    await client.negotiate()
    fake.faults = [Fault("GET /v1.41/nodes", action), Fault("GET /v1.41/nodes", action)]
    assert len(await client.nodes()) == 2
    assert fake.faults == []


@pytest_twisted.ensureDeferred
async def test_lost_for_good_is_told(fake: FakeEngine, client: Engine) -> None:
    fake.faults = [Fault("/nodes", "cut") for _ in range(10)]
    with pytest.raises(Unavailable, match="can't be reached"):
        await client.nodes()
    assert len(fake.faults) == 7


@pytest_twisted.ensureDeferred
async def test_a_create_whose_answer_was_lost_is_one_service(
    fake: FakeEngine,
    client: Engine,
) -> None:
    fake.faults = [Fault("/services/create", "drop", after=True)]
    service_id = await client.create_service(SERVICE)
    assert list(fake.swarm.services) == [service_id]
    with pytest.raises(Conflict):
        await client.create_service({**SERVICE, "Labels": {"a": "another's"}})


@pytest.mark.parametrize("action", ["hang", "stall"])
@pytest_twisted.ensureDeferred
async def test_an_engine_that_says_nothing_meets_the_deadline(
    fake: FakeEngine,
    client: Engine,
    action: str,
) -> None:
    fake.faults = [Fault("/nodes", action)]
    began_s = reactor.seconds()  # type: ignore[attr-defined]
    with pytest.raises(Unavailable) as caught:
        await client.nodes()
    assert 1.9 < reactor.seconds() - began_s < 4  # type: ignore[attr-defined]
    assert "within 2 s" in caught.value.details["platform"]


@pytest.mark.parametrize("action", ["hang", "stall"])
@pytest_twisted.ensureDeferred
async def test_a_call_that_is_cancelled_ends_and_is_not_repeated(
    fake: FakeEngine,
    client: Engine,
    action: str,
) -> None:
    await client.negotiate()
    fake.faults = [Fault("/nodes", action)]
    calling = Deferred.fromCoroutine(client.nodes())
    await sleep(reactor, 0.1)
    asked = len(fake.asked)
    calling.cancel()
    with pytest.raises(CancelledError):
        await calling
    await sleep(reactor, 0.3)
    assert len(fake.asked) == asked


@pytest_twisted.ensureDeferred
async def test_one_that_is_cancelled_while_it_connects_ends(
    fake: FakeEngine, client: Engine
) -> None:
    calling = Deferred.fromCoroutine(client.nodes())
    calling.cancel()
    with pytest.raises(CancelledError):
        await calling
    await sleep(reactor, 0.1)
    assert fake.asked == []


@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        (500, "rpc error: code = Unavailable desc = no quorum", Unavailable),
        (500, "rpc error: code = Unknown desc = The swarm does not have a leader", Unavailable),
        (500, "rpc error: code = DeadlineExceeded desc = context deadline exceeded", Unavailable),
        (503, "This node is not a swarm manager. Use …", Unavailable),
        (502, "", Unavailable),
        (500, "something broke", CumulusError),
    ],
)
@pytest_twisted.ensureDeferred
async def test_errors_carry_the_engines_words(
    fake: FakeEngine,
    client: Engine,
    status: int,
    words: str,
    error: type[CumulusError],
) -> None:
    fake.faults = [Fault("/nodes", "answer", status, words)]
    with pytest.raises(CumulusError) as caught:
        await client.nodes()
    assert type(caught.value) is error
    assert caught.value.details["platform"] == words or not words
    assert caught.value.details["engine_status"] == status


@pytest_twisted.ensureDeferred
async def test_what_is_no_engine_is_told(fake: FakeEngine, client: Engine) -> None:
    fake.faults = [Fault("/version", "answer", 200, "hello")]
    fake.newest = (1, 41)
    assert await client.negotiate() == (1, 41)  # an engine without a minimum is an old one
    fake.swarm.nodes["odd"] = {"ID": "odd"}
    with pytest.raises(CumulusError, match="can't be read") as caught:
        await client.nodes()
    assert "Version" in caught.value.details["platform"]


@pytest_twisted.ensureDeferred
async def test_an_answer_beyond_its_bound_is_refused_or_cut(
    fake: FakeEngine,
    tmp_path: Path,
) -> None:
    endpoint = socket_endpoint(tmp_path / "engine.sock")
    transport = Transport(reactor, EndpointFactory(reactor, endpoint), "it")
    whole = (await transport.call("GET", "/v1.41/nodes")).body
    with pytest.raises(TooLarge, match="more than 100 bytes"):
        await transport.call("GET", "/v1.41/nodes", max_bytes=100)
    cut = await transport.call("GET", "/v1.41/nodes", max_bytes=100, keep_end=True)
    assert cut.body == whole[-100:]
    await transport.close()


@pytest_twisted.ensureDeferred
async def test_events_go_on_after_the_engine_was_away(
    fake: FakeEngine,
    client: Engine,
    tmp_path: Path,
) -> None:
    tasks, connected, heard = Tasks(), list[int](), list[str]()
    worker = list(fake.swarm.nodes)[1]
    tasks.start(
        client.watch_events(
            ["node"],
            connected=lambda: connected.append(1),
            heard=lambda event: heard.append(event.action),
        ),
        "watching",
    )
    await _until(lambda: len(connected) == 1)
    await fake.close()
    await sleep(reactor, 0.5)
    await fake.listen(reactor, str(tmp_path / "engine.sock"))
    await _until(lambda: len(connected) == 2)
    fake.swarm.node_down(worker)
    await _until(lambda: heard == ["update"])
    await tasks.stop()
    await _until(lambda: not fake.swarm.listeners)


@pytest_twisted.ensureDeferred
async def test_a_listener_that_fails_is_logged_and_hears_on(
    fake: FakeEngine,
    client: Engine,
) -> None:
    tasks, connected, heard = Tasks(), list[int](), list[str]()
    worker = list(fake.swarm.nodes)[1]

    def listen(event: answers.Event) -> None:
        heard.append(event.action)
        if len(heard) == 1:
            raise RuntimeError("a fault of ours")

    watching = client.watch_events(["node"], connected=lambda: connected.append(1), heard=listen)
    tasks.start(watching, "watching")
    await _until(lambda: len(connected) == 1)
    with capturedLogs() as events:
        fake.swarm.node_down(worker)
        await _until(lambda: len(connected) == 2)
    assert [str(one["log_failure"].value) for one in events if "log_failure" in one] == [
        "a fault of ours"
    ]
    fake.swarm.node_up(worker)
    await _until(lambda: heard == ["update", "update"])
    await tasks.stop()
    await _until(lambda: not fake.swarm.listeners)


async def _until(true: Callable[[], bool]) -> None:
    ends_s = reactor.seconds() + 5  # type: ignore[attr-defined]
    while not true():
        assert reactor.seconds() < ends_s  # type: ignore[attr-defined]
        await sleep(reactor, 0.02)
