"""Every bound of the router over real sockets: how it is answered, and that it is counted."""

import json
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from autobahn.exception import Disconnected
from autobahn.websocket.protocol import WebSocketProtocol
from raw_peer import Peer, frame
from twisted.internet.task import deferLater
from wamp_peers import MIB, Bare, Refused, Server, joined_bare, nothing, reactor, serving, until

from cumulusd.identity import Role
from cumulusd.protocol.admission import TURNED_AWAY_AT_ONCE
from cumulusd.protocol.authorize import ANYTHING, Action
from cumulusd.protocol.limits import Limits

TOO_MANY = "cumulus.error.too_many"
OPEN = {(role, action): (ANYTHING,) for role in Role for action in Action}


async def answer(bare: Bare, message: list[Any]) -> list[Any]:
    """The next message the router sends after this one."""
    before = len(bare.received)
    bare.sendMessage(json.dumps(message).encode())
    await until(lambda: len(bare.received) > before)
    return list(json.loads(bare.received[before]))


def refusals(server: Server) -> dict[str, int]:
    """Those that were counted."""
    return {name: count for name, count in server.router.stats().refusals.items() if count}


# Requests


@pytest_twisted.ensureDeferred
async def test_subscriptions_registrations_calls_and_uris() -> None:
    limits = Limits(
        max_subscriptions=1, max_registrations=1, max_calls_in_flight=1, max_uri_chars=128
    )
    waiting: list[Any] = []

    async def wait(call: Any) -> None:
        waiting.append(call)
        await deferLater(reactor, 60, lambda: None)

    async with serving(limits=limits, allowed=OPEN) as server:
        server.router.local().register("cumulus.job.attach", wait)
        bare = await joined_bare(server)
        assert (await answer(bare, [32, 1, {}, "cumulus.jobs"]))[0] == 33
        error = await answer(bare, [32, 2, {}, "cumulus.workers"])
        assert error[:3] == [8, 32, 2] and error[4] == TOO_MANY
        assert "at most 1 a session" in error[5][0] and error[6]["hint"]
        assert (await answer(bare, [64, 3, {}, "some.procedure"]))[0] == 65
        error = await answer(bare, [64, 4, {}, "another.procedure"])
        assert error[:3] == [8, 64, 4] and error[4] == TOO_MANY
        assert "router.max_registrations" in error[5][0] and error[6]["hint"]
        bare.sendMessage(b'[48,5,{},"cumulus.job.attach"]')
        await until(lambda: len(waiting) == 1)
        error = await answer(bare, [48, 6, {}, "cumulus.job.attach"])
        assert error[:3] == [8, 48, 6] and error[4] == TOO_MANY
        assert "router.max_calls_in_flight" in error[5][0] and error[6]["hint"]
        for kind in (32, 48, 64):
            error = await answer(bare, [kind, 7, {}, "u" * 129])
            assert error[:3] == [8, kind, 7] and error[4] == "wamp.error.invalid_uri"
            assert "at most 128 characters" in error[5][0]
        assert refusals(server) == {
            "subscriptions": 1,
            "registrations": 1,
            "calls_in_flight": 1,
            "uri": 3,
        }
        assert not bare.gone


# Messages


@pytest_twisted.ensureDeferred
async def test_a_message_too_big_is_told_by_abort_and_by_the_close_code() -> None:
    async with serving(limits=Limits(max_message_bytes=100_000)) as server:
        bare = await joined_bare(server)
        bare.sendMessage(b"x" * 100_001)
        await until(lambda: bare.gone)
        abort = json.loads(bare.received[-1])
        assert (abort[0], abort[2]) == (3, "wamp.error.payload_size_exceeded")
        assert "at most 100000 are taken" in abort[1]["message"]
        assert "send it in parts" in abort[1]["message"]
        assert bare.close_code == 1009
        assert refusals(server) == {"message_size": 1}
        await until(lambda: server.router.stats().connections == 0)


@pytest_twisted.ensureDeferred
async def test_who_has_not_joined_may_send_little_at_a_time() -> None:
    """A thousand strangers with half a HELLO of 2 MiB each would take 2 GiB."""
    async with serving() as server:
        with Peer(server.port_number) as peer:
            await peer.opens()
            peer.received = b""
            peer.send_all(frame(b"x" * 70_000, length=2_000_000))
            await until(lambda: peer.read() or len(peer.messages()) == 2)
            abort, (code, _) = peer.messages()
            assert (abort[2], code) == ("wamp.error.payload_size_exceeded", 1009)
            assert "at most 65536 are taken before WELCOME" in abort[1]["message"]
        with Peer(server.port_number) as peer:
            await peer.joins()
            peer.send_all(frame(b'[48,1,{},"a.b",["%s"]]' % (b"x" * 1_000_000)))
            await until(lambda: peer.read() or len(peer.messages()) == 1)
            assert peer.messages()[0][4] == "wamp.error.not_authorized"


@pytest_twisted.ensureDeferred
async def test_a_message_in_too_many_fragments() -> None:
    async with serving(limits=Limits(close_timeout_s=0.3)) as server:
        with Peer(server.port_number) as peer:
            await peer.joins()
            peer.send(frame(b"", fin=False) + 4096 * frame(b"", 0, fin=False))
            await until(peer.read)
            abort, close = peer.messages()
            assert abort[2] == "wamp.error.payload_size_exceeded"
            assert "more than 4096 frames" in abort[1]["message"]
            assert close[0] == 1009
            assert server.router.stats().refusals["message_fragments"] == 1


@pytest_twisted.ensureDeferred
async def test_a_message_that_never_becomes_whole() -> None:
    """A drop of it now and then shows that the peer lives, and is no way to stay for ever."""
    limits = Limits(
        message_timeout_s=0.2, ping_interval_s=0.05, ping_timeout_s=0.05, close_timeout_s=0.2
    )
    async with serving(limits=limits) as server:
        with Peer(server.port_number) as peer:
            await peer.joins()
            peer.send(frame(b"[", length=100_000))
            while not peer.read():
                peer.send(b" ")
                await deferLater(reactor, 0.02, lambda: None)
            abort, close = peer.messages()
            assert "did not become whole within 0.2 s" in abort[1]["message"]
            assert close[0] == 1008
            assert server.router.stats().refusals["message_timeout"] == 1


@pytest_twisted.ensureDeferred
async def test_what_breaks_websocket_itself_is_a_violation() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        bare.sendFrame(opcode=3, payload=b"reserved")
        await until(lambda: bare.gone)
        assert bare.close_code == 1002
        abort = json.loads(bare.received[-1])
        assert (abort[0], abort[2]) == (3, "wamp.error.protocol_violation")
        text = await joined_bare(server)
        text.sendFrame(opcode=WebSocketProtocol.MESSAGE_TYPE_TEXT, payload=b"\xff\xfe")
        await until(lambda: text.gone)
        assert text.close_code == 1007
        assert refusals(server) == {"violation": 2}


@pytest_twisted.ensureDeferred
async def test_who_sends_too_fast_is_read_from_more_slowly_and_loses_nothing() -> None:
    limits = Limits(max_messages_per_s=200, message_burst=20)
    async with serving(limits=limits) as server:
        server.router.local().register("cumulus.job.get", nothing)
        bare = await joined_bare(server)
        session = server.router._joined[max(server.router._joined)]
        for number in range(1, 101):
            bare.sendMessage(b'[48,%d,{},"cumulus.job.get"]' % number)
        await until(lambda: session.inbox.silent_since(0.0) is None)
        await until(lambda: len(bare.received) == 101)
        assert [json.loads(each)[1] for each in bare.received[1:]] == list(range(1, 101))
        assert refusals(server) == {}


@pytest_twisted.ensureDeferred
async def test_who_sends_too_fast_for_too_long_is_told_and_closed() -> None:
    limits = Limits(
        max_messages_per_s=100, message_burst=10, message_rate_patience_s=0.3, close_timeout_s=0.5
    )
    async with serving(limits=limits) as server:
        server.router.local().register("cumulus.job.get", nothing)
        bare = await joined_bare(server)
        number = 0
        while not bare.gone:
            for _ in range(10):
                number += 1
                with suppress(Disconnected):
                    bare.sendMessage(b'[48,%d,{},"cumulus.job.get"]' % number)
            await deferLater(reactor, 0.01, lambda: None)
        abort = json.loads(bare.received[-1])
        assert (abort[0], abort[2]) == (3, TOO_MANY)
        assert "over 100 messages a second for 0.3 s" in abort[1]["message"]
        assert server.router.stats().refusals["message_rate"] == 1


@pytest_twisted.ensureDeferred
async def test_pings_count_as_messages_do() -> None:
    limits = Limits(max_messages_per_s=50, message_burst=10)
    async with serving(limits=limits) as server:
        bare = await joined_bare(server)
        session = server.router._joined[max(server.router._joined)]
        pongs: list[bytes] = []
        bare.onPong = pongs.append
        for _ in range(30):
            bare.sendPing(b"still there?")
        await until(lambda: session.inbox.silent_since(0.0) is None)
        await until(lambda: len(pongs) == 30)
        assert not bare.gone


# Connections


@pytest_twisted.ensureDeferred
async def test_one_connection_too_many_is_told_by_abort() -> None:
    async with serving(limits=Limits(max_connections=1)) as server:
        first = await server.join()
        with pytest.raises(Refused) as refused:
            await server.join()
        assert refused.value.args[0] == TOO_MANY
        assert "router.max_connections" in refused.value.args[1]
        bare = await server.bare()  # it says nothing, and is told all the same
        await until(lambda: bare.gone)
        assert json.loads(bare.received[0])[2] == TOO_MANY
        assert refusals(server) == {"connections": 2}
        await until(lambda: server.router.stats().connections == 1)
        first.drop()
        await until(lambda: server.router.stats().connections == 0)
        assert (await server.join()).details is not None


@pytest_twisted.ensureDeferred
async def test_a_flood_of_connections_is_refused_before_they_are_websockets() -> None:
    limits = Limits(max_connections=1, close_timeout_s=60)
    async with serving(limits=limits) as server:
        await server.join()
        peers = [Peer(server.port_number) for _ in range(TURNED_AWAY_AT_ONCE)]
        for peer in peers:
            await peer.opens()  # and it doesn't even close
        with pytest.raises(Refused, match="503"):
            await server.bare()
        counted = server.router.stats().refusals
        assert counted["connections"] == TURNED_AWAY_AT_ONCE + 1
        for peer in peers:
            peer.close()


@pytest_twisted.ensureDeferred
async def test_deadlines_are_counted() -> None:
    limits = Limits(hello_timeout_s=0.1, ping_interval_s=0.05, ping_timeout_s=0.05)
    async with serving(limits=limits) as server:
        silent = await server.bare()
        await until(lambda: silent.gone)
        deaf = await joined_bare(server)
        deaf.onPing = lambda payload: None
        await until(lambda: deaf.gone)
        counted = refusals(server)
        assert counted == {"hello_timeout": 1, "ping_timeout": 1}


@pytest_twisted.ensureDeferred
async def test_handshakes_that_are_not_taken_are_counted() -> None:
    async with serving() as server:
        with pytest.raises(Refused):
            await server.bare("chat")
        with pytest.raises(Refused):
            await server.bare(headers={"Origin": "http://evil.example"})
        assert refusals(server) == {"handshake": 2}


@pytest_twisted.ensureDeferred
async def test_traffic_is_counted() -> None:
    async with serving() as server:
        server.router.local().register("cumulus.job.get", nothing)
        bare = await joined_bare(server)
        call = b'[48,1,{},"cumulus.job.get",[],{"x":"' + b"y" * MIB + b'"}]'
        traffic = server.router.stats().traffic
        before = (traffic.messages_in, traffic.bytes_in, traffic.messages_out)
        bare.sendMessage(call)
        await until(lambda: len(bare.received) == 2)
        assert traffic.messages_in == before[0] + 1
        assert traffic.bytes_in == before[1] + len(call)
        assert traffic.messages_out == before[2] + 1
        assert traffic.bytes_out == sum(map(len, bare.received))
