import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.provision.bare import Bare
from tests.unit.provision.fake_servers import FakeEngine, FakeOrchestrator


@pytest.fixture
def orchestrator() -> Iterator[FakeOrchestrator]:
    """A daemon that takes the machine."""
    with FakeOrchestrator() as serving:
        yield serving


@pytest.fixture
def bare(orchestrator: FakeOrchestrator) -> Iterator[Bare]:
    """A fresh Debian 12, with an engine that isn't installed yet."""
    # Short: the path of a unix socket is at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="cmw-"))
    try:
        (folder / "var/run").mkdir(parents=True)
        socket = folder / "var/run/docker.sock"
        (folder / "docker.sock").symlink_to("var/run/docker.sock")
        with FakeEngine(socket, folder / "etc/docker/daemon.json") as engine:
            yield Bare(folder, orchestrator, engine)
    finally:
        shutil.rmtree(folder)
