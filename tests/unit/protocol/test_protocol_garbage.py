"""Peers that send what is no WAMP, over real loopback sockets."""

import json
from typing import Any

import pytest
import pytest_twisted
from autobahn.wamp.types import CallOptions
from twisted.internet.task import deferLater
from wamp_peers import (
    MIB,
    SERIALIZERS,
    ask,
    joined_bare,
    never,
    nothing,
    reactor,
    serving,
    until,
)

from cumulusd.errors import NotFound
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call

GARBAGE = [
    b"",
    b"{}",
    b"[]",
    b"nonsense",
    b"[" * 100_000,
    b'[48,1,{},"a.b","str"]',  # an AssertionError in Autobahn
    b'[48,1,{},"a.b",[],{"x":NaN}]',
    b'[48,"one",{},"a.b"]',
    b'[48,1,{"ppt_scheme":"x","enc_algo":"cryptobox"},"a.b","\\u0000QUJD"]',
    b'[48,1,{},"a.b",["\\u0000not base64!"]]',
    b'[32,1,{"match":"wild"},"cumulus.jobs"]',
    b"[999]",
    b"[true]",
    b"[2,1,{}]",
    b'[1,"cumulus",{"roles":{"caller":{}}}]',
    b'[8,48,1,{},"some.error"]',
    b'[5,"ticket",{}]',
    b'[48,1,{"\\ud80a":1,"timeout":"\\ud80a"},"a.b"]',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest_twisted.ensureDeferred
async def test_garbage_ends_its_own_session_only(garbage: bytes) -> None:
    async with serving() as server:
        server.router.local().register("cumulus.job.list", nothing)
        good = await server.join()
        bare = await joined_bare(server)
        bare.sendMessage(garbage)
        await until(lambda: bare.gone)
        kind, details, uri = json.loads(bare.received[-1])
        assert (kind, uri) == (3, "wamp.error.protocol_violation")
        assert details["message"]
        assert server.router.stats().violations == 1
        assert await ask(good, "cumulus.job.list") == {}


@pytest_twisted.ensureDeferred
async def test_half_characters_before_hello_are_told_of() -> None:
    async with serving() as server:
        bare = await server.bare()
        bare.sendMessage(b'[1,"c",{"roles":{"\\ud80a":{}}}]')
        await until(lambda: bare.gone)
        kind, details, uri = json.loads(bare.received[-1])
        assert (kind, uri) == (3, "wamp.error.protocol_violation")
        assert "\\ud80a" in details["message"]


@pytest.mark.parametrize("half", ["job\\ud800_1", "\\ud800"])
@pytest_twisted.ensureDeferred
async def test_an_error_that_tells_of_half_characters_is_replaced_once(half: str) -> None:
    async def get(call: Call) -> None:
        raise NotFound("no such job", job_id=call.kwargs["job_id"])

    async with serving() as server:
        server.router.local().register("cumulus.job.get", get)
        bare = await joined_bare(server)
        bare.sendMessage(f'[48,1,{{}},"cumulus.job.get",[],{{"job_id":"{half}"}}]'.encode())
        await until(lambda: bare.received and json.loads(bare.received[-1])[0] == 8)
        error = json.loads(bare.received[-1])
        assert error[4] == "cumulus.error.internal" and error[6]["job_id"] is None
        bare.sendMessage(f'[32,2,{{}},"cumulus.{half}#"]'.encode())
        await until(lambda: json.loads(bare.received[-1])[:2] == [8, 32])
        assert json.loads(bare.received[-1])[4] == "wamp.error.invalid_uri"


@pytest_twisted.ensureDeferred
async def test_garbage_before_hello_ends_the_connection() -> None:
    async with serving() as server:
        for garbage in (b"nonsense", b'[48,1,{},"a.b"]', b'[1,"cumulus",{}]'):
            bare = await server.bare()
            bare.sendMessage(garbage)
            await until(lambda bare=bare: bare.gone)
            assert json.loads(bare.received[0])[0] == 3


@pytest.mark.parametrize(
    "request_text",
    [
        '[48,9,{},"a..b"]',
        "[48,9,{},17]",
        '[48,9,{},"a b"]',
        '[32,9,{},"%s"]' % ("x" * 300),
        '[64,9,{},""]',
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_invalid_uri_is_answered(request_text: str) -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        bare.sendMessage(request_text.encode())
        await until(lambda: len(bare.received) == 2)
        error = json.loads(bare.received[1])
        assert error[0] == 8 and error[2] == 9
        assert error[4] == "wamp.error.invalid_uri"
        assert not bare.gone


@pytest_twisted.ensureDeferred
async def test_a_publisher_that_asked_for_no_answer_gets_none() -> None:
    """Autobahn's clients take an ERROR for an unacknowledged PUBLISH for a violation."""
    async with serving() as server:
        bare = await joined_bare(server)
        for uri in ('""', '"a..b"', "17", '"%s"' % ("x" * 300), '"not.allowed"', '"wamp.mine"'):
            bare.sendMessage(f"[16,9,{{}},{uri}]".encode())
        bare.sendMessage(b'[16,10,{"acknowledge":true},"a..b"]')
        await until(lambda: len(bare.received) > 1)
        error = json.loads(bare.received[1])
        assert (error[:3], error[4]) == ([8, 16, 10], "wamp.error.invalid_uri")
        assert len(bare.received) == 2 and not bare.gone


@pytest_twisted.ensureDeferred
async def test_cbor_tags_and_wrong_frame_kinds_are_refused() -> None:
    async with serving() as server:
        for subprotocol, payload, binary in (
            ("wamp.2.cbor", bytes.fromhex("d81c80"), True),
            ("wamp.2.msgpack", b"\xd4\x05\x00", True),
            ("wamp.2.json", b"[]", True),
            ("wamp.2.cbor", b"[]", False),
        ):
            bare = await server.bare(subprotocol)
            bare.sendMessage(payload, binary)
            await until(lambda bare=bare: bare.gone)
        assert server.router.stats().refused_sessions == 4


@pytest_twisted.ensureDeferred
async def test_a_message_over_the_limit_is_refused_with_its_reason() -> None:
    async with serving(limits=Limits(max_message_bytes=10_000)) as server:
        bare = await joined_bare(server)
        bare.sendMessage(b'[48,1,{},"a.b",["%s"]]' % (b"x" * 20_000))
        await until(lambda: bare.gone)
        assert bare.close_code == 1009
        assert "10000" in bare.close_reason
        await until(lambda: server.router.stats().connections == 0)


@pytest_twisted.ensureDeferred
async def test_a_message_in_endless_empty_pieces_is_refused() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        bare.beginMessage()
        for _ in range(4200):
            bare.sendMessageFrame(b"")
        await until(lambda: bare.gone)
        assert bare.close_code == 1009
        assert "frames" in bare.close_reason


@pytest_twisted.ensureDeferred
async def test_over_tls_a_stalled_reader_is_held_back_too() -> None:
    """TLS has a transport and a producer of its own kind."""
    from twisted.internet import ssl

    got: list[int] = []
    queued: list[int] = []
    async with serving(tls=True) as server:

        async def attach(call: Call) -> dict[str, Any]:
            session = server.router._joined[call.session_id]
            for number in range(80):
                await call.progress({"number": number, "frames": b"x" * 262_144})
                queued.append(session.outbox.queued_bytes)
            return {"event": "end"}

        server.router.local().register("cumulus.job.attach", attach)
        client = await server.join(tls=ssl.CertificateOptions())
        options = CallOptions(on_progress=lambda number, frames: got.append(number))
        calling = client.call("cumulus.job.attach", options=options).addTimeout(20, reactor)
        client.tcp.pauseProducing()
        await deferLater(reactor, 0.3, lambda: None)
        assert len(queued) < 80
        client.tcp.resumeProducing()
        await calling
        assert got == list(range(80))
        assert 0 < max(queued) <= MIB + 300_000
        client.drop()
        await until(lambda: server.router.stats().connections == 0)


@pytest_twisted.ensureDeferred
async def test_a_package_chunk_fits_in_every_serialisation() -> None:
    sizes: list[int] = []

    async def put(call: Call) -> None:
        sizes.append(len(call.kwargs["data"]))

    async with serving() as server:
        server.router.local().register("cumulus.package.put", put)
        for serializer in SERIALIZERS:
            client = await server.join(serializer=serializer)
            await ask(client, "cumulus.package.put", sha256="0" * 64, data=b"\xff" * 524_288)
    assert sizes == [524_288] * 3


@pytest_twisted.ensureDeferred
async def test_reusing_a_request_in_flight_ends_the_session() -> None:
    async def attach(call: Call) -> None:
        await never()

    async with serving() as server:
        server.router.local().register("cumulus.job.attach", attach)
        bare = await joined_bare(server)
        bare.sendMessage(b'[48,1,{},"cumulus.job.attach"]')
        bare.sendMessage(b'[48,1,{},"cumulus.job.attach"]')
        await until(lambda: bare.gone)
        assert json.loads(bare.received[-1])[2] == "wamp.error.protocol_violation"
        assert server.router.stats().calls_in_flight == 0
