"""Connections that the router has ended, and whose peers don't play along: none stays."""

import struct

import pytest_twisted
from raw_peer import Peer, frame
from twisted.internet import tcp
from wamp_peers import Server, reactor, serving, until

from cumulus_wire.uris import TOPIC_JOBS
from cumulusd.protocol.limits import Limits
from tests.raw_websocket import HANDSHAKE

LIMITS = Limits(close_timeout_s=0.3, ping_interval_s=60, hello_timeout_s=60)
CLOSE = frame(struct.pack("!H", 1000), 8)


def connections() -> int:
    """Of the process, as the kernel has them: Autobahn takes some for gone that aren't."""
    return sum(isinstance(each, tcp.Server) for each in reactor.getReaders())


async def stalled(server: Server) -> Peer:
    """A peer that has joined, for which more waits than the kernel takes."""
    peer = Peer(server.port_number)
    await peer.joins()
    peer.tell([32, 1, {}, TOPIC_JOBS])
    await until(lambda: server.router.stats().topics == 1)
    for _ in range(200):
        server.router.local().publish(TOPIC_JOBS, {"x": "x" * 65_536})
    await until(lambda: server.router.stats().queued_bytes > 0)
    return peer


@pytest_twisted.ensureDeferred
async def test_a_peer_that_closes_and_does_not_read_is_cut() -> None:
    async with serving(limits=LIMITS) as server:
        with await stalled(server) as peer:
            peer.send_all(CLOSE)
            await until(lambda: server.router.stats().connections == 0)
            assert connections() == 0


@pytest_twisted.ensureDeferred
async def test_such_a_peer_does_not_keep_the_router_from_stopping() -> None:
    limits = Limits(close_timeout_s=60, slow_peer_timeout_s=60, ping_interval_s=60)
    async with serving(limits=limits) as server:
        with await stalled(server) as peer:
            peer.send_all(CLOSE)
            await until(lambda: server.router.stats().queued_bytes > 0)
            await server.router.stop(0.3)
            assert (server.router.stats().connections, connections()) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_over_tls_a_refused_handshake_leaves_nothing_behind() -> None:
    """The daemon's end of TLS waits for the peer's."""
    async with serving(limits=LIMITS, tls=True) as server:
        with Peer(server.port_number) as peer:
            await peer.secures()
            peer.send(HANDSHAKE.replace(b"wamp.2.json", b"telnet"))
            await until(lambda: server.router.stats().refusals["handshake"] == 1)
            await until(lambda: connections() == 0)
            assert server.router.stats().refusals["handshake_timeout"] == 0


@pytest_twisted.ensureDeferred
async def test_over_tls_a_session_that_said_goodbye_leaves_nothing_behind() -> None:
    async with serving(limits=LIMITS, tls=True) as server:
        with Peer(server.port_number) as peer:
            await peer.secures()
            await peer.joins()
            peer.tell([6, {}, "wamp.close.close_realm"])
            peer.send(CLOSE)
            await until(lambda: server.router.stats().connections == 0)
            assert connections() == 0
