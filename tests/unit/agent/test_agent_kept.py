"""What a job keeps on its worker from one attempt to the next."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from agent_world import CallFailed, World

from cumulusd.agent.job_folder import JobFolders
from cumulusd.agent.kept_folder import Kept


def kept(world: World, job_id: str = "job-1") -> Path:
    return world.root / "kept" / job_id


@pytest_twisted.ensureDeferred
async def test_prepare_makes_it_mounts_it_and_tells_the_runner(make: Callable[..., World]) -> None:
    world = await make().start()
    answer = await world.prepare(resumed=True, ran_s=2.5)
    path = kept(world)
    assert [str(path), str(path), False] in answer["grant"]["mounts"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert sorted(os.listdir(path)) == ["artifacts", "checkpoints", "outputs"]
    orders = json.loads((world.root / "jobs" / "job-1" / "job.json").read_bytes())
    assert orders["kept"] == str(path)
    assert (orders["resumed"], orders["ran_s"]) == (True, 2.5)
    assert (orders["partition_id"], orders["device_index"]) == (
        answer["grant"]["partition_id"],
        answer["grant"]["device_index"],
    )


@pytest_twisted.ensureDeferred
async def test_it_goes_with_the_job_and_stays_for_another_attempt(
    make: Callable[..., World],
) -> None:
    world = await make().start()
    await world.prepare()
    (kept(world) / "checkpoints" / "a.pt").write_text("weights")
    answer = await world.router.call("release", job_id="job-1", attempt=1, keep=True)
    assert answer["kept"] == {"checkpoints": True, "files": False}
    assert (await world.router.call("journals"))["kept"] == ["job-1"]
    await world.prepare(attempt=2, needs_kept=True)
    assert (kept(world) / "checkpoints" / "a.pt").read_text() == "weights"
    (kept(world) / "outputs" / "o").write_text("")
    # An attempt before that comes late takes nothing of this one's away.
    await world.router.call("release", job_id="job-1", attempt=1)
    assert kept(world).exists()
    answer = await world.router.call("release", job_id="job-1", attempt=2, keep=True)
    assert answer["kept"] == {"checkpoints": True, "files": True}
    # The job ends without another attempt here: a release of no attempt that is there.
    answer = await world.router.call("release", job_id="job-1", attempt=3)
    assert (answer["released"], answer["kept"]) == (True, None)
    assert os.listdir(world.root / "kept") == []
    await world.until(lambda: os.listdir(world.root / "trash") == [])


@pytest_twisted.ensureDeferred
async def test_an_empty_one_isnt_kept(make: Callable[..., World]) -> None:
    world = await make().start()
    await world.prepare()
    answer = await world.router.call("release", job_id="job-1", attempt=1, keep=True)
    assert answer["kept"] is None
    assert os.listdir(world.root / "kept") == []


@pytest_twisted.ensureDeferred
async def test_without_what_it_needs_a_job_is_refused(make: Callable[..., World]) -> None:
    world = await make().start()
    with pytest.raises(CallFailed) as caught:
        await world.prepare(attempt=2, needs_kept=True)
    assert caught.value.uri == "cumulus.error.not_found"
    assert caught.value.kwargs["details"] == {"checkpoint_lost": True}
    assert (await world.router.call("partitions"))["partitions"] == []
    assert os.listdir(world.root / "kept") == []


@pytest_twisted.ensureDeferred
async def test_a_failed_prepare_leaves_one_that_was_there(make: Callable[..., World]) -> None:
    world = await make(package_timeout_s=0.5).start()
    await world.prepare()
    (kept(world) / "artifacts" / "a").write_text("x")
    await world.router.call("release", job_id="job-1", attempt=1, keep=True)
    missing = {"sha256": "00" * 32, "size_bytes": 3}
    for job_id in ("job-1", "job-2"):
        with pytest.raises(CallFailed):
            await world.prepare(job_id, attempt=2, package=missing)
    assert os.listdir(world.root / "kept") == ["job-1"]


@pytest_twisted.ensureDeferred
async def test_what_another_job_of_that_id_left_is_nobody_elses(make: Callable[..., World]) -> None:
    """The daemon had given this worker up, and deleted the job; then the id was used anew."""
    world = await make().start()
    await world.prepare()
    (kept(world) / "checkpoints" / "a.pt").write_text("weights")
    package = world.root / "jobs" / "job-1" / "package.zip"
    package.write_bytes(b"theirs")
    await world.prepare(owner="somebody else")
    assert os.listdir(kept(world) / "checkpoints") == []
    assert package.read_bytes() != b"theirs"
    orders = json.loads((world.root / "jobs" / "job-1" / "job.json").read_bytes())
    assert orders["owner"] == "somebody else"
    await world.router.call("release", job_id="job-1", attempt=1, keep=True)
    (kept(world)).mkdir()
    (kept(world) / "secret").write_text("x")
    await world.prepare(owner="a third")
    assert not (kept(world) / "secret").exists()


def test_what_a_job_puts_there_is_looked_at_without_following_it(tmp_path: Path) -> None:
    folders = JobFolders(tmp_path)
    try:
        assert folders.kept.provide("job-1")
        assert not folders.kept.provide("job-1")
        assert folders.kept.look("job-1") is None
        checkpoints = tmp_path / "kept/job-1/checkpoints"
        checkpoints.rmdir()
        assert folders.kept.look("job-1") is None
        checkpoints.symlink_to("/")
        assert folders.kept.look("job-1") == Kept(checkpoints=True, files=False)
        (tmp_path / "kept/job-1/other").write_text("")
        assert folders.kept.look("job-1") == Kept(checkpoints=True, files=True)
        folders.kept.discard("job-1")
        assert not folders.kept.has("job-1")
        folders.kept.discard("job-1")
    finally:
        folders.close()


def test_what_an_agent_left_half_made_is_taken_away(tmp_path: Path) -> None:
    JobFolders(tmp_path).close()
    (tmp_path / "kept/.new~ab").mkdir()
    folders = JobFolders(tmp_path)
    try:
        assert os.listdir(tmp_path / "kept") == []
        folders.empty_trash()
        assert os.listdir(tmp_path / "trash") == []
    finally:
        folders.close()
