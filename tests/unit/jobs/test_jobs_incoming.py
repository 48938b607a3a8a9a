"""Uploads whose hash nobody told: hashed as they are written, bounded, gone when they fail."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from job_values import Threads, result_of
from twisted.internet.defer import CancelledError, ensureDeferred

from cumulusd.errors import CumulusError, InvalidArgument, NotFound, TooLarge, TooMany
from cumulusd.jobs import incoming
from cumulusd.jobs.package_owners import name_for
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.store import StoreFailed

DATA = bytes(range(256)) * 20
HASH = hashlib.sha256(DATA).hexdigest()


def packages(root: Path, **options: Any) -> Packages:
    values: dict[str, Any] = {
        "run_in_thread": Threads(),
        "max_package_bytes": 10_000,
        "max_unfinished_bytes": 20_000,
    }
    return Packages(root, **(values | options))


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_it_becomes_a_package_by_its_hash(tmp_path: Path) -> None:
    held = packages(tmp_path)
    upload = held.receive("ann")
    for begin in range(0, len(DATA), 1000):
        result_of(upload.write(DATA[begin : begin + 1000]))
    assert held.total_bytes == len(DATA)
    assert result_of(upload.commit()) == (HASH, len(DATA))
    upload.discard()
    assert held.check("ann", HASH, len(DATA)) == (True, len(DATA))
    assert result_of(held.read(HASH, 0, 10_000))[0] == DATA
    assert sorted(files(tmp_path)) == sorted([f"{HASH}.zip", name_for("ann", HASH)])


def test_a_package_that_is_here_already_is_kept(tmp_path: Path) -> None:
    held = packages(tmp_path)
    for _ in range(2):
        upload = held.receive("ann")
        result_of(upload.write(DATA))
        assert result_of(upload.commit()) == (HASH, len(DATA))
    assert sorted(files(tmp_path)) == sorted([f"{HASH}.zip", name_for("ann", HASH)])


@pytest.mark.parametrize("when", ["made", "written"])
def test_a_discarded_one_leaves_nothing(tmp_path: Path, when: str) -> None:
    held, before = packages(tmp_path), descriptors()
    upload = held.receive("ann")
    if when == "written":
        result_of(upload.write(DATA))
    upload.discard()
    upload.discard()
    assert files(tmp_path) == [] and descriptors() == before
    with pytest.raises(RuntimeError):
        result_of(upload.write(b"more"))


def test_one_discarded_while_a_thread_writes_leaves_nothing(tmp_path: Path) -> None:
    threads = Threads(held=True)
    held, before = packages(tmp_path, run_in_thread=threads), descriptors()
    upload = held.receive("ann")
    writing = ensureDeferred(upload.write(DATA))
    writing.cancel()
    with pytest.raises(CancelledError):
        result_of(writing)
    assert files(tmp_path) == []
    assert descriptors() == before + 1, "the thread still writes to it"
    threads.release()
    assert descriptors() == before


def test_an_empty_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as refused:
        result_of(packages(tmp_path).receive("ann").commit())
    assert refused.value.details["faults"] == [{"key": "code", "message": "is empty"}]
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("size", "error"), [(10_001, TooLarge), (9_000, TooMany)], ids=["package", "all"]
)
def test_bounds(tmp_path: Path, size: int, error: type[CumulusError]) -> None:
    held = packages(tmp_path)
    others = [held.receive("ann") for _ in range(2)]
    for other in others:
        result_of(other.write(b"x" * 9_000))
    upload = held.receive("ann")
    with pytest.raises(error):
        result_of(upload.write(b"x" * size))
    for other in others:
        other.discard()
    assert files(tmp_path) == []


@pytest.mark.parametrize("at", ["write", "sync"])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    held, before = packages(tmp_path), descriptors()
    upload = held.receive("ann")
    if at == "write":
        monkeypatch.setattr(incoming, "write_at", refuse)
        with pytest.raises(StoreFailed, match="No space left"):
            result_of(upload.write(DATA))
    else:
        result_of(upload.write(DATA))
        monkeypatch.setattr(incoming.os, "fsync", refuse)
        with pytest.raises(StoreFailed, match="No space left"):
            result_of(upload.commit())
    assert files(tmp_path) == [] and descriptors() == before


def test_what_a_crash_left_goes_at_the_next_start(tmp_path: Path) -> None:
    upload = packages(tmp_path).receive("ann")
    result_of(upload.write(DATA))
    packages(tmp_path)
    assert files(tmp_path) == []
    upload.discard()


def test_looking_into_a_package(tmp_path: Path) -> None:
    held = packages(tmp_path)
    upload = held.receive("ann")
    result_of(upload.write(DATA))
    result_of(upload.commit())
    assert result_of(held.look("ann", HASH, lambda path: path.read_bytes())) == DATA
    with pytest.raises(NotFound):
        result_of(held.look("ann", "0" * 64, lambda path: path.read_bytes()))
    with pytest.raises(StoreFailed):
        result_of(held.look("ann", HASH, lambda path: os.listdir(path)))
