"""Packages on disk: resumed uploads, checked hashes, bounds, pruning."""

import hashlib
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_values import Threads, result_of
from twisted.internet.defer import CancelledError, ensureDeferred

from cumulusd.errors import Conflict, CumulusError, InvalidArgument, NotFound, TooLarge, TooMany
from cumulusd.jobs import packages as packages_module
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.small_packages import MAX_PACKAGE_BYTES, MAX_TOTAL_BYTES, SmallPackages
from cumulusd.jobs.store import StoreFailed

DATA = bytes(range(256)) * 20
HASH = hashlib.sha256(DATA).hexdigest()


class Time:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def packages(root: Path, **options: Any) -> Packages:
    values: dict[str, Any] = {
        "run_in_thread": Threads(),
        "wall_clock": Time(),
        "max_package_bytes": 10_000,
        "max_unfinished_bytes": 20_000,
    }
    return Packages(root, **(values | options))


def upload(held: Packages, data: bytes, owner: str = "ann") -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    result_of(held.put(owner, sha256, 0, data))
    result_of(held.commit(owner, sha256, len(data)))
    return sha256


def test_an_upload_in_pieces(tmp_path: Path) -> None:
    held = packages(tmp_path)
    assert held.check("ann", HASH, len(DATA)) == (False, 0)
    assert held.uploaded("ann", HASH) == 0
    assert result_of(held.put("ann", HASH, 0, DATA[:2000])) == 2000
    assert held.uploaded("ann", HASH) == 2000
    assert result_of(held.put("ann", HASH, 2000, DATA[2000:])) == len(DATA)
    assert held.check("ann", HASH, len(DATA)) == (False, 0)
    result_of(held.commit("ann", HASH, len(DATA)))
    result_of(held.commit("ann", HASH, len(DATA)))
    assert held.check("ann", HASH, len(DATA)) == (True, len(DATA))
    assert result_of(held.read(HASH, 0, 10**6)) == (DATA, len(DATA))
    assert result_of(held.read(HASH, 100, 7)) == (DATA[100:107], len(DATA))
    assert result_of(held.read(HASH, len(DATA), 7)) == (b"", len(DATA))
    assert held.total_bytes == len(DATA)
    # Its owner uploads nothing more.
    assert result_of(held.put("ann", HASH, 0, DATA[:5])) == len(DATA)


def test_a_package_is_there_for_who_brought_it(tmp_path: Path) -> None:
    """Nobody else can use it, or find out that it is there: not by asking, sizes, uploads."""
    held = packages(tmp_path)
    upload(held, DATA)
    missing = "0" * 64
    for sha256 in (HASH, missing):
        assert held.check("ben", sha256, len(DATA)) == (False, 0)
        assert held.check("ben", sha256, 5) == (False, 0)
        assert held.uploaded("ben", sha256) == 0
        assert result_of(held.put("ben", sha256, 0, DATA[:5])) == 5
        with pytest.raises(Conflict):
            result_of(held.put("ben", sha256, 0, DATA[:5]))
        with pytest.raises(Conflict):
            result_of(held.commit("ben", sha256, len(DATA)))
        with pytest.raises(NotFound, match="not here"):
            result_of(held.look("ben", sha256, Path.read_bytes))
    wrong = hashlib.sha256(DATA[:5]).hexdigest()
    with pytest.raises(InvalidArgument, match=wrong):
        result_of(held.commit("ben", HASH, 5))
    assert result_of(held.read(HASH, 0, 10**6))[0] == DATA, "what ann brought stays"
    upload(held, DATA, "ben")
    assert held.check("ben", HASH, len(DATA)) == (True, len(DATA))
    held = packages(tmp_path)
    assert held.check("ben", HASH, len(DATA)) == held.check("ann", HASH, len(DATA))
    assert held.check("eve", HASH, len(DATA)) == (False, 0)
    begun = len(DATA[:5])  # of the hash that nothing has
    assert held.total_bytes == len(DATA) + begun, "its bytes are kept once"


def test_who_brought_a_package_goes_with_it(tmp_path: Path) -> None:
    held = packages(tmp_path, wall_clock=lambda: 0.0)
    upload(held, DATA)
    kept = upload(held, b"kept")
    assert result_of(held.prune({kept}, 10_000.0, 100.0)) == len(DATA)
    assert [path.name.rpartition("-")[2] for path in (tmp_path / "owners").iterdir()] == [kept]
    upload(held, DATA, "ben")
    assert held.check("ann", HASH, len(DATA)) == (False, 0)


def test_an_upload_goes_on_after_a_restart_and_owners_do_not_mix(tmp_path: Path) -> None:
    held = packages(tmp_path)
    result_of(held.put("ann", HASH, 0, DATA[:2000]))
    result_of(held.put("../ben", HASH, 0, b"rubbish"))
    held = packages(tmp_path)
    assert held.uploaded("ann", HASH) == 2000
    assert held.uploaded("../ben", HASH) == 7
    result_of(held.put("ann", HASH, 2000, DATA[2000:]))
    result_of(held.commit("ann", HASH, len(DATA)))
    assert result_of(held.read(HASH, 0, 10**6))[0] == DATA
    assert {each.name for each in tmp_path.iterdir()} == {
        f"{HASH}.zip",
        *("uploads", "checking", "owners"),
    }


@pytest.mark.parametrize("offset", [0, 1999, 2001])
def test_another_offset_is_told_the_right_one(tmp_path: Path, offset: int) -> None:
    held = packages(tmp_path)
    result_of(held.put("ann", HASH, 0, DATA[:2000]))
    with pytest.raises(Conflict) as caught:
        result_of(held.put("ann", HASH, offset, DATA[offset:3000]))
    assert caught.value.details == {"offset": 2000}
    assert held.uploaded("ann", HASH) == 2000


def test_a_commit_too_early_is_told_where_to_go_on(tmp_path: Path) -> None:
    held = packages(tmp_path)
    for sent in (0, 2000):
        with pytest.raises(Conflict) as caught:
            result_of(held.commit("ann", HASH, len(DATA)))
        assert caught.value.details == {"offset": sent}
        result_of(held.put("ann", HASH, sent, DATA[sent : sent + 2000]))


@pytest.mark.parametrize("wrong", [DATA[:-1] + b"x", DATA + b"more"])
def test_what_is_not_what_was_announced_is_thrown_away(tmp_path: Path, wrong: bytes) -> None:
    held = packages(tmp_path)
    result_of(held.put("ann", HASH, 0, wrong))
    with pytest.raises(InvalidArgument) as caught:
        result_of(held.commit("ann", HASH, len(DATA)))
    assert hashlib.sha256(wrong).hexdigest() in caught.value.message
    assert caught.value.details["faults"][0]["key"] == "sha256"
    assert held.uploaded("ann", HASH) == 0
    assert held.check("ann", HASH, len(DATA)) == (False, 0)
    assert held.total_bytes == 0
    assert upload(held, DATA) == HASH


def test_sizes_must_agree(tmp_path: Path) -> None:
    held = packages(tmp_path)
    upload(held, DATA)
    with pytest.raises(InvalidArgument, match="not 5"):
        held.check("ann", HASH, 5)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", HASH.upper(), HASH[:-1], HASH + "0"])
def test_what_is_no_hash_is_refused(tmp_path: Path, sha256: str) -> None:
    held = packages(tmp_path)
    calls = (
        lambda: held.check("ann", sha256, 1),
        lambda: held.uploaded("ann", sha256),
        lambda: result_of(held.put("ann", sha256, 0, b"x")),
        lambda: result_of(held.commit("ann", sha256, 1)),
        lambda: result_of(held.read(sha256, 0, 1)),
    )
    for call in calls:
        with pytest.raises(InvalidArgument, match="64 lower-case"):
            call()


def test_bounds(tmp_path: Path) -> None:
    held = packages(tmp_path)
    with pytest.raises(TooLarge) as caught:
        held.check("ann", HASH, 10_001)
    assert caught.value.details["max_bytes"] == 10_000
    with pytest.raises(TooLarge):
        result_of(held.put("ann", HASH, 0, b"x" * 10_001))
    with pytest.raises(InvalidArgument, match="negative"):
        result_of(held.put("ann", HASH, -5, b"x"))
    for owner in ("a", "b"):
        result_of(held.put(owner, HASH, 0, b"x" * 9_000))
    with pytest.raises(TooMany) as many:
        result_of(held.put("c", HASH, 0, b"x" * 3_000))
    assert many.value.details["unfinished_bytes"] == 18_000
    assert many.value.status == 429
    result_of(held.put("c", HASH, 0, b"x" * 2_000))


def test_the_count_of_uploads_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages_module, "MAX_UPLOADS", 2)
    held = packages(tmp_path)
    for owner in ("a", "b"):
        result_of(held.put(owner, HASH, 0, b"x"))
    with pytest.raises(TooMany):
        result_of(held.put("c", HASH, 0, b"x"))
    result_of(held.put("a", HASH, 1, b"y"))


def test_reads_are_bounded_and_checked(tmp_path: Path) -> None:
    held = packages(tmp_path, max_package_bytes=3 << 20, max_unfinished_bytes=None)
    big = os.urandom(2 << 20)
    sha256 = upload(held, big)
    data, total = result_of(held.read(sha256, 5, 10**9))
    assert (data, total) == (big[5 : 5 + (1 << 20)], 2 << 20)
    for offset in (-1, total + 1):
        with pytest.raises(InvalidArgument):
            result_of(held.read(sha256, offset, 1))
    with pytest.raises(NotFound) as caught:
        result_of(held.read(HASH, 0, 1))
    assert caught.value.hint


def test_pruning_keeps_what_is_used_or_was_asked_for(tmp_path: Path) -> None:
    wall = Time()
    held = packages(tmp_path, wall_clock=wall)
    used, old, asked = (upload(held, name) for name in (b"used", b"old!", b"asked"))
    result_of(held.put("ann", HASH, 0, b"started"))
    result_of(held.put("ben", HASH, 0, b"going on"))
    wall.now += 3000
    assert held.check("ann", asked, 5)[0]
    result_of(held.put("ben", HASH, 8, b"!"))
    assert result_of(held.prune({used}, wall.now, 5000)) == 0
    assert result_of(held.prune({used}, wall.now, 2000)) == len(b"old!") + len(b"started")
    assert [
        held.check("ann", each, size)[0] for each, size in ((used, 4), (old, 4), (asked, 5))
    ] == [
        True,
        False,
        True,
    ]
    assert (held.uploaded("ann", HASH), held.uploaded("ben", HASH)) == (0, 9)


def test_a_crash_during_a_commit_leaves_nothing_half(tmp_path: Path) -> None:
    threads = Threads(held=True)
    held = packages(tmp_path, run_in_thread=threads)
    result_of(held.put("ann", HASH, 0, DATA))
    waiting = ensureDeferred(held.commit("ann", HASH, len(DATA)))
    assert not waiting.called
    held = packages(tmp_path)
    assert held.check("ann", HASH, len(DATA)) == (False, 0)
    assert held.total_bytes == 0
    upload(held, DATA)


def test_a_cancelled_commit_cannot_be_tampered_with(tmp_path: Path) -> None:
    """The thread goes on by itself; what is put meanwhile is another upload."""
    threads = Threads(held=True)
    held = packages(tmp_path, run_in_thread=threads)
    result_of(held.put("ann", HASH, 0, DATA))
    waiting = ensureDeferred(held.commit("ann", HASH, len(DATA)))
    waiting.cancel()
    with pytest.raises(CancelledError):
        result_of(waiting)
    result_of(held.put("ann", HASH, 0, b"evil" * 10))
    second = ensureDeferred(held.commit("ann", HASH, 40))
    threads.release()
    threads.release()
    with pytest.raises(CumulusError):
        result_of(second)
    threads.held = False
    assert result_of(held.read(HASH, 0, 10**6))[0] == DATA


def test_two_commits_of_the_same_package(tmp_path: Path) -> None:
    threads = Threads(held=True)
    held = packages(tmp_path, run_in_thread=threads)
    result_of(held.put("ann", HASH, 0, DATA))
    first, second = (ensureDeferred(held.commit("ann", HASH, len(DATA))) for _ in range(2))
    assert not first.called
    threads.release()
    result_of(first)
    result_of(second)


def test_a_full_disk_takes_nothing(tmp_path: Path) -> None:
    held = packages(tmp_path)
    result_of(held.put("ann", HASH, 0, DATA[:100]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreFailed, match="can't be stored") as caught:
            result_of(held.put("ann", HASH, 100, DATA[100:]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.hint is not None
    assert str(tmp_path) in caught.value.hint
    assert held.uploaded("ann", HASH) == 100
    result_of(held.put("ann", HASH, 100, DATA[100:]))
    result_of(held.commit("ann", HASH, len(DATA)))


@settings(max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=2000), piece=st.integers(1, 700), restart=st.booleans())
def test_any_pieces_make_the_package(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, piece: int, restart: bool
) -> None:
    root = tmp_path_factory.mktemp("packages")
    held, sha256, offset = packages(root), hashlib.sha256(data).hexdigest(), 0
    while offset < len(data):
        if restart:
            held = packages(root)
        offset = result_of(held.put("ann", sha256, offset, data[offset : offset + piece]))
    result_of(held.commit("ann", sha256, len(data)))
    assert result_of(held.read(sha256, 0, 10**6)) == (data, len(data))


def test_a_package_that_is_brought_whole(tmp_path: Path) -> None:
    held = packages(tmp_path)
    for _ in range(2):
        assert result_of(held.bring("ann", HASH, DATA))
    assert held.check("ann", HASH, len(DATA)) == (True, len(DATA))
    assert held.check("ben", HASH, len(DATA)) == (False, 0)
    assert result_of(held.read(HASH, 0, 10**6)) == (DATA, len(DATA))
    assert list((tmp_path / "checking").iterdir()) == [] and held.total_bytes == len(DATA)


def test_one_with_another_hash_or_too_large_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    held = packages(tmp_path)
    with pytest.raises(InvalidArgument, match=HASH) as caught:
        result_of(held.bring("ann", HASH, DATA[1:]))
    assert [fault["key"] for fault in caught.value.details["faults"]] == ["package.sha256"]
    large = bytes(10_001)
    with pytest.raises(TooLarge):
        result_of(held.bring("ann", hashlib.sha256(large).hexdigest(), large))
    assert held.total_bytes == 0 and not held.check("ann", HASH, len(DATA))[0]


def test_what_is_brought_at_a_time_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages_module, "MAX_BROUGHT_BYTES", 2 * len(DATA))
    threads = Threads(held=True)
    held = packages(tmp_path, run_in_thread=threads)
    first, second = (ensureDeferred(held.bring(who, HASH, DATA)) for who in ("ann", "ben"))
    assert result_of(held.bring("eve", HASH, DATA)) is False
    assert not held.check("eve", HASH, len(DATA))[0]
    while threads.waiting:
        threads.release()
    assert result_of(first) and result_of(second)
    threads.held = False
    assert result_of(held.bring("eve", HASH, DATA)) is True


def test_a_disk_that_refuses_a_brought_package_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = packages(tmp_path)

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreFailed, match="Input/output error"):
            result_of(held.bring("ann", HASH, DATA))
    assert held.total_bytes == 0 and not held.check("ann", HASH, len(DATA))[0]
    assert result_of(held.bring("ann", HASH, DATA))


@pytest.mark.parametrize("how", ["brought", "uploaded, and read before"])
def test_a_small_package_of_a_moment_ago_is_read_without_a_thread(tmp_path: Path, how: str) -> None:
    threads = Threads()
    held = packages(tmp_path, run_in_thread=threads)
    if how == "brought":
        assert result_of(held.bring("ann", HASH, DATA))
    else:
        upload(held, DATA)
        assert result_of(held.read(HASH, 1, len(DATA))) == (DATA[1:], len(DATA))
        assert result_of(held.read(HASH, 0, len(DATA))) == (DATA, len(DATA))
    threads.held = True
    assert result_of(held.read(HASH, 0, 10**6)) == (DATA, len(DATA))
    assert result_of(held.read(HASH, 100, 7)) == (DATA[100:107], len(DATA))
    assert threads.waiting == 0


def test_one_that_is_deleted_is_not_read_from_memory(tmp_path: Path) -> None:
    time = Time()
    held = packages(tmp_path, wall_clock=time)
    assert result_of(held.bring("ann", HASH, DATA))
    time.now += 100
    assert result_of(held.prune(set(), time.now, 60.0)) == len(DATA)
    with pytest.raises(NotFound):
        result_of(held.read(HASH, 0, 10))


def test_memory_for_small_packages_is_bounded() -> None:
    held = SmallPackages()
    count = MAX_TOTAL_BYTES // MAX_PACKAGE_BYTES
    for number in range(count):
        held.put(str(number), bytes(MAX_PACKAGE_BYTES))
    assert held.get("0") is not None  # used: now 1 goes first
    held.put("0", bytes(MAX_PACKAGE_BYTES))  # again is no more
    assert held.get("1") is not None and held.get("2") is not None
    held.put("more", b"x")
    assert [name for name in map(str, range(count)) if held.get(name) is None] == ["3"]
    held.put("large", bytes(MAX_PACKAGE_BYTES + 1))
    assert held.get("large") is None
    held.forget("0")
    held.put("4 again", bytes(MAX_PACKAGE_BYTES))
    assert held.get("4") is not None and held.get("more") == b"x"
