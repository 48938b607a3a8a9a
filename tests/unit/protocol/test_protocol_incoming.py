"""What peers send in pieces, and what is left of a connection that is gone: nothing, at once."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import pytest_twisted
from raw_peer import Peer, frame
from twisted.internet.task import deferLater
from wamp_peers import MIB, Server, reactor, serving, until

from cumulusd.protocol.limits import Limits


@contextmanager
def without_collector() -> Iterator[None]:
    """No cyclic garbage collector: what is freed is freed because nobody holds it."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


def only_connection(server: Server) -> object:
    return max(server.router._connections.values(), key=lambda each: each.session_id)._connection


@pytest_twisted.ensureDeferred
async def test_a_message_that_comes_byte_by_byte_costs_little_more_than_its_bytes() -> None:
    """Each read is an object of its own: 100,000 of them would take 40 bytes for each byte."""
    async with serving() as server:
        with Peer(server.port_number) as peer:
            await peer.joins()
            connection = only_connection(server)
            payload = b'[48,1,{},"cumulus.job.get",["' + b"x" * 100_000 + b'"]]'
            most = 0
            for size in (len(payload), 700):  # in one frame, in many
                pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
                for number, piece in enumerate(pieces):
                    whole = frame(piece, 0 if number else 1, fin=number == len(pieces) - 1)
                    for at in range(len(whole)):
                        connection.dataReceived(whole[at : at + 1])
                        kept = [connection.frame_data or (), connection.message_data or ()]
                        most = max(most, *map(len, kept))
            assert most <= 1025
            await until(lambda: peer.read() or len(peer.messages()) == 2)
            assert [message[4] for message in peer.messages()] == [
                "wamp.error.no_such_procedure"
            ] * 2


@pytest_twisted.ensureDeferred
async def test_half_a_huge_frame_is_freed_at_once_when_its_peer_is_gone() -> None:
    async with serving(limits=Limits(max_message_bytes=8 * MIB)) as server:
        peers = [Peer(server.port_number) for _ in range(4)]
        try:
            for peer in peers:
                await peer.joins()
            half = frame(b"x" * (2 * MIB), length=4 * MIB)
            with without_collector():
                for peer in peers:
                    left = memoryview(half)
                    while left:
                        left = left[peer.send(left) :]
                        await deferLater(reactor, 0.001, lambda: None)
                await until(lambda: tracemalloc.get_traced_memory()[0] > 8 * MIB)
                for peer in peers:
                    peer.close()
                await until(lambda: server.router.stats().connections == 0)
                assert tracemalloc.get_traced_memory()[0] < MIB // 2
        finally:
            for peer in peers:
                peer.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_what_waits_for_a_dead_peer_is_freed_at_once(tls: bool) -> None:
    """The queue and the transport's own buffer, which the transport's cycle would keep."""
    async with serving(limits=Limits(high_watermark_bytes=4 * MIB), tls=tls) as server:
        peers = [Peer(server.port_number) for _ in range(4)]
        try:
            for peer in peers:
                if tls:
                    await peer.secures()
                await peer.joins()
                peer.send(frame(b'[32,1,{},"cumulus.jobs"]'))
            await until(lambda: server.router.stats().topics == 1)
            await until(lambda: all(peer.read() or b"[33" in peer.received for peer in peers))
            with without_collector():
                for number in range(16):
                    # One object for each, so that what is kept can be told.
                    server.router.local().publish(
                        "cumulus.jobs", {"number": number, "x": "y" * (MIB // 2)}
                    )
                    await deferLater(reactor, 0.001, lambda: None)
                stats = server.router.stats()
                assert stats.queued_bytes > 4 * MIB
                assert tracemalloc.get_traced_memory()[0] > 2 * MIB
                for peer in peers:
                    peer.close()
                await until(lambda: server.router.stats().connections == 0)
                assert tracemalloc.get_traced_memory()[0] < MIB // 2
                assert server.router.stats().queued_bytes == 0
        finally:
            for peer in peers:
                peer.close()


@pytest_twisted.ensureDeferred
async def test_who_pings_and_does_not_read_is_owed_one_pong() -> None:
    limits = Limits(max_messages_per_s=0)
    async with serving(limits=limits) as server:
        with Peer(server.port_number) as peer:
            await peer.joins()
            connection = only_connection(server)
            ping = frame(b"?" * 125, 9)
            sent = 0
            for _ in range(400):
                left = memoryview(ping * 100)
                while left:
                    left = left[peer.send(left) :]
                    await deferLater(reactor, 0, lambda: None)
                sent += 12_500
            transport = connection.transport
            held = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
            assert sent == 5_000_000
            assert held < 200_000
            peer.send(frame(b"the last", 9))
            await until(lambda: peer.read() or b"the last" in peer.received)
            assert len(peer.received) < 4_600_000  # the others were answered by later ones


@pytest_twisted.ensureDeferred
async def test_a_peer_over_tls_is_held_to_the_rate_too() -> None:
    limits = Limits(max_messages_per_s=200, message_burst=20)
    async with serving(limits=limits, tls=True) as server:
        with Peer(server.port_number) as peer:
            await peer.secures()
            await peer.joins()
            session = max(server.router._connections.values(), key=lambda each: each.session_id)
            for number in range(1, 101):
                assert peer.send(frame(b'[48,%d,{},"cumulus.job.get"]' % number))
            await until(lambda: session.inbox.silent_since(0.0) is None)
            await until(lambda: peer.read() or len(peer.messages()) == 100)
            assert [message[2] for message in peer.messages()] == list(range(1, 101))


@pytest.mark.parametrize("data", [b"\x81", b"\x81\xff\0\0", b"\x01\x80\0\0\0\0"])
@pytest_twisted.ensureDeferred
async def test_a_started_message_counts_from_its_first_byte(data: bytes) -> None:
    limits = Limits(
        message_timeout_s=0.1, ping_interval_s=0.05, ping_timeout_s=5, close_timeout_s=0.1
    )
    async with serving(limits=limits) as server:
        with Peer(server.port_number) as peer:
            await peer.joins()
            peer.send(data)
            for _ in range(3):
                await deferLater(reactor, 0.05, lambda: None)
            connection = only_connection(server)
            assert connection._partial_since is not None
