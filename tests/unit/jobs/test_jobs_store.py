"""The job store: durable, exclusive, honest about a disk that refuses."""

import math
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import golden_files
import pytest
import pytest_twisted
from job_values import record, result_of, spec
from twisted.internet import reactor, task
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults

from cumulusd.errors import TooLarge
from cumulusd.jobs import codec, store_file, versions
from cumulusd.jobs import store as store_module
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.store import Store, StoreFailed, StoreUnusable


def call_in_reactor(function: Callable[..., Any], *arguments: Any) -> None:
    reactor.callFromThread(function, *arguments)  # type: ignore[attr-defined]


def opened(path: Path, **options: Any) -> Store:
    store = Store(path, call_in_reactor, **options)
    store.load()
    store.start()
    return store


def loaded(path: Path) -> list[JobRecord]:
    """What a daemon that starts now would find."""
    store = Store(path, call_in_reactor)
    try:
        return store.load()
    finally:
        result_of(store.stop())


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, "did not come true in time"
        await task.deferLater(reactor, 0.01, lambda: None)


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """The kernel refuses writes beyond this size of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest_twisted.ensureDeferred
async def test_what_was_saved_is_loaded_oldest_first(tmp_path: Path) -> None:
    store = opened(tmp_path / "state" / "jobs.sqlite3")
    young, old = record("young", created_at=9.0), record("old", created_at=1.0)
    await store.save(young)
    await store.save(old)
    await store.delete(["never-there"])
    assert store.stats.commits == 3
    assert store.stats.last_commit_s is not None
    assert store.healthy is None
    await store.stop()
    again = Store(tmp_path / "state" / "jobs.sqlite3", call_in_reactor)
    assert again.load() == [old, young]
    assert again.instance_id() == store.instance_id()
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_deleted_records_are_gone(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs.sqlite3")
    for name in ("a", "b", "c"):
        await store.save(record(name))
    await store.delete(["a", "c"])
    await store.stop()
    again = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    assert [each.job_id for each in again.load()] == ["b"]
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_waiting_saves_share_a_transaction_and_the_last_one_counts(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    store.load()
    waiting = [
        ensureDeferred(store.save(record(f"job-{number % 10}", created_at=float(number))))
        for number in range(100)
    ]
    assert store.stats.waiting == 10
    store.start()
    await gatherResults(waiting)
    assert store.stats.commits == 1
    await store.stop()
    again = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    assert [each.created_at for each in again.load()] == [float(n) for n in range(90, 100)]
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_a_save_after_a_delete_wins_and_the_other_way_round(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    store.load()
    waiting = [
        ensureDeferred(store.delete(["kept"])),
        ensureDeferred(store.save(record("kept"))),
        ensureDeferred(store.save(record("dropped"))),
        ensureDeferred(store.delete(["dropped"])),
    ]
    store.start()
    await gatherResults(waiting)
    await store.stop()
    again = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    assert [each.job_id for each in again.load()] == ["kept"]
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_a_cancelled_save_is_saved_all_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    store.load()
    waiting = ensureDeferred(store.save(record("a")))
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    store.start()
    await store.stop()
    again = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    assert [each.job_id for each in again.load()] == ["a"]
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_stop_drains_and_later_saves_are_refused(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs.sqlite3")
    waiting = [ensureDeferred(store.save(record(f"job-{n}"))) for n in range(20)]
    await store.stop()
    assert all(each.called for each in waiting)
    await gatherResults(waiting)
    with pytest.raises(StoreFailed, match="stopped") as caught:
        await store.save(record("late"))
    assert caught.value.job_id == "late"
    await store.stop()
    assert not [each for each in threading.enumerate() if each.name == "cumulus-store"]
    again = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    assert len(again.load()) == 20
    await again.stop()


def test_records_survive_a_kill_right_after_the_save(tmp_path: Path) -> None:
    """The process dies as by kill -9 the moment a save fires; nothing is closed."""
    program = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from twisted.internet import reactor
        from twisted.internet.defer import ensureDeferred
        from job_values import record
        from cumulusd.jobs.store import Store

        async def main():
            store = Store(Path(sys.argv[1]), reactor.callFromThread)
            store.load()
            store.start()
            for number in range(5):
                await store.save(record(f"job-{number}", created_at=float(number)))
            os._exit(7)

        reactor.callWhenRunning(lambda: ensureDeferred(main()))
        reactor.run()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "jobs.sqlite3")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        timeout=60,
        check=False,
    )
    assert done.returncode == 7
    assert [each.job_id for each in loaded(tmp_path / "jobs.sqlite3")] == [
        f"job-{n}" for n in range(5)
    ]


@pytest_twisted.ensureDeferred
async def test_a_full_disk_fails_the_save_and_later_ones_work(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = opened(path, probe_interval_s=0.05)
    await store.save(record("before"))
    big = record("big", spec=spec(environment={"X": "y" * 300_000}))
    with full_disk(100_000):
        waiting = [ensureDeferred(store.save(each)) for each in (big, record("with-it"))]
        for job_id, each in zip(("big", "with-it"), waiting, strict=True):
            with pytest.raises(StoreFailed) as caught:
                await each
            assert caught.value.job_id == job_id
            assert caught.value.status == 503
            assert caught.value.hint is not None
            assert str(path) in caught.value.hint
        assert store.healthy is not None
        assert store.stats.failures >= 1
    await until(lambda: store.healthy is None)  # found out by itself, no save needed
    await store.save(big)
    await store.stop()
    again = Store(path, call_in_reactor)
    assert {each.job_id for each in again.load()} == {"before", "big"}
    await again.stop()


@pytest_twisted.ensureDeferred
async def test_a_record_over_the_bound_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_RECORD_BYTES", 10_000)
    store = opened(tmp_path / "jobs.sqlite3")
    with pytest.raises(TooLarge, match="job big is"):
        await store.save(record("big", spec=spec(environment={"X": "y" * 20_000})))
    await store.save(record("small"))
    await store.stop()


@pytest_twisted.ensureDeferred
async def test_too_many_waiting_saves_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_WAITERS", 2)
    store = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    store.load()
    waiting = [ensureDeferred(store.save(record(f"job-{n}"))) for n in range(2)]
    with pytest.raises(StoreFailed, match="doesn't keep up"):
        await store.save(record("one-more"))
    store.start()
    await gatherResults(waiting)
    await store.save(record("one-more"))
    await store.stop()


@pytest_twisted.ensureDeferred
async def test_an_idle_store_finds_out_by_itself_that_the_disk_refuses(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs.sqlite3", idle_probe_s=0.02, probe_interval_s=0.02)
    await until(lambda: store.stats.commits > 2)
    assert store.fault is None
    with full_disk(0):
        await until(lambda: store.fault is not None)
    await until(lambda: store.fault is None)
    await store.stop()


@pytest_twisted.ensureDeferred
async def test_a_commit_that_hangs_is_told_while_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, took = threading.Event(), list[float]()
    real = store_module.transaction

    @contextmanager
    def hanging(connection: Any) -> Iterator[None]:
        go_on.wait(30)
        with real(connection):
            yield

    monkeypatch.setattr(store_module, "transaction", hanging)
    monkeypatch.setattr(store_module, "HANGS_S", 0.05)
    store = opened(tmp_path / "jobs.sqlite3", committed=took.append)
    saving = ensureDeferred(store.save(record("a")))
    await until(lambda: store.fault is not None)
    assert "the disk hangs" in str(store.fault)
    assert store.healthy is None, "no write has failed"
    go_on.set()
    await saving
    assert store.fault is None and len(took) == 1 and took[0] > 0.05
    await store.stop()


@pytest_twisted.ensureDeferred
async def test_how_long_the_writer_is_at_it_is_known_also_when_it_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which the watchdog is fed, or not."""
    go_on = threading.Event()
    store = opened(tmp_path / "jobs.sqlite3")
    assert store.stuck_s == 0.0

    def dying(changes: Any) -> Any:
        go_on.wait(30)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(store, "_commit", dying)
    saving = ensureDeferred(store.save(record("a")))
    await until(lambda: store.stuck_s > 0.05)
    assert store.stuck_s < 30
    go_on.set()
    with pytest.raises(StoreFailed, match="the writer died"):
        await saving
    await until(lambda: store.stuck_s == math.inf)
    await store.stop()


@pytest_twisted.ensureDeferred
async def test_stop_is_bounded_when_the_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    store = Store(tmp_path / "jobs.sqlite3", call_in_reactor, stop_timeout_s=0.2)
    store.load()
    commit = store._commit

    def hanging(changes: Any) -> Any:
        go_on.wait(30)
        return commit(changes)

    monkeypatch.setattr(store, "_commit", hanging)
    store.start()
    first = ensureDeferred(store.save(record("a")))
    await until(lambda: store.stats.waiting == 0)  # the writer has it
    second = ensureDeferred(store.save(record("b")))
    began = time.monotonic()
    await store.stop()
    assert time.monotonic() - began < 5
    with pytest.raises(StoreFailed, match="did not answer"):
        await second
    go_on.set()
    await first
    await until(lambda: "cumulus-store" not in {each.name for each in threading.enumerate()})


@pytest_twisted.ensureDeferred
async def test_a_writer_that_dies_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    store.load()

    def broken(changes: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(store, "_commit", broken)
    store.start()
    with pytest.raises(StoreFailed, match="a bug"):
        await store.save(record("a"))
    assert store.healthy is not None
    with pytest.raises(StoreFailed):
        await store.save(record("b"))
    await store.stop()


@pytest_twisted.ensureDeferred
async def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path / "jobs.sqlite3")
    second = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    with pytest.raises(StoreUnusable, match=f"another cumulusd .process {os.getpid()}") as caught:
        second.load()
    assert caught.value.hint is not None
    assert "Stop that daemon" in caught.value.hint
    await store.save(record("a"))
    await store.stop()
    assert len(second.load()) == 1
    await second.stop()


@pytest.mark.parametrize("format_number", range(1, store_file.FORMAT + 1))
def test_a_store_of_every_format_is_loaded(tmp_path: Path, format_number: int) -> None:
    """When the file is missing, run tests/unit/jobs/golden_files.py."""
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(golden_files.store_path(format_number).read_bytes())
    store = Store(path, call_in_reactor)
    (found,) = store.load()
    assert store.instance_id() == golden_files.INSTANCE_ID
    result_of(store.stop())
    assert isinstance(found, EndedJob)
    version = 1 if format_number == 1 else versions.VERSION
    assert found.record() == codec.loads(golden_files.record_path(version).read_text())
    assert loaded(path) == [found], "also as it was upgraded"


def unusable(path: Path) -> StoreUnusable:
    with pytest.raises(StoreUnusable) as caught:
        Store(path, call_in_reactor).load()
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    assert loaded(path) == []
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "format 99" in unusable(path).message


def test_another_programs_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    before = path.read_bytes()
    assert "another program" in unusable(path).message
    assert path.read_bytes() == before
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == [("other",)]


def test_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(b"no database at all" * 1000)
    assert "can't be opened" in unusable(path).message


@pytest_twisted.ensureDeferred
async def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = opened(path)
    for number in range(200):
        await store.save(record(f"job-{number}"))
    await store.stop()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(data)
    assert unusable(path)


def test_an_unreadable_record_is_refused_by_job(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    assert loaded(path) == []
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO jobs VALUES ('job-x', '{\"version\": 9}')")
    connection.close()
    message = unusable(path).message
    assert "job-x" in message
    assert "version 9" in message
    assert "newer version of cumulusd" in message


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.mkdir()
    assert unusable(path)


@pytest_twisted.ensureDeferred
async def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = opened(path)
    await store.save(record("a"))
    files = list(tmp_path.iterdir())
    assert {each.name for each in files} >= {"jobs.sqlite3", "jobs.sqlite3-wal"}
    for each in files:
        assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0, each
    await store.stop()


def test_misuse_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    with pytest.raises(RuntimeError):
        store.start()
    with pytest.raises(RuntimeError):
        store.instance_id()
    store.load()
    with pytest.raises(RuntimeError):
        store.load()
    result_of(store.stop())


@pytest_twisted.ensureDeferred
async def test_saves_of_a_job_that_ends_are_in_order(tmp_path: Path) -> None:
    """Whatever the batches, the last record wins."""
    store = opened(tmp_path / "jobs.sqlite3")
    waiting: list[Deferred[None]] = []
    for number in range(300):
        waiting.append(ensureDeferred(store.save(record("a", attempt=number))))
        if number % 7 == 0:
            await task.deferLater(reactor, 0, lambda: None)
    waiting.append(ensureDeferred(store.save(record("a", attempt=999, phase=Phase.ENDED))))
    await gatherResults(waiting)
    await store.stop()
    again = Store(tmp_path / "jobs.sqlite3", call_in_reactor)
    assert [each.attempt for each in again.load()] == [999]
    await again.stop()
