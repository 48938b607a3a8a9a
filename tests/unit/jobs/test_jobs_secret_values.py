"""The file that holds a job's secrets: for the daemon's user only, durable, gone in the end."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import pytest_twisted
from twisted.logger import capturedLogs, formatEvent

from cumulusd.errors import InternalError, Unavailable
from cumulusd.jobs.secret_values import SecretValues
from cumulusd.jobs.store import StoreFailed
from tests.unit.supervisor.world import run_at_once

VALUE = "hunter2-Zq9"


def made(folder: Path) -> SecretValues:
    return SecretValues(folder / "secrets", run_at_once)


@pytest_twisted.ensureDeferred
async def test_they_come_back_and_nobody_else_can_read_them(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await made(tmp_path).save("a", {"TOKEN": VALUE})
    finally:
        os.umask(before)
    assert await made(tmp_path).load("a") == {"TOKEN": VALUE}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    (file,) = (tmp_path / "secrets").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest_twisted.ensureDeferred
async def test_they_are_on_disk_before_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", note)
    await made(tmp_path).save("a", {"TOKEN": VALUE})
    assert synced == [str(tmp_path / "secrets/a.json.new"), str(tmp_path / "secrets")]


@pytest_twisted.ensureDeferred
async def test_a_full_disk_refuses_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFailed) as refusal:
        await made(tmp_path).save("a", {"TOKEN": VALUE})
    assert os.strerror(errno.ENOSPC) in refusal.value.message
    assert VALUE not in repr(refusal.value.as_dict())
    assert os.listdir(tmp_path / "secrets") == []


@pytest_twisted.ensureDeferred
async def test_they_go_and_only_they(tmp_path: Path) -> None:
    secrets = made(tmp_path)
    await secrets.save("a", {"TOKEN": VALUE})
    await secrets.save("b", {"TOKEN": "other"})
    secrets.discard("a")
    secrets.discard("never-there")
    assert os.listdir(tmp_path / "secrets") == ["b.json"]
    await secrets.stop()


@pytest_twisted.ensureDeferred
async def test_at_the_start_only_those_of_jobs_that_live_stay(tmp_path: Path) -> None:
    made(tmp_path).discard_others({"a"})  # before there is anything
    secrets = made(tmp_path)
    for job_id in ("a", "ended"):
        await secrets.save(job_id, {"TOKEN": VALUE})
    (tmp_path / "secrets/a.json.new").write_text("of a daemon that was killed")
    secrets.discard_others({"a", "without"})
    assert os.listdir(tmp_path / "secrets") == ["a.json"]


@pytest.mark.parametrize("content", [None, f'{{"TOKEN": "{VALUE}', json.dumps([VALUE])])
@pytest_twisted.ensureDeferred
async def test_what_cant_be_read_is_told_without_quoting_it(
    tmp_path: Path, content: str | None
) -> None:
    secrets = made(tmp_path)
    await secrets.save("a", {"TOKEN": VALUE})
    if content is None:
        (tmp_path / "secrets/a.json").unlink()
    else:
        (tmp_path / "secrets/a.json").write_text(content)
    with pytest.raises(InternalError) as failed:
        await secrets.load("a")
    assert failed.value.job_id == "a"
    assert VALUE not in repr(failed.value.as_dict())


@pytest_twisted.ensureDeferred
async def test_what_cant_be_read_now_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = made(tmp_path)
    await secrets.save("a", {"TOKEN": VALUE})

    def refuse(self: Path, mode: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(Path, "open", refuse)
        await secrets.load("a")
    assert await secrets.load("a") == {"TOKEN": VALUE}


@pytest_twisted.ensureDeferred
async def test_what_cant_be_deleted_is_told_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = made(tmp_path)
    await secrets.save("a", {"TOKEN": VALUE})

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch, capturedLogs() as logs:
        patch.setattr(Path, "unlink", refuse)
        secrets.discard("a")
        secrets.discard_others(set())
    told = [formatEvent(event) for event in logs]
    assert len(told) == 2 and all("a.json can't be deleted" in line for line in told)
    assert VALUE not in repr(logs)
