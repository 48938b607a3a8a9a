"""A daemon on the session's cluster. The other fixtures of engine tests, and their rules, stand in
`plugin.py`, which tests/conftest.py loads."""

from collections.abc import Iterator

import pytest

from engines.cluster import Cluster
from tests.e2e.harness import Daemon
from tests.engine.swarm_daemon import SwarmDaemon, on_cluster


@pytest.fixture(scope="module")
def swarm(
    cluster: Cluster,
    cluster_images: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SwarmDaemon]:
    """One daemon for this module, on the session's cluster."""
    made = SwarmDaemon(tmp_path_factory.mktemp("swarm"), cluster, cluster_images)
    with on_cluster(made):
        yield made


@pytest.fixture
def daemon(swarm: SwarmDaemon) -> Iterator[Daemon]:
    """The module's daemon, proven to hold nothing of a job when the test is over."""
    yield swarm
    swarm.wait_nothing_left(30.0)
