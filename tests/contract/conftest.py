"""A fake Engine on a unix socket, and the place of the contract around it."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor

from cumulusd.swarm.engine import Engine
from tests.contract.fake_engine import FakeEngine
from tests.contract.fake_swarm import FakeSwarm
from tests.contract.site import FOLDER, UNITS, WORKER_ROOT, Contracted, socket_endpoint


@pytest_twisted.async_yield_fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    swarm = FakeSwarm(reactor)
    swarm.add_node("manager", role="manager")
    swarm.add_node("worker1", cumulus_gpu0=UNITS)
    swarm.add_image("job:1")
    swarm.paths.add(FOLDER)
    engine = FakeEngine(swarm)
    await engine.listen(reactor, str(tmp_path / "engine.sock"))
    yield engine
    await engine.close()
    swarm.close()


@pytest_twisted.async_yield_fixture
async def site(fake: FakeEngine, tmp_path: Path) -> AsyncIterator[Contracted]:
    site = Contracted(
        reactor=reactor,
        endpoint=socket_endpoint(tmp_path / "engine.sock"),
        worker_id=list(fake.swarm.nodes)[1],
        image=fake.swarm.images["job:1"]["Id"],
        worker_root=WORKER_ROOT,
        folder=FOLDER,
        instance_id=secrets.token_hex(8),
        patience_s=5.0,
    )
    yield site
    await site.close()


@pytest_twisted.async_yield_fixture
async def client(fake: FakeEngine, tmp_path: Path) -> AsyncIterator[Engine]:
    endpoint = socket_endpoint(tmp_path / "engine.sock")
    engine = Engine(reactor, endpoint, deadline_s=2.0)
    yield engine
    await engine.close()
