"""The worlds of the agent's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import World
from twisted.internet import reactor
from twisted.internet.defer import Deferred


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes a world, and ends it."""
    worlds: list[World] = []

    def made(**options: Any) -> World:
        worlds.append(World(reactor, tmp_path, **options))
        return worlds[-1]

    yield made
    for world in worlds:
        pytest_twisted.blockon(Deferred.fromCoroutine(world.stop()))
