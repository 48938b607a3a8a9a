"""What is essential, on the engines of other releases of Debian, by the same tests.

The fixtures have the names that those tests know, and give each release's cluster instead.
"""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted

from engines import sweep
from engines.cluster import Cluster
from engines.release import RELEASES
from tests.contract.platform_contract import PlatformContract
from tests.contract.site import Contracted
from tests.e2e.test_e2e_jobs import (  # noqa: F401
    test_a_requirement_is_installed_and_shown,
    test_an_exception_arrives_with_its_traceback_and_the_log,
    test_duration_ends_as_timeout,
    test_numpy_and_pyopencl_are_there_without_being_required,
    test_output_streams_in_order_while_the_job_runs,
    test_run_prints_the_output_live_and_returns_the_result,
)
from tests.engine.plugin import load_images
from tests.engine.swarm_daemon import SwarmDaemon, on_cluster
from tests.engine.test_cluster import begin_creator, kill_all, layout_of, wait_gone
from tests.engine.test_platform_contract import (  # noqa: F401
    make_site,
    test_a_container_as_its_job_sees_it,
    test_no_task_pulls,
)
from tests.engine.test_swarm_jobs import (  # noqa: F401
    test_a_job_ends_on_time_with_the_daemon_dead,
    test_a_job_reaches_neither_daemon_nor_manager_nor_another_job,
    test_a_killed_daemon_loses_and_doubles_no_line,
    test_cancel_ends_the_container_and_all_in_it_within_a_second,
)

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(engine_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """`manager` and `worker1`, on the release's engines."""
    base = tmp_path_factory.mktemp(engine_tree.name) / "cluster"
    with Cluster.create(base, nodes=2, workers=1, tree=engine_tree) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def engine_image(cluster: Cluster, tiny_image: tuple[Path, str]) -> str:
    archive, image = tiny_image
    cluster.load(archive)
    return image


@pytest.fixture(scope="module")
def cluster_images(cluster: Cluster, image_archives: dict[str, Path]) -> dict[str, str]:
    return load_images(cluster, image_archives)


@pytest_twisted.async_yield_fixture
async def site(cluster: Cluster, engine_image: str) -> AsyncIterator[Contracted]:
    site = make_site(cluster, engine_image)
    yield site
    await site.close()


@pytest.fixture(scope="module")
def swarm(
    cluster: Cluster, cluster_images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SwarmDaemon]:
    made = SwarmDaemon(tmp_path_factory.mktemp("swarm"), cluster, cluster_images)
    with on_cluster(made, workers=1):
        yield made


class TestOnTheRelease(PlatformContract):
    pass


def test_it_is_that_releases_engine(cluster: Cluster, engine_tree: Path) -> None:
    (release,) = [each for each in RELEASES if each.suite == engine_tree.name]
    for node in cluster.layout.nodes:
        version = cluster.api(node).call("GET", "/version")["Version"]
        assert tuple(map(int, version.split(".")[:2])) >= release.engine
    ours = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if "cumulus-engine" in line or str(engine_tree) in line
    ]  # fmt: skip
    assert ours == [], "what an engine mounts is in a namespace of its own"


def test_a_killed_node_comes_back(cluster: Cluster, engine_image: str) -> None:
    before = cluster.node_id("worker1")
    cluster.kill("worker1")
    cluster.start("worker1")
    cluster.wait_ready()
    assert cluster.node_id("worker1") == before
    assert cluster.api("worker1").image_id(engine_image) == engine_image


def test_nothing_is_left_of_it_when_all_are_killed(
    engine_tree: Path, tiny_image: tuple[Path, str], tmp_path: Path
) -> None:
    before = sorted(tree_state(engine_tree))
    process: subprocess.Popen[str]
    with begin_creator(tmp_path / "cluster", tiny_image, engine_tree) as process:
        try:
            layout = layout_of(process)
            kill_all(process, layout)
            assert layout.tag in sweep.sweep_dead()
        finally:
            process.kill()
    wait_gone(layout)
    assert sorted(tree_state(engine_tree)) == before, "no engine writes to its release's tree"


def tree_state(tree: Path) -> Iterator[tuple[str, int]]:
    for path in (tree, *tree.glob("etc/**/*"), *tree.glob("run/*"), *tree.glob("var/lib/*")):
        yield str(path), path.lstat().st_mtime_ns
