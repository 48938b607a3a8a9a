"""Runners and the agent's eviction on one owner's folder, at the same time."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from runner_kit import JobFolder, index_of, wheel

from cumulus_wire.environments import BASE_PREFIX
from cumulus_wire.journal import Kind
from cumulusd.agent.environments import CacheBounds, EnvironmentCaches
from cumulusd.agent.tree import delete_tree

NewJob = Callable[..., JobFolder]
NOTHING = CacheBounds(max_bytes=0, owner_max_bytes=0)
SOURCE = """
import thing_zq, time
def f():
    time.sleep(0.3)
    import later_zq
    return [thing_zq.value, later_zq.value]
"""


def test_every_job_finds_a_whole_environment_and_keeps_it(new_job: NewJob, tmp_path: Path) -> None:
    """With a bound of nothing, each is evicted as soon as nobody holds it."""
    wheel(tmp_path, "thing_zq", "1.0", "value = 42")
    wheel(tmp_path, "later_zq", "1.0", "value = 43")
    cache = tmp_path / "owners" / "ada" / "env"
    cache.mkdir(parents=True)
    (tmp_path / "trash").mkdir()
    trash = os.open(tmp_path / "trash", os.O_RDONLY)
    caches = EnvironmentCaches(tmp_path / "owners", trash, time.time)
    evicted: list[str] = []

    def evict() -> None:
        evicted.extend(gone.name for gone in caches.bound(NOTHING, 0))
        for name in os.listdir(trash):
            delete_tree(trash, name)

    try:
        for _ in range(3):
            jobs = [
                new_job(
                    requirements=["thing_zq", "later_zq"],
                    environments=str(cache),
                    installer_environment=index_of(tmp_path),
                ).function(SOURCE)
                for _ in range(3)
            ]
            processes = [job.start() for job in jobs]
            while any(process.poll() is None for process in processes):
                evict()
            ends = [job.exit() for job in jobs]
            assert [end["outcome"] for end in ends] == ["completed"] * 3, ends
            assert {job.output(Kind.RESULT) for job in jobs} == {b"[42,43]"}
        evict()
        evict()  # the locks, which nobody needs any more
    finally:
        os.close(trash)
    assert [name for name in os.listdir(cache) if not name.startswith(BASE_PREFIX)] == []
    environments = [name for name in evicted if name.isalnum()]
    assert len(environments) >= 3, "environments were evicted, between the jobs at least"
