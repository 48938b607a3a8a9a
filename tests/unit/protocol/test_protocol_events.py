"""Topics over real loopback sockets."""

from typing import Any

import pytest
import pytest_twisted
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import SubscribeOptions
from twisted.internet.task import deferLater
from wamp_peers import (
    CLIENT,
    SERIALIZERS,
    reactor,
    serving,
    until,
    with_tokens,
)

from cumulusd.identity import Principal


@pytest_twisted.ensureDeferred
async def test_events_reach_subscribers_until_they_unsubscribe() -> None:
    got: list[tuple[str, Any]] = []
    async with serving() as server:
        local = server.router.local()
        clients = [await server.join(serializer=name) for name in SERIALIZERS]
        subscriptions = [
            await client.subscribe(
                lambda name=name, **kwargs: got.append((name, kwargs)), "cumulus.workers"
            )
            for name, client in zip(SERIALIZERS, clients, strict=True)
        ]
        assert server.router.stats().topics == 1
        local.publish("cumulus.workers", {"workers": [{"data": b"\0\1"}]})
        await until(lambda: len(got) == 3)
        assert sorted(name for name, _ in got) == sorted(SERIALIZERS)
        assert all(kwargs == {"workers": [{"data": b"\0\1"}]} for _, kwargs in got)
        for subscription in subscriptions:
            await subscription.unsubscribe()
        assert server.router.stats().topics == 0
        local.publish("cumulus.workers", {"workers": []})
        await deferLater(reactor, 0.02, lambda: None)
        assert len(got) == 3


@pytest_twisted.ensureDeferred
async def test_an_event_json_cannot_carry_is_counted_and_reaches_the_others() -> None:
    got: list[str] = []
    async with serving() as server:
        json_client, cbor_client = await server.join(serializer="json"), await server.join()
        await json_client.subscribe(lambda **kwargs: got.append("json"), "cumulus.jobs")
        await cbor_client.subscribe(lambda **kwargs: got.append(kwargs["t"]), "cumulus.jobs")
        server.router.local().publish("cumulus.jobs", {"t": "\0QUJD"})
        await until(lambda: got == ["\0QUJD"])
        assert server.router.stats().events_dropped == 1


@pytest_twisted.ensureDeferred
async def test_a_jobs_topic_is_for_its_owner() -> None:
    def owns(principal: Principal, job_id: str) -> bool:
        return principal == CLIENT and job_id == "mine"

    async with serving(with_tokens(), owns_job=owns) as server:
        client = await server.join("client-token")
        await client.subscribe(lambda **kwargs: None, "cumulus.job.mine.status")
        for topic in ("cumulus.job.theirs.status", "cumulus.jobs", "cumulus.workers"):
            with pytest.raises(ApplicationError) as caught:
                await client.subscribe(lambda **kwargs: None, topic)
            assert caught.value.error == "wamp.error.not_authorized"
            assert caught.value.kwargs["code"] == "not_authorized"


@pytest_twisted.ensureDeferred
async def test_whether_anybody_listens_is_known_whatever_they_asked_for() -> None:
    async with serving() as server:
        local = server.router.local()
        assert not local.is_heard("cumulus.workers")
        client = await server.join()
        subscription = await client.subscribe(lambda **kwargs: None, "cumulus.workers")
        assert local.is_heard("cumulus.workers") and not local.is_heard("cumulus.jobs")
        await subscription.unsubscribe()
        assert not local.is_heard("cumulus.workers")
        options = SubscribeOptions(match="wildcard")
        await client.subscribe(lambda **kwargs: None, "cumulus.job..status", options)
        assert local.is_heard("cumulus.job.j1.status") and not local.is_heard("cumulus.job.j1")
        await client.leave()
        await until(lambda: not local.is_heard("cumulus.job.j1.status"))
