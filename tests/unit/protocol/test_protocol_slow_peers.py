"""Peers that don't read, over real loopback sockets: bounded memory, and who is closed."""

import gc
import weakref
from typing import Any

import pytest_twisted
from autobahn.wamp.types import CallOptions
from twisted.internet.defer import CancelledError
from wamp_peers import (
    MIB,
    joined_bare,
    reactor,
    serving,
    until,
)

from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call


@pytest_twisted.ensureDeferred
async def test_a_caller_that_does_not_read_costs_bounded_memory_and_is_closed() -> None:
    """80 MB of progress to a stalled peer: the handler waits, the peer is closed."""
    sent: list[int] = []
    queued: list[int] = []
    over: list[str] = []
    limits = Limits(
        high_watermark_bytes=MIB,
        low_watermark_bytes=MIB // 4,
        hard_cap_bytes=4 * MIB,
        slow_peer_timeout_s=0.5,
        ping_interval_s=60,
    )

    async with serving(limits=limits) as server:

        async def attach(call: Call) -> None:
            session = server.router._joined[call.session_id]
            try:
                for number in range(320):
                    await call.progress({"frames": b"x" * 262_144})
                    sent.append(number)
                    queued.append(session.outbox.queued_bytes)
            except CancelledError:
                over.append("cancelled")
                raise

        server.router.local().register("cumulus.job.attach", attach)
        client = await server.join()
        calling = client.call(
            "cumulus.job.attach", options=CallOptions(on_progress=lambda **kwargs: None)
        )
        calling.addErrback(lambda failure: None)
        await until(lambda: len(sent) > 0)
        client.tcp.pauseProducing()
        await until(lambda: over == ["cancelled"])
        assert len(sent) < 100  # the kernel's buffers take some MB
        assert max(queued) <= MIB + 300_000
        await until(lambda: server.router.stats().connections == 0)
        stats = server.router.stats()
        assert (stats.slow_peers_closed, stats.calls_in_flight) == (1, 0)
        client.tcp.resumeProducing()
        await until(lambda: client.gone)


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_gets_everything() -> None:
    total = 64

    async def attach(call: Call) -> dict[str, Any]:
        for number in range(total):
            await call.progress({"number": number, "frames": b"x" * 262_144})
        return {"event": "end"}

    got: list[int] = []
    async with serving() as server:
        server.router.local().register("cumulus.job.attach", attach)
        client = await server.join()

        def take(number: int, frames: bytes) -> None:
            got.append(number)
            if number % 8 == 0:
                client.tcp.pauseProducing()
                reactor.callLater(0.03, client.tcp.resumeProducing)

        options = CallOptions(on_progress=take)
        await client.call("cumulus.job.attach", options=options).addTimeout(20, reactor)
        assert got == list(range(total))
        assert server.router.stats().slow_peers_closed == 0


@pytest_twisted.ensureDeferred
async def test_a_stalled_subscriber_misses_events_and_the_others_get_them() -> None:
    limits = Limits(
        high_watermark_bytes=MIB, hard_cap_bytes=4 * MIB, slow_peer_timeout_s=60, ping_interval_s=60
    )
    got: list[int] = []
    async with serving(limits=limits) as server:
        stalled, good = await server.join(), await server.join()
        await stalled.subscribe(lambda **kwargs: None, "cumulus.jobs")
        await good.subscribe(lambda number, **kwargs: got.append(number), "cumulus.jobs")
        stalled.tcp.pauseProducing()
        for number in range(120):
            server.router.local().publish("cumulus.jobs", {"number": number, "x": b"x" * 262_144})
            await until(lambda: len(got) > number)  # noqa: B023  # awaited at once
        assert got == list(range(120))
        stats = server.router.stats()
        assert stats.events_dropped > 10
        queued = [s.outbox.queued_bytes for s in server.router._joined.values()]
        assert max(queued) < 2 * MIB
        assert stats.connections == 2


@pytest_twisted.ensureDeferred
async def test_the_hard_cap_ends_a_session_that_calls_and_does_not_read() -> None:
    async def result(call: Call) -> dict[str, Any]:
        return {"data": b"x" * 500_000}

    limits = Limits(hard_cap_bytes=2 * MIB, slow_peer_timeout_s=60, ping_interval_s=60)
    async with serving(limits=limits) as server:
        server.router.local().register("cumulus.job.result", result)
        bare = await joined_bare(server)
        bare.transport.pauseProducing()
        for request in range(1, 60):
            bare.sendMessage(b'[48,%d,{},"cumulus.job.result"]' % request)
        await until(lambda: server.router.stats().connections == 0)
        assert server.router.stats().slow_peers_closed == 1


@pytest_twisted.ensureDeferred
async def test_the_outbox_is_the_transports_producer_and_a_dead_connection_frees_it() -> None:
    async with serving() as server:
        client = await server.join()
        session = server.router._joined[client.details.session]
        transport = session._connection.transport
        assert transport.producer is session.outbox  # and no longer HTTPChannel
        gone = weakref.ref(session)
        session.outbox.pauseProducing()
        session.outbox.send(b"x" * 100_000)
        client.drop()
        await until(lambda: server.router.stats().connections == 0)
        assert session.outbox.queued_bytes == 0
        assert transport.dataBuffer == b"" and not transport._tempDataBuffer
        del session, transport
        gc.collect()
        assert gone() is None
