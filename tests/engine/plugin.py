"""Real engines for any test: one cluster for the session, removed with it whatever happens.

A pytest plugin (loaded by tests/conftest.py), so that tests of every folder find the fixtures. They
are for tests marked `engine`.

Where engines can be had, no such test may be skipped: a skip is an error there, and in continuous
integration. What engines take is installed, and images are built, before the first test: that may
take minutes, and no test's timeout is meant for it.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engines.cluster import Cluster
from engines.kept import archived_image, build_images, build_ml_image
from engines.machine import BareMachine, make_machine_tree
from engines.packages import install_missing, missing_packages
from engines.release import RELEASES, Release, make_tree
from engines.tiny_image import find_busybox, make_tiny_image
from tests.engine import systemd_machine

ROOT = Path(__file__).parents[2]
_PREPARED = pytest.StashKey["dict[str, BaseException | None]"]()


def engines_can_be_had() -> bool:
    """Root, and either all packages are there or apt can install them."""
    return os.geteuid() == 0 and (not missing_packages() or shutil.which("apt-get") is not None)


def skips_are_errors() -> bool:
    """May no engine test be skipped here?"""
    return engines_can_be_had() or bool(os.environ.get("CI"))


# --- no skips -----------------------------------------------------------------------------------


def _forbid(report: "pytest.TestReport | pytest.CollectReport") -> None:
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = (
        f"an engine test was skipped where engines can be had (root and apt are there, or this is "
        f"continuous integration): {why}"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    report: pytest.TestReport = yield
    expected = hasattr(report, "wasxfail")
    marked = item.get_closest_marker("engine") is not None
    if report.skipped and marked and not expected and skips_are_errors():
        _forbid(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report: pytest.CollectReport = yield
    inside = Path(__file__).parent in collector.path.parents
    if report.outcome == "skipped" and inside and skips_are_errors():
        _forbid(report)
    return report


# --- what takes long, before the tests ------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Before the first engine test, whose time has not begun yet; of several processes that share
    the tests only one has any."""
    stash = item.config.stash
    if item.get_closest_marker("engine") and _PREPARED not in stash:
        stash[_PREPARED] = {}
        if engines_can_be_had():
            _prepare(item.session.items, stash[_PREPARED])
    return (yield)


def _prepare(all_items: Sequence[pytest.Item], prepared: "dict[str, BaseException | None]") -> None:
    items = [item for item in all_items if item.get_closest_marker("engine")]
    for name, make in preparations(items).items():
        try:
            make()
        except Exception as error:  # told by each test that needs it
            prepared[name] = error
        else:
            prepared[name] = None


def preparations(items: Sequence[pytest.Item]) -> dict[str, Callable[[], object]]:
    """What the tests need made, by name, in the order in which it is made."""
    names = {name for item in items for name in getattr(item, "fixturenames", ())}
    wanted: dict[str, Callable[[], object]] = {}
    if "engine_packages" in names:
        wanted["engine_packages"] = install_missing
    if "image_archives" in names:
        wanted["image_archives"] = build_images
    if "ml_archive" in names:
        wanted["ml_archive"] = build_ml_image
    if "machine_tree" in names:
        wanted["machine_tree"] = make_machine_tree
    if "systemd_tree" in names:
        wanted["systemd_tree"] = systemd_machine.make_tree
    for item in items:
        if "engine_tree" in getattr(item, "fixturenames", ()):
            release: Release = item.callspec.params["engine_tree"]  # type: ignore[attr-defined]
            wanted[release.suite] = partial(make_tree, release)
    return wanted


def _require(request: pytest.FixtureRequest, name: str) -> None:
    if not engines_can_be_had():
        pytest.skip("real engines need root, and docker.io or apt to install it")
    prepared = request.config.stash[_PREPARED]
    assert name in prepared, f"not prepared: {name}; mark the test with @pytest.mark.engine"
    if (error := prepared[name]) is not None:
        raise error


@pytest.fixture(scope="session")
def engine_packages(request: pytest.FixtureRequest) -> None:
    """What engines take is installed; where that can't be, engine tests are skipped."""
    _require(request, "engine_packages")


@pytest.fixture(scope="session")
def image_archives(request: pytest.FixtureRequest, engine_packages: None) -> dict[str, Path]:
    """Tag -> `docker save` archive of job and agent image, built from this checkout."""
    _require(request, "image_archives")
    return {f"cumulus-{name}:latest": _archive(name) for name in ("job", "agent")}


def _archive(name: str) -> Path:
    return ROOT / f"var/images/cumulus-{name}.tar"


@pytest.fixture(scope="session")
def ml_archive(request: pytest.FixtureRequest, engine_packages: None) -> Path:
    """The `docker save` archive of `cumulus-job:ml`: over 2 GB, built in minutes the first time."""
    _require(request, "ml_archive")
    return _archive("job-ml")


@pytest.fixture(scope="module", params=RELEASES, ids=[each.suite for each in RELEASES])
def engine_tree(request: pytest.FixtureRequest, engine_packages: None) -> Path:
    """For `Cluster.create`: the file system of each other release that engines run in."""
    release: Release = request.param
    _require(request, release.suite)
    return make_tree(release)


# --- engines ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster(engine_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three engines in a Swarm: `manager`, `worker1`, `worker2` (one GPU's units each).

    Shared: a test that stops or cuts off a node mends it before it ends.
    """
    with Cluster.create(tmp_path_factory.mktemp("engines") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def machine_tree(request: pytest.FixtureRequest, engine_packages: None) -> Path:
    """The file system of a bare Debian 12, which every `bare_machine` gets a copy of."""
    _require(request, "machine_tree")
    return make_machine_tree()


@pytest.fixture(scope="session")
def systemd_tree(request: pytest.FixtureRequest, engine_packages: None) -> Path:
    """The same with what the daemon stands on, for machines that systemd runs it on."""
    _require(request, "systemd_tree")
    return systemd_machine.make_tree()


@pytest.fixture
def bare_machine(cluster: Cluster, machine_tree: Path) -> Iterator[BareMachine]:
    """A fresh virtual machine, so to say, on the cluster's network: systemd runs, no Docker."""
    with BareMachine.boot(cluster.layout, machine_tree) as machine:
        yield machine


@pytest.fixture(scope="session")
def engine_endpoint(cluster: Cluster) -> Path:
    """The unix socket of the Swarm manager's engine."""
    return cluster.endpoint


@pytest.fixture(scope="session")
def tiny_image(engine_packages: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A `docker save` archive of a busybox, and the image's id.

    It is static: what looks up a service's name (its wget does, for `http`) crashes; `nc` works.
    """
    archive = tmp_path_factory.mktemp("image") / "tiny.tar"
    return archive, make_tiny_image(find_busybox(ROOT / "var/cache"), archive)


@pytest.fixture(scope="session")
def engine_image(cluster: Cluster, tiny_image: tuple[Path, str]) -> str:
    """The id of a busybox image that every node has. It runs as any user."""
    archive, image = tiny_image
    cluster.load(archive)
    return image


@pytest.fixture(scope="session")
def cluster_images(cluster: Cluster, image_archives: dict[str, Path]) -> dict[str, str]:
    """Tag -> id of job and agent image, which every node of the cluster has."""
    return load_images(cluster, image_archives)


def load_images(cluster: Cluster, image_archives: dict[str, Path]) -> dict[str, str]:
    """Loads them where they are lacking: tag -> id."""
    images = {tag: archived_image(archive) for tag, archive in image_archives.items()}
    for tag, archive in image_archives.items():
        lacking = [
            n.name for n in cluster.layout.nodes if cluster.api(n).image_id(tag) != images[tag]
        ]
        if lacking:
            cluster.load(archive, lacking)
    return images
