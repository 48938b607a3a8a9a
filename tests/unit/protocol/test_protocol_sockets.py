"""Sessions over real loopback sockets, with Autobahn's Twisted client: their beginning and end."""

import json

import pytest
import pytest_twisted
from twisted.internet.task import deferLater
from wamp_peers import (
    AGENT,
    Refused,
    joined_bare,
    reactor,
    serving,
    until,
    with_tokens,
)

from cumulusd.identity import Authenticator, Role, hash_token
from cumulusd.protocol.limits import Limits

# Coming in and going out


@pytest_twisted.ensureDeferred
async def test_a_ticket_alone_identifies() -> None:
    async with serving(with_tokens()) as server:
        client = await server.join("client-token")
        assert (client.details.authid, client.details.authrole) == ("ann", "client")
        assert client.details.authmethod == "ticket"
        assert server.router.stats().sessions[Role.CLIENT] == 1


@pytest_twisted.ensureDeferred
async def test_a_wrong_token_is_refused_and_no_method_too() -> None:
    async with serving(with_tokens()) as server:
        with pytest.raises(Refused, match=r"wamp\.error\.not_authenticated"):
            await server.join("guessed")
        with pytest.raises(Refused, match=r"wamp\.error\.no_auth_method"):
            await server.join(authmethods=["anonymous"])
        with pytest.raises(Refused, match=r"wamp\.error\.no_such_realm"):
            await server.join("client-token", realm="elsewhere")
        await until(lambda: server.router.stats().connections == 0)
        assert server.router.stats().refused_sessions == 3


@pytest_twisted.ensureDeferred
async def test_an_open_daemon_takes_anybody_and_still_knows_its_agent() -> None:
    authenticator = Authenticator(())
    authenticator.add(hash_token("agent-token"), AGENT)
    async with serving(authenticator) as server:
        both = await server.join("whatever", authmethods=["ticket", "anonymous"])
        assert both.details.authmethod == "anonymous"
        ticket_only = await server.join("whatever")
        assert (ticket_only.details.authmethod, ticket_only.details.authrole) == ("ticket", "admin")
        agent = await server.join("agent-token")
        assert agent.details.authrole == "agent"


@pytest_twisted.ensureDeferred
async def test_only_what_is_there_is_announced() -> None:
    async with serving() as server:
        bare = await server.bare()
        bare.sendMessage(b'[1,"cumulus",{"roles":{"caller":{}}}]')
        await until(lambda: len(bare.received) == 1)
    kind, session_id, details = json.loads(bare.received[0])
    assert kind == 2 and 1 < session_id <= 2**53
    assert details["roles"] == {
        "broker": {
            "features": {
                "pattern_based_subscription": True,
                "publisher_exclusion": True,
                "publisher_identification": True,
                "session_meta_api": True,
                "subscriber_blackwhite_listing": True,
                "subscription_meta_api": True,
            }
        },
        "dealer": {
            "features": {
                "call_canceling": True,
                "call_timeout": True,
                "caller_identification": True,
                "pattern_based_registration": True,
                "progressive_call_results": True,
                "registration_meta_api": True,
                "session_meta_api": True,
            }
        },
    }
    assert not {"server", "agent", "x_cb_node"} & set(details)


@pytest_twisted.ensureDeferred
async def test_goodbye_is_answered_and_the_connection_closed() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        bare.sendMessage(b'[6,{},"wamp.close.close_realm"]')
        await until(lambda: bare.gone)
        assert json.loads(bare.received[-1])[2] == "wamp.close.goodbye_and_out"
        assert bare.close_code == 1000
        await until(lambda: server.router.stats().connections == 0)


@pytest_twisted.ensureDeferred
async def test_stop_says_goodbye_and_takes_nobody_new() -> None:
    async with serving() as server:
        client = await server.join()
        await server.router.stop(2.0)
        await until(lambda: client.gone)
        assert client.left.reason == "wamp.close.system_shutdown"
        with pytest.raises(Refused, match=r"stopping|503"):
            await server.bare()


@pytest_twisted.ensureDeferred
async def test_stop_aborts_who_does_not_answer() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        began = reactor.seconds()
        await server.router.stop(0.2)
        assert reactor.seconds() - began < 2.0
        assert server.router.stats().connections == 0
        await until(lambda: bare.gone)
        # Late messages after GOODBYE did no harm on the way.
        assert json.loads(bare.received[1])[0] == 6


@pytest_twisted.ensureDeferred
async def test_late_messages_after_goodbye_are_tolerated() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        server.router._joined[max(server.router._joined)].leave("wamp.close.normal", "bye")
        await until(lambda: len(bare.received) == 2)
        bare.sendMessage(b'[70,1,{},[],{"late":1}]')
        bare.sendMessage(b'[8,68,1,{},"some.error"]')
        bare.sendMessage(b'[6,{},"wamp.close.goodbye_and_out"]')
        await until(lambda: bare.gone)
        assert bare.close_code == 1000
        assert server.router.stats().violations == 0


@pytest_twisted.ensureDeferred
async def test_a_silent_connection_is_closed() -> None:
    async with serving(limits=Limits(hello_timeout_s=0.1)) as server:
        bare = await server.bare()
        await until(lambda: bare.gone)
        assert json.loads(bare.received[0])[0] == 3
        assert "not opened within" in json.loads(bare.received[0])[1]["message"]


@pytest_twisted.ensureDeferred
async def test_a_peer_that_answers_no_ping_is_dropped() -> None:
    limits = Limits(ping_interval_s=0.1, ping_timeout_s=0.1)
    async with serving(limits=limits) as server:
        good = await server.join()
        bare = await joined_bare(server)
        bare.onPing = lambda payload: None
        await until(lambda: bare.gone)
        await deferLater(reactor, 0.3, lambda: None)
        assert not good.gone  # Autobahn answers pings by itself


# The WebSocket handshake


@pytest_twisted.ensureDeferred
async def test_origins() -> None:
    async with serving() as server:
        here = f"127.0.0.1:{server.port_number}"
        for origin in (
            "http://evil.example",
            "null",
            "file:///x",
            f"http://{here}1",
            "http://[",
            "x",
        ):
            with pytest.raises(Refused):
                await server.bare(headers={"Origin": origin})
        page = await server.bare(headers={"Origin": f"http://{here}"})
        assert not page.gone
        assert not (await server.bare()).gone  # no page at all


@pytest_twisted.ensureDeferred
async def test_the_subprotocol_must_be_one_of_ours() -> None:
    async with serving() as server:
        with pytest.raises(Refused):
            await server.bare("wamp.2.ubjson")
        with pytest.raises(Refused):
            await server.bare("chat")
