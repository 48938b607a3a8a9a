"""The environments on a worker: what goes when they are too large, and what never does."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import capturedLogs

from cumulus_wire.environments import MARKER
from cumulusd.agent import environments
from cumulusd.agent.cache_keeper import CacheKeeper
from cumulusd.agent.disk_room import DiskRoom
from cumulusd.agent.environments import (
    CacheBounds,
    EnvironmentCaches,
    Found,
    Rank,
    next_to_go,
)
from cumulusd.agent.job_folder import JobFolders
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.threads import Threads
from cumulusd.agent.tree import delete_tree
from cumulusd.disk import Disk

NOW = 1000.0
MIB = 1 << 20
ROOMY = CacheBounds(max_bytes=1 << 40, owner_max_bytes=1 << 40)


def one(owner: str, name: str, used_at: float, size: int, rank: Rank = Rank.WHOLE) -> Found:
    return Found(owner=owner, name=name, rank=rank, used_at=used_at, size_bytes=size)


class Worker:
    """An agent's folder with environments in it."""

    def __init__(self, root: Path) -> None:
        self.owners = root / "owners"
        self.owners.mkdir()
        (root / "trash").mkdir()
        self.trash = os.open(root / "trash", os.O_RDONLY)
        self.caches = EnvironmentCaches(self.owners, self.trash, lambda: NOW)

    def folder(self, owner: str) -> Path:
        folder = self.owners / owner / "env"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def environment(self, owner: str, key: str, used_at: float, mib: int = 1) -> Path:
        place = self.folder(owner) / key
        (place / "lib").mkdir(parents=True)
        (place / "lib" / "module.py").write_bytes(b"x" * (mib * MIB))
        (place / MARKER).write_text("{}")
        os.utime(place / MARKER, (used_at, used_at))
        (self.folder(owner) / f"{key}.lock").touch()
        return place

    def left(self, owner: str) -> list[str]:
        return sorted(os.listdir(self.folder(owner)))

    def bound(self, max_mib: float, owner_max_mib: float = 1e6, wanted_mib: int = 0) -> list[str]:
        bounds = CacheBounds(max_bytes=int(max_mib * MIB), owner_max_bytes=int(owner_max_mib * MIB))
        gone = [gone.name for gone in self.caches.bound(bounds, wanted_mib * MIB)]
        for name in os.listdir(self.trash):
            delete_tree(self.trash, name)
        return gone


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path)
    yield made
    os.close(made.trash)


def hold(path: Path, how: int) -> int:
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, how)
    return handle


# -- the choice


def test_within_the_bounds_nothing_goes() -> None:
    found = [one("a", "x", 1, 10), one("b", "y", 2, 10)]
    assert next_to_go(found, CacheBounds(max_bytes=20, owner_max_bytes=10), 0, set()) is None


def test_an_owner_over_its_bound_loses_its_own() -> None:
    found = [one("a", "old", 1, 10), one("b", "new", 3, 10), one("b", "older", 2, 10)]
    gone = next_to_go(found, CacheBounds(max_bytes=100, owner_max_bytes=15), 0, set())
    assert gone is not None and gone.name == "older"


def test_over_the_workers_bound_goes_the_least_recently_used_of_all() -> None:
    found = [one("a", "new", 3, 10), one("b", "old", 1, 10), one("b", "newer", 4, 10)]
    bounds = CacheBounds(max_bytes=25, owner_max_bytes=100)
    gone = next_to_go(found, bounds, 0, set())
    assert gone is not None and gone.name == "old"
    gone = next_to_go(found, bounds, 0, {("b", "old")})
    assert gone is not None and gone.name == "new"


def test_what_only_builds_need_goes_before_any_environment() -> None:
    found = [one("a", "old", 1, 10), one("b", ".uv-cache", 9, 10, Rank.UV_CACHE)]
    gone = next_to_go(found, CacheBounds(max_bytes=15, owner_max_bytes=100), 0, set())
    assert gone is not None and gone.rank is Rank.UV_CACHE


def test_a_disk_that_lacks_room_gets_it() -> None:
    gone = next_to_go([one("a", "x", 1, 10)], ROOMY, 1, set())
    assert gone is not None and gone.name == "x"
    assert next_to_go([one("a", "x", 1, 10)], ROOMY, 0, set()) is None


def test_rests_go_in_any_case_and_what_is_being_built_never() -> None:
    rest, busy = one("a", ".k.1", 1, 1, Rank.REST), one("a", ".k.2", 1, 1, Rank.BUSY)
    assert next_to_go([busy, rest], ROOMY, 0, set()) == rest
    assert next_to_go([busy], CacheBounds(max_bytes=0, owner_max_bytes=0), 9, set()) is None


# -- on a disk


def test_the_least_recently_used_goes_into_the_trash(worker: Worker) -> None:
    worker.environment("ada", "k1", 10)
    worker.environment("ada", "k2", 5)
    worker.environment("bob", "k3", 7)
    assert worker.bound(max_mib=2.5) == ["k2"]
    # Its lock goes with it, those of the others stay.
    assert worker.left("ada") == ["k1", "k1.lock", "k2.lock"]
    assert worker.bound(max_mib=2.5) == ["k2.lock"]
    assert worker.left("bob") == ["k3", "k3.lock"]
    assert worker.bound(max_mib=0.5) == ["k3", "k1"]
    assert worker.bound(max_mib=0.5) == ["k1.lock", "k3.lock"]


def test_a_mark_in_the_future_is_no_privilege(worker: Worker) -> None:
    worker.environment("ada", "k1", NOW * 9)
    worker.environment("bob", "k2", NOW)
    assert worker.bound(max_mib=1.5)[0] == "k1"


def test_what_a_job_uses_stays(worker: Worker) -> None:
    place = worker.environment("ada", "k1", 1)
    worker.environment("ada", "k2", 2)
    held = hold(place, fcntl.LOCK_SH)
    assert worker.bound(max_mib=0.5) == ["k2"]
    os.close(held)
    assert worker.bound(max_mib=0.5) == ["k2.lock", "k1"]


def test_what_a_builder_left_goes_when_it_is_dead(worker: Worker) -> None:
    folder = worker.folder("ada")
    (folder / ".k1.77" / "environment").mkdir(parents=True)
    (folder / "k1.lock").touch()
    held = hold(folder / "k1.lock", fcntl.LOCK_EX)
    assert worker.bound(max_mib=0) == []
    os.close(held)
    assert set(worker.bound(max_mib=100)) == {".k1.77", "k1.lock"}
    assert worker.left("ada") == []


def test_what_was_replaced_goes_after_its_users(worker: Worker) -> None:
    stale = worker.folder("ada") / ".stale.0123"
    stale.mkdir()
    held = hold(stale, fcntl.LOCK_SH)
    assert worker.bound(max_mib=100) == []
    os.close(held)
    assert worker.bound(max_mib=100) == [".stale.0123"]


def test_files_that_uv_shares_are_counted_once(worker: Worker) -> None:
    place = worker.environment("ada", "k1", 1, mib=4)
    cache = worker.folder("ada") / ".uv-cache"
    cache.mkdir()
    os.link(place / "lib" / "module.py", cache / "module.py")
    assert worker.bound(max_mib=4.5) == []
    # Deleting uv's frees nothing by itself, which is seen when it is gone.
    assert worker.bound(max_mib=3) == [".uv-cache"]
    assert worker.bound(max_mib=3) == ["k1"]


def test_uvs_cache_stays_while_somebody_builds(worker: Worker) -> None:
    cache = worker.folder("ada") / ".uv-cache"
    cache.mkdir()
    (cache / "wheel").write_bytes(b"x" * 2 * MIB)
    held = hold(cache, fcntl.LOCK_SH)
    assert worker.bound(max_mib=1) == []
    os.close(held)
    assert worker.bound(max_mib=1) == [".uv-cache"]


def test_links_lead_nowhere(worker: Worker, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "large").write_bytes(b"x" * 8 * MIB)
    folder = worker.folder("ada")
    (folder / "k1").symlink_to(treasure)
    os.mkfifo(folder / "pipe")
    (worker.environment("ada", "k2", 1) / "out").symlink_to(treasure)
    assert worker.bound(max_mib=2) == []
    assert set(worker.bound(max_mib=0)) == {"k1", "k2", "pipe"}
    assert (treasure / "large").exists()


def test_more_than_anybody_wants_to_count_is_too_large(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.environment("ada", "k1", 1)
    worker.environment("bob", "k2", 2)
    deep = worker.folder("bob") / "k2"
    for _ in range(10):
        deep = deep / "d"
        deep.mkdir()
    monkeypatch.setattr(environments, "MAX_DEPTH", 5)
    assert worker.bound(max_mib=1e6, owner_max_mib=1e6) == ["k2"]
    monkeypatch.setattr(environments, "MAX_FILES", 2)
    assert worker.bound(max_mib=1e6, owner_max_mib=1e6) == ["k2.lock", "k1"]


def test_an_owner_without_environments_yet(worker: Worker) -> None:
    (worker.owners / "new").mkdir()
    assert worker.bound(max_mib=0) == []
    assert worker.caches.state() == ()


class _Full(Disk):
    def __init__(self, folder: Path, worker: Worker) -> None:
        super().__init__(folder, 0)
        self.worker = worker

    def lacking_bytes(self) -> int:
        return max(0, 3 * MIB - 2 * MIB * (2 - len(list(self.worker.owners.glob("*/env/k?")))))


def test_the_keeper_frees_what_a_disk_lacks_and_says_so(tmp_path: Path) -> None:
    folders = JobFolders(tmp_path)
    worker = Worker.__new__(Worker)
    worker.owners = tmp_path / "owners"
    worker.environment("ada", "k1", 1, mib=2)
    worker.environment("ada", "k2", 2, mib=2)
    clock = task.Clock()
    threads = Threads(lambda work: succeed(work()))
    room = DiskRoom(clock, _Full(tmp_path, worker), "host")
    options = AgentOptions(requirements_cache_interval_s=60.0)
    with capturedLogs() as logs:
        running = Deferred.fromCoroutine(CacheKeeper(clock, folders, room, threads, options).run())
    assert worker.left("ada") == []
    assert [event["name"] for event in logs if "size_bytes" in event] == ["k1", "k2"]
    assert os.listdir(tmp_path / "trash") == []
    worker.environment("ada", "k3", 3, mib=2)
    (worker.folder("ada") / ".k3.5").mkdir()
    clock.advance(59)
    assert ".k3.5" in worker.left("ada")
    clock.advance(1)
    assert ".k3.5" not in worker.left("ada")
    running.addErrback(lambda failure: failure.trap(CancelledError))
    running.cancel()
    folders.close()


def test_the_state_changes_with_use(worker: Worker) -> None:
    place = worker.environment("ada", "k1", 1)
    before = worker.caches.state()
    assert worker.caches.state() == before
    os.utime(place / MARKER, (2, 2))
    assert worker.caches.state() != before
