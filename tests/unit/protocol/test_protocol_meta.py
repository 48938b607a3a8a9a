"""WAMP's meta API, asked and listened to by real peers."""

import json
from typing import Any

import pytest
import pytest_twisted
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallOptions, RegisterOptions, SubscribeOptions
from test_protocol_confinement import Peer, serve
from twisted.internet.defer import Deferred
from wamp_peers import ADMIN, AGENT, CLIENT, nothing, reactor, serving, until, with_tokens

from cumulusd.identity import Role
from cumulusd.protocol.authorize import ANYTHING, Action

OPEN = {(role, action): (ANYTHING,) for role in Role for action in Action}


async def call(session: Any, procedure: str, *args: Any, **kwargs: Any) -> Any:
    return await session.call(procedure, *args, **kwargs).addTimeout(10, reactor)


async def refused(session: Any, procedure: str, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ApplicationError) as caught:
        await call(session, procedure, *args, **kwargs)
    error: str = caught.value.error
    return error


async def listen(session: Any, topic: str, match: str = "exact") -> list[tuple[Any, ...]]:
    heard: list[tuple[Any, ...]] = []
    await session.subscribe(
        lambda *args: heard.append(args), topic, options=SubscribeOptions(match=match)
    )
    return heard


# Sessions


@pytest_twisted.ensureDeferred
async def test_sessions_are_counted_listed_and_told() -> None:
    async with serving(with_tokens()) as server:
        admin = await server.join("admin-token")
        client = await server.join("client-token", serializer="json")
        assert await call(admin, "wamp.session.count") == 2
        assert await call(admin, "wamp.session.count", ["client"]) == 1
        assert await call(admin, "wamp.session.count", None) == 2
        assert await call(admin, "wamp.session.count", ["agent"]) == 0
        ids = {session.details.session for session in (admin, client)}
        assert set(await call(admin, "wamp.session.list")) == ids
        assert await call(admin, "wamp.session.list", ["client"]) == [client.details.session]
        details = await call(admin, "wamp.session.get", client.details.session)
        assert details.pop("transport")["protocol"] == "wamp.2.json"
        assert details == {
            "session": client.details.session,
            "authid": CLIENT.name,
            "authrole": "client",
            "authmethod": "ticket",
            "authprovider": "static",
        }
        assert await refused(admin, "wamp.session.get", 77) == "wamp.error.no_such_session"
        for wrong in [(), ("7",), (True,), (None,)]:
            assert await refused(admin, "wamp.session.get", *wrong) == "wamp.error.invalid_argument"
        assert await refused(admin, "wamp.session.count", "client") == "wamp.error.invalid_argument"


@pytest_twisted.ensureDeferred
async def test_a_session_is_killed_with_a_reason() -> None:
    async with serving(with_tokens()) as server:
        admin = await server.join("admin-token")
        first, second = await server.join("client-token"), await server.join("client-token")
        await call(admin, "wamp.session.kill", first.details.session)
        await until(lambda: first.left is not None)
        assert first.left.reason == "wamp.close.normal"
        await call(
            admin, "wamp.session.kill", second.details.session, reason="com.app.bye", message="why"
        )
        await until(lambda: second.left is not None)
        assert (second.left.reason, second.left.message) == ("com.app.bye", "why")
        own = admin.details.session
        assert await refused(admin, "wamp.session.kill", own) == "wamp.error.no_such_session"
        assert await refused(admin, "wamp.session.kill", 1) == "wamp.error.no_such_session"
        third = await server.join("client-token")
        for reason in ("", "no uri", 7):
            error = await refused(admin, "wamp.session.kill", third.details.session, reason=reason)
            assert error == "wamp.error.invalid_uri"
        assert third.left is None


@pytest_twisted.ensureDeferred
async def test_sessions_are_killed_by_what_they_are_but_never_ones_own() -> None:
    async with serving(with_tokens()) as server:
        admin, other = await server.join("admin-token"), await server.join("admin-token")
        clients = [await server.join("client-token") for _ in range(2)]
        viewer, agent = await server.join("viewer-token"), await server.join("agent-token")
        killed = await call(admin, "wamp.session.kill_by_authid", CLIENT.name)
        assert set(killed) == {client.details.session for client in clients}
        assert await call(admin, "wamp.session.kill_by_authid", ADMIN.name) == [
            other.details.session
        ]
        assert await call(admin, "wamp.session.kill_by_authrole", "agent") == 1
        assert await call(admin, "wamp.session.kill_by_authrole", "admin") == 0
        assert await call(admin, "wamp.session.kill_all") == 1
        await until(lambda: all(s.left is not None for s in (other, *clients, viewer, agent)))
        assert await call(admin, "wamp.session.list") == [admin.details.session]


@pytest_twisted.ensureDeferred
async def test_joining_and_leaving_is_told() -> None:
    async with serving(with_tokens()) as server:
        admin = await server.join("admin-token")
        joined = await listen(admin, "wamp.session.on_join")
        left = await listen(admin, "wamp.session.on_leave")
        both = await listen(admin, "wamp.session.", "prefix")
        agent = await server.join("agent-token")
        await until(lambda: len(joined) == 1)
        (details,) = joined[0]
        assert (details["session"], details["authid"]) == (agent.details.session, AGENT.name)
        agent.drop()
        await until(lambda: len(left) == 1)
        assert left[0] == (agent.details.session, AGENT.name, "agent")
        await until(lambda: len(both) == 2)


@pytest_twisted.ensureDeferred
async def test_who_may_use_it() -> None:
    async with serving(with_tokens()) as server:
        viewer, client = await server.join("viewer-token"), await server.join("client-token")
        assert await call(viewer, "wamp.session.count") == 2
        denied = "wamp.error.not_authorized"
        assert await refused(viewer, "wamp.session.kill_all") == denied
        for procedure in ("wamp.session.count", "wamp.registration.list", "wamp.session.kill_all"):
            assert await refused(client, procedure) == denied
        with pytest.raises(ApplicationError, match="not_authorized"):
            await client.subscribe(print, "wamp.session.on_join")


# Registrations and subscriptions


@pytest_twisted.ensureDeferred
async def test_registrations_are_told() -> None:
    async with serving(allowed=OPEN) as server:
        server.router.local().register("app.own", nothing)
        peer, watcher = await server.join(), await server.join()
        told = {
            name: await listen(watcher, f"wamp.registration.on_{name}")
            for name in ("create", "register", "unregister", "delete")
        }
        exact = await peer.register(print, "app.exact")
        prefix = await peer.register(print, "app.", options=RegisterOptions(match="prefix"))
        wildcard = await peer.register(print, "app..x", options=RegisterOptions(match="wildcard"))
        lists = await call(watcher, "wamp.registration.list")
        own = await call(watcher, "wamp.registration.lookup", "app.own")
        assert lists == {"exact": [own, exact.id], "prefix": [prefix.id], "wildcard": [wildcard.id]}
        assert await call(watcher, "wamp.registration.lookup", "app.") is None
        found = await call(watcher, "wamp.registration.lookup", "app.", {"match": "prefix"})
        assert found == prefix.id
        for uri, number in [("app.exact", exact.id), ("app.y.x", prefix.id), ("other", None)]:
            assert await call(watcher, "wamp.registration.match", uri) == number
        details = await call(watcher, "wamp.registration.get", wildcard.id)
        assert details.pop("created").endswith("Z")
        assert details == {
            "id": wildcard.id,
            "uri": "app..x",
            "match": "wildcard",
            "invoke": "single",
        }
        callees = await call(watcher, "wamp.registration.list_callees", exact.id)
        assert callees == [peer.details.session]
        assert await call(watcher, "wamp.registration.count_callees", exact.id) == 1
        for verb in ("get", "list_callees", "count_callees"):
            error = await refused(watcher, f"wamp.registration.{verb}", 999)
            assert error == "wamp.error.no_such_registration"
        error = await refused(watcher, "wamp.registration.lookup", "app.", {"match": "near"})
        assert error == "wamp.error.invalid_argument"
        await exact.unregister()
        peer.drop()
        await until(lambda: len(told["delete"]) == 3)
        session = peer.details.session
        assert [each[0] for each in told["create"]] == [session] * 3
        assert [each[1]["id"] for each in told["create"]] == [exact.id, prefix.id, wildcard.id]
        assert told["register"] == told["unregister"] == told["delete"]
        assert told["delete"][0] == (session, exact.id)


@pytest_twisted.ensureDeferred
async def test_subscriptions_are_told() -> None:
    async with serving(allowed=OPEN) as server:
        one, two, watcher = await server.join(), await server.join(), await server.join()
        created = await listen(watcher, "wamp.subscription.on_create")
        deleted = await listen(watcher, "wamp.subscription.on_delete")
        exact = await one.subscribe(print, "app.t")
        prefix = await one.subscribe(print, "app", options=SubscribeOptions(match="prefix"))
        await two.subscribe(print, "app.t")
        lists = await call(watcher, "wamp.subscription.list")
        assert exact.id in lists["exact"] and lists["prefix"] == [prefix.id]
        assert lists["wildcard"] == []
        assert await call(watcher, "wamp.subscription.lookup", "app.t") == exact.id
        assert await call(watcher, "wamp.subscription.lookup", "app") is None
        assert await call(watcher, "wamp.subscription.match", "app.t") == [exact.id, prefix.id]
        assert await call(watcher, "wamp.subscription.match", "none") is None
        details = await call(watcher, "wamp.subscription.get", prefix.id)
        assert (details["uri"], details["match"]) == ("app", "prefix")
        subscribers = await call(watcher, "wamp.subscription.list_subscribers", exact.id)
        assert subscribers == [one.details.session, two.details.session]
        assert await call(watcher, "wamp.subscription.count_subscribers", exact.id) == 2
        for verb in ("get", "list_subscribers", "count_subscribers"):
            error = await refused(watcher, f"wamp.subscription.{verb}", 999)
            assert error == "wamp.error.no_such_subscription"
        one.drop()
        await until(lambda: len(deleted) == 1)
        assert deleted == [(one.details.session, prefix.id)]
        assert await call(watcher, "wamp.subscription.count_subscribers", exact.id) == 1
        # The watcher's own second subscription and those of the two.
        assert [each[1]["uri"] for each in created][-2:] == ["app.t", "app"]


ODD: list[Any] = [
    *(10**18, 10**300, -1, 1.5, "x" * 5000, None, True, [], {}, [[]], {"a": {}}, ["a"] * 1000),
    *({"match": [1]}, {"match": {}}),
]


@pytest.mark.parametrize("first", ODD, ids=range(len(ODD)))
def test_odd_arguments_are_answered_and_leave_the_session_as_it_was(first: Any) -> None:
    router, _ = serve(OPEN)
    admin = Peer(router, ADMIN)
    number = 0
    for procedure in router._requests.meta.procedures:
        for second in ODD:
            number += 1
            keywords = {"reason": first, "message": second}
            if procedure == "wamp.session.kill_all":
                keywords["reason"] = "no uri"
            (answer,) = admin.say([48, number, {}, procedure, [first, second], keywords])
            assert answer[0] == 50 or answer[4].startswith("wamp.error."), answer
            assert len(json.dumps(answer)) < 2000


# What is WAMP's own


@pytest_twisted.ensureDeferred
async def test_nobody_takes_the_routers_place() -> None:
    async with serving(allowed=OPEN) as server:
        peer, other = await server.join(), await server.join()
        for uri in ("wamp.session.count", "wamp.mine"):
            with pytest.raises(ApplicationError, match="invalid_uri"):
                await peer.register(print, uri)
        with pytest.raises(ApplicationError, match="invalid_uri"):
            await peer.register(print, "wamp.", options=RegisterOptions(match="prefix"))
        # Nor by a pattern that takes them in with others.
        await peer.register(lambda: "mine", "w", options=RegisterOptions(match="prefix"))
        assert await call(other, "wamp.session.count") == 2
        assert await refused(other, "wamp.mine") == "wamp.error.no_such_procedure"
        assert await call(other, "www.mine") == "mine"
        heard = await listen(other, "wamp.session.on_join")
        peer.publish("wamp.session.on_join", {"session": 7})
        assert await call(other, "www.mine") == "mine"
        assert heard == []


@pytest_twisted.ensureDeferred
async def test_a_call_with_a_timeout_ends_in_time() -> None:
    interrupted: Deferred[None] = Deferred()

    async def stuck(_: Any) -> None:
        await Deferred(lambda _: interrupted.callback(None))

    async with serving(allowed=OPEN) as server:
        server.router.local().register("app.stuck", stuck)
        peer = await server.join()
        with pytest.raises(ApplicationError) as caught:
            await call(peer, "app.stuck", options=CallOptions(timeout=50))
        assert caught.value.error == "wamp.error.timeout"
        await interrupted.addTimeout(5, reactor)
        assert server.router.stats().calls_in_flight == 0
