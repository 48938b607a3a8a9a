"""What an agent's link costs the daemon when its peer asks for pongs that it doesn't read, or sends
a message in endless pieces."""

from collections.abc import Callable
from typing import Any

import pytest_twisted
from agent_world import World
from test_agent_link import peer
from twisted.internet import reactor
from twisted.internet.task import deferLater

from cumulusd.web.agent_connection import LinkLimits

Make = Callable[..., World]


async def gone(world: World, hostile: Any) -> None:
    hostile.dropConnection(abort=True)
    await world.until(lambda: hostile.why.called)


@pytest_twisted.ensureDeferred
async def test_pongs_that_nobody_reads_are_not_piled_up(make: Make) -> None:
    world = make()
    await world.start_daemon()
    hostile: Any = await peer(world)
    await hostile.opened
    assert world.links is not None
    connection: Any = next(reversed(world.links._made))
    hostile.transport.pauseProducing()
    for number in range(300):
        for _ in range(100):
            hostile.sendPing(b"%120d" % number)
        await deferLater(reactor, 0.002)
    await world.until(lambda: not hostile.transport.dataBuffer)
    held = connection.transport
    assert len(held.dataBuffer) + held._tempDataLen < 256 * 1024
    pongs: list[bytes] = []
    hostile.onPong = pongs.append
    hostile.transport.resumeProducing()
    await world.until(lambda: pongs and pongs[-1] == b"%120d" % 299)
    assert not hostile.why.called, "it goes on"
    await gone(world, hostile)


@pytest_twisted.ensureDeferred
async def test_a_message_in_endless_pieces_ends_the_link(make: Make) -> None:
    world = make()
    await world.start_daemon()
    hostile: Any = await peer(world)
    await hostile.opened
    hostile.beginMessage(isBinary=True)
    for _ in range(5000):
        hostile.sendMessageFrame(b"")
    await world.until(lambda: hostile.why.called)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_closes_and_does_not_read_is_cut(make: Make) -> None:
    world = make()
    world.limits = LinkLimits(close_timeout_s=0.3)
    await world.start_daemon()
    hostile: Any = await peer(world)
    await hostile.opened
    assert world.links is not None
    connection: Any = next(reversed(world.links._made))
    hostile.transport.pauseProducing()
    for _ in range(8):
        connection.sendMessage(b"x" * (1 << 20), isBinary=True)
    hostile.closeHandshakeTimeout = 0  # it waits for ever
    hostile.sendClose(1000)
    await world.until(lambda: not world.links or not world.links._made)
    hostile.transport.resumeProducing()
    await world.until(lambda: hostile.why.called)
