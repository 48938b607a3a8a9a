"""The agent on a disk that is full, or fills."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from agent_world import CallFailed, World
from twisted.internet.task import deferLater

from cumulusd.agent.job_folder import JobFolder
from cumulusd.chronos.ledger_file import LedgerFile
from cumulusd.disk import Disk


class TinyDisk:
    """What os.statvfs says."""

    f_frsize, f_files, f_favail = 1, 0, 0

    def __init__(self, f_bavail: int) -> None:
        self.f_bavail = f_bavail


@pytest_twisted.ensureDeferred
async def test_a_full_disk_refuses_new_jobs_and_says_so(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = TinyDisk(1 << 20)
    monkeypatch.setattr(Disk.__init__, "__defaults__", (lambda folder: disk,))
    world = await make(min_free_bytes=1 << 20).start()
    assert (await world.router.call("devices"))["fault"] is None
    with pytest.raises(CallFailed) as caught:
        await world.prepare()  # its package does not fit beside what is to stay free
    assert caught.value.uri == "cumulus.error.insufficient_resources"
    said = caught.value.kwargs
    assert "host-1" in said["message"] and "bytes free" in said["message"]
    assert said["job_id"] == "job-1" and said["hint"]
    assert (await world.router.call("devices"))["fault"] == said["details"]["fault"]
    assert os.listdir(world.root / "jobs") == []
    assert (await world.router.call("partitions"))["partitions"] == []
    disk.f_bavail = 1 << 30
    await world.prepare()
    disk.f_bavail = 0
    await world.prepare()  # it is there already
    assert "0 bytes free" in (await world.router.call("devices"))["fault"]


@pytest_twisted.ensureDeferred
async def test_a_disk_that_fills_while_a_job_is_prepared_leaves_nothing(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make().start()

    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JobFolder, "write_orders", full)
        with pytest.raises(CallFailed) as caught:
            await world.prepare()
    assert caught.value.uri == "cumulus.error.insufficient_resources"
    assert "No space left" in (await world.router.call("devices"))["fault"]
    assert os.listdir(world.root / "jobs") == []
    assert (await world.router.call("partitions"))["partitions"] == []
    await world.prepare()


@pytest_twisted.ensureDeferred
async def test_what_a_released_job_left_is_deleted_though_the_ledger_cant_be_written(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk it is just this that makes room."""
    world = await make().start()
    await world.prepare()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "_save", full)
        with pytest.raises(CallFailed):
            await world.router.call("release", job_id="job-1", attempt=1)
        await world.until(lambda: os.listdir(world.root / "trash") == [])
        assert os.listdir(world.root / "jobs") == []
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True


@pytest_twisted.ensureDeferred
async def test_an_agent_starts_though_the_ledger_cant_be_written(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions of an earlier boot are marked as soon as the disk takes it."""
    world = await make().start()
    await world.prepare()
    await world.stop_agent()
    world.boot_id = "boot-2"

    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "_save", full)
        joined = world.router.joined
        world.start_agent()
        await world.until(lambda: world.router.joined > joined)

    async def state() -> str:
        (one,) = (await world.router.call("partitions"))["partitions"]
        return str(one["state"])

    for _ in range(100):
        if await state() == "draining":
            break
        await deferLater(world.reactor, 0.1)
    assert await state() == "draining"


@pytest_twisted.ensureDeferred
async def test_what_is_left_of_a_failed_prepare_is_deleted_though_the_ledger_cant_be_written(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make().start()
    save, saves = LedgerFile._save, []

    def full(*arguments: Any) -> None:
        saves.append(arguments)
        if len(saves) > 1:  # there was just room for the partition
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    def no_room(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "_save", full)
        patch.setattr(JobFolder, "write_orders", no_room)
        with pytest.raises(CallFailed):
            await world.prepare()
        await world.until(lambda: os.listdir(world.root / "trash") == [])
        assert os.listdir(world.root / "jobs") == []
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True
    assert (await world.router.call("partitions"))["partitions"] == []
