"""Uploads are hashed while they come, and what the commit does is the rest."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from job_values import Threads, result_of
from twisted.internet.defer import ensureDeferred

from cumulusd.errors import InvalidArgument
from cumulusd.jobs import upload_hashes
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.store import StoreFailed
from cumulusd.jobs.upload_hashes import Progress

CHUNK_BYTES = 1000


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_hashes, "STEP_BYTES", 3 * CHUNK_BYTES)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(from, to) of each stretch."""
    stretches = []
    real = Progress.hash_to

    def hash_to(progress: Progress, fd: int, end: int) -> None:
        begun = progress.hashed_bytes
        real(progress, fd, end)
        stretches.append((begun, progress.hashed_bytes))

    monkeypatch.setattr(Progress, "hash_to", hash_to)
    return stretches


def packages(root: Path, threads: Threads) -> Packages:
    return Packages(root, run_in_thread=threads, max_package_bytes=1 << 20)


def put_all(held: Packages, data: bytes, sha256: str, offset: int = 0) -> None:
    for at in range(offset, len(data), CHUNK_BYTES):
        result_of(held.put("ann", sha256, at, data[at : at + CHUNK_BYTES]))


def made(size_bytes: int = 10 * CHUNK_BYTES) -> tuple[bytes, str]:
    data = os.urandom(size_bytes)
    return data, hashlib.sha256(data).hexdigest()


def test_each_byte_is_hashed_once(tmp_path: Path, hashed: list[tuple[int, int]]) -> None:
    held, (data, sha256) = packages(tmp_path, Threads()), made()
    put_all(held, data, sha256)
    result_of(held.commit("ann", sha256, len(data)))
    assert hashed == [(0, 3000), (3000, 6000), (6000, 9000), (9000, 10_000)]
    assert result_of(held.read(sha256, 0, len(data))) == (data, len(data))
    assert len(held._hashes) == 0


def test_a_commit_waits_for_the_thread_that_hashes(
    tmp_path: Path, hashed: list[tuple[int, int]]
) -> None:
    threads = Threads(held=True)
    held, (data, sha256) = packages(tmp_path, threads), made()
    put_all(held, data, sha256)
    assert threads.waiting == 1  # one piece of work at a time, however much comes
    commit: Any = ensureDeferred(held.commit("ann", sha256, len(data)))
    assert threads.waiting == 1 and not commit.called
    threads.release()
    assert not commit.called and threads.waiting == 1
    threads.release()
    assert commit.called
    result_of(commit)
    assert hashed == [(0, 3000), (3000, 10_000)]


def test_other_bytes_are_found_wherever_they_are(tmp_path: Path) -> None:
    held, (data, sha256) = packages(tmp_path, Threads()), made()
    for wrong in (5, 9_999):
        changed = bytearray(data)
        changed[wrong] ^= 1
        put_all(held, bytes(changed), sha256)
        with pytest.raises(InvalidArgument, match="were announced"):
            result_of(held.commit("ann", sha256, len(data)))
        assert held.uploaded("ann", sha256) == 0
    put_all(held, data, sha256)
    result_of(held.commit("ann", sha256, len(data)))


def test_an_upload_goes_on_after_a_restart(tmp_path: Path, hashed: list[tuple[int, int]]) -> None:
    data, sha256 = made()
    put_all(packages(tmp_path, Threads()), data[:5000], sha256)
    held = packages(tmp_path, Threads())
    put_all(held, data, sha256, held.uploaded("ann", sha256))
    result_of(held.commit("ann", sha256, len(data)))
    assert hashed[1:] == [(0, 6000), (6000, 9000), (9000, 10_000)]


def test_one_that_was_deleted_begins_afresh(tmp_path: Path) -> None:
    held, (data, sha256) = packages(tmp_path, Threads()), made()
    put_all(held, bytes(6000), sha256)
    assert result_of(held.prune(set(), 1e12, 0.0)) == 6000
    assert len(held._hashes) == 0
    put_all(held, bytes(6000), sha256)
    next((tmp_path / "uploads").iterdir()).unlink()  # behind our back
    put_all(held, data, sha256)
    result_of(held.commit("ann", sha256, len(data)))


def fails(*arguments: Any) -> None:
    raise OSError(5, "Input/output error")


def test_a_disk_that_can_not_be_read_meanwhile_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, (data, sha256) = packages(tmp_path, Threads()), made()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fails)
        put_all(held, data, sha256)
    result_of(held.commit("ann", sha256, len(data)))
    assert result_of(held.read(sha256, 0, 10)) == (data[:10], len(data))


def test_what_the_disk_refused_meanwhile_is_never_taken_for_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(held=True)
    held, (data, sha256) = packages(tmp_path, threads), made()
    put_all(held, data, sha256)
    commit: Any = ensureDeferred(held.commit("ann", sha256, len(data)))
    with monkeypatch.context() as patched:
        # The kernel tells it once: the commit's own fsync would find nothing wrong.
        patched.setattr(os, "fdatasync", fails)
        threads.release()
    with pytest.raises(StoreFailed):
        result_of(commit)
    assert held.uploaded("ann", sha256) == 0 and len(held._hashes) == 0
    again = packages(tmp_path, Threads())
    put_all(again, data, sha256)
    result_of(again.commit("ann", sha256, len(data)))
    assert result_of(again.read(sha256, 0, 10)) == (data[:10], len(data))
