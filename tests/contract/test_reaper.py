"""The reaper over the real platforms: it clears what is this instance's and nobody's, only that."""

from pathlib import Path
from typing import Any

import pytest_twisted

from cumulusd.jobs.settings import Settings
from cumulusd.jobs.table import JobTable
from cumulusd.jobs.watcher import Watcher
from cumulusd.swarm import labels
from tests.contract.platform_contract import new_job
from tests.contract.site import Contracted
from tests.unit.local.test_local_platform import Site as LocalSite


class NoAgents:
    def agents(self) -> dict[str, Any]:
        return {}


def reaper(platform: Any, clock: Any) -> Watcher:
    return Watcher(
        table=JobTable(),  # no job is known
        journals=None,  # type: ignore[arg-type]
        platform=platform,
        workers=NoAgents(),  # type: ignore[arg-type]
        clock=clock,
        settings=Settings(),
        tell=None,  # type: ignore[arg-type]
        named=None,  # type: ignore[arg-type]
    )


@pytest_twisted.ensureDeferred
async def test_on_a_swarm_it_clears_its_instances_leftovers_only(site: Contracted) -> None:
    ours, theirs = new_job(), new_job()
    platform = site.platform("sleep 30")
    other = site.platform("sleep 30", instance_id=site.instance_id + "-other")
    await site.launch(platform, site.spec(ours))
    await site.launch(other, site.spec(theirs))
    for one, job_id in ((platform, ours), (other, theirs)):
        await site.until(one, job_id, lambda found: found.alive and not found.message, "running")
    foreign = {labels.INSTANCE: site.instance_id + "-other"}
    before = await site.engine().services(foreign)
    watcher = reaper(platform, site.reactor)
    await watcher.reap()
    await site.ended(platform, ours)
    await watcher.reap()
    assert await platform.all_containers() == []
    assert (await other.containers())[theirs].alive
    assert await site.engine().services(foreign) == before


@pytest_twisted.ensureDeferred
async def test_on_this_machine_it_clears_its_own_folders_runners_only(
    tmp_path: Path, site: Contracted
) -> None:
    ours, theirs = LocalSite(tmp_path / "ours", "sleep"), LocalSite(tmp_path / "theirs", "sleep")
    for one in (ours, theirs):
        await one.platform.launch(one.spec)
    watcher = reaper(ours.platform, site.reactor)
    try:
        await watcher.reap()

        async def ended() -> bool:
            return not (await ours.platform.containers())["a"].alive

        await ours.until(ended)
        await watcher.reap()
        assert await ours.platform.all_containers() == []
        assert (await theirs.platform.containers())["a"].alive
    finally:
        await theirs.platform.stop("a", 1)

        async def gone() -> bool:
            return not (await theirs.platform.containers())["a"].alive

        await theirs.until(gone)
        await theirs.platform.remove("a", 1)
        await ours.platform.close()
        await theirs.platform.close()
