"""A damaged job store: refused by name, looked at without a change, salvaged without a deletion."""

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import golden_files
import pytest
from job_values import full_record, record, spec

from cumulusd.cli import main
from cumulusd.jobs import codec, salvage, store_file, versions
from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.store import Store, StoreDamaged, StoreUnusable

NAME = "jobs.sqlite3"


def jobs(count: int) -> list[JobRecord]:
    return [
        record(f"job-{number:04}", created_at=float(number), spec=spec(name="n" * (number % 700)))
        for number in range(count)
    ]


def a_store(folder: Path, records: list[JobRecord]) -> Path:
    path = folder / "state" / NAME
    path.parent.mkdir()
    store_file.write_new(path, golden_files.INSTANCE_ID, records)
    return path


def load(path: Path) -> list[JobRecord]:
    """As the daemon does at its start."""
    store = Store(path, lambda call, *arguments: None)
    try:
        return store.load()
    finally:
        store._close()


def tear(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def burn_a_page_of_the_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(random.Random(1).randbytes(4096))


def burn_the_first_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * 4096)


def spoil_a_record(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE jobs SET record = '{\"version\": 1}' WHERE job_id = 'job-0007'")
    connection.commit()
    connection.close()


def lose_the_tables(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE jobs")
    connection.commit()
    connection.close()


#: Damage, and how many of 400 jobs can be read at least.
DAMAGES = [
    (tear, 100),
    (burn_a_page_of_the_middle, 380),
    (burn_the_first_page, 390),
    (spoil_a_record, 399),
    (lose_the_tables, 0),
]


@pytest.mark.parametrize(("damage", "at_least"), DAMAGES)
def test_a_damaged_store_is_refused_looked_at_and_salvaged(
    tmp_path: Path, damage: Callable[[Path], None], at_least: int
) -> None:
    written = jobs(400)
    path = a_store(tmp_path, written)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreDamaged) as refused:
        load(path)
    assert str(path) in refused.value.message
    assert refused.value.hint is not None
    assert "cumulusd store salvage --config FILE" in refused.value.hint

    report = salvage.examine(path)
    assert not report.sound
    assert path.read_bytes() == before
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")]
    by_id = {each.job_id: each for each in written}
    assert len(report.records) >= at_least
    assert all(by_id[each.job_id] == each for each in report.records)

    done = salvage.salvage(path, "now", report.instance_id or golden_files.INSTANCE_ID)
    assert done.report == report
    assert done.aside[0].name == f"{NAME}.damaged-now"
    assert done.aside[0].read_bytes() == before
    assert load(path) == list(report.records)
    again = salvage.salvage(path, "later")
    assert again.aside == ()
    assert again.report.sound and again.report.instance_id == golden_files.INSTANCE_ID


def test_what_a_burnt_page_held_is_named(tmp_path: Path) -> None:
    path = a_store(tmp_path, jobs(400))
    burn_a_page_of_the_middle(path)
    report = salvage.examine(path)
    kept = {each.job_id for each in report.records}
    assert kept.isdisjoint(report.lost)
    assert kept | set(report.lost) == {f"job-{number:04}" for number in range(400)}


def test_what_is_only_in_the_log_counts(tmp_path: Path) -> None:
    """A daemon that was killed leaves its last changes there."""
    path = a_store(tmp_path, jobs(3))
    writer = StoreOfAnother(path)
    writer.insert(record("late", created_at=9.0))
    try:
        assert [each.job_id for each in salvage.examine(path).records][-1] == "late"
    finally:
        writer.close()


class StoreOfAnother:
    """Keeps the log from being merged."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")

    def insert(self, job: JobRecord) -> None:
        values = (job.job_id, codec.dumps(job))
        self._connection.execute("INSERT INTO jobs VALUES (?, ?)", values)
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


def test_an_empty_file_is_no_new_store(tmp_path: Path) -> None:
    path = a_store(tmp_path, jobs(3))
    os.truncate(path, 0)
    with pytest.raises(StoreDamaged, match="empty"):
        load(path)
    with pytest.raises(StoreUnusable, match="instance id"):
        salvage.salvage(path, "now")
    assert path.stat().st_size == 0, "nothing was moved"
    done = salvage.salvage(path, "now", golden_files.INSTANCE_ID)
    assert done.report.records == ()
    assert load(path) == []


def test_a_newer_daemons_store_is_not_salvaged(tmp_path: Path) -> None:
    path = a_store(tmp_path, jobs(3))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for attempt in (salvage.examine, lambda path: salvage.salvage(path, "now")):
        with pytest.raises(StoreUnusable, match="format 99"):
            attempt(path)


def test_a_newer_daemons_record_is_no_damage(tmp_path: Path) -> None:
    path = a_store(tmp_path, jobs(3))
    connection = sqlite3.connect(path)
    text = f'{{"version": {versions.VERSION + 1}}}'
    connection.execute("INSERT INTO jobs VALUES ('new', ?)", (text,))
    connection.commit()
    connection.close()
    with pytest.raises(StoreUnusable, match="newer version") as refused:
        load(path)
    assert not isinstance(refused.value, StoreDamaged)
    with pytest.raises(StoreUnusable, match="newer version"):
        salvage.salvage(path, "now")


@pytest.mark.parametrize("renames", [1, 2])
def test_a_salvage_that_is_interrupted_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    path = a_store(tmp_path, jobs(5))
    spoil_and_log = StoreOfAnother(path)
    spoil_and_log.insert(attrs.evolve(full_record(), job_id="other"))  # "job-1" in its place
    spoil_and_log._connection.execute("UPDATE jobs SET record = '{}' WHERE job_id = 'other'")
    spoil_and_log._connection.commit()
    (path.with_name(NAME + "-wal.kept")).write_bytes(path.with_name(NAME + "-wal").read_bytes())
    spoil_and_log.close()
    os.rename(path.with_name(NAME + "-wal.kept"), path.with_name(NAME + "-wal"))

    rename, done = os.rename, 0

    def crashing(source: Path, target: Path) -> None:
        nonlocal done
        if done == renames:
            raise KeyboardInterrupt
        rename(source, target)
        done += 1

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crashing)
        with pytest.raises(KeyboardInterrupt):
            salvage.salvage(path, "first")
    with pytest.raises(StoreUnusable, match="interrupted") as refused:
        load(path)
    assert "cumulusd store salvage" in str(refused.value.hint)
    salvage.salvage(path, "second")
    assert load(path) == jobs(5)
    log = f"{NAME}.damaged-{'second' if renames == 1 else 'first'}-wal"
    assert set(os.listdir(path.parent)) == {NAME, f"{NAME}.lock", f"{NAME}.damaged-first", log}


def test_what_an_interrupted_start_left_is_no_part_of_the_new_store(tmp_path: Path) -> None:
    path = tmp_path / NAME
    new = tmp_path / f"{NAME}.new"
    store_file.write_new(new, golden_files.INSTANCE_ID, jobs(3))
    writer = StoreOfAnother(new)
    writer.insert(record("late"))
    log = new.with_name(f"{NAME}.new-wal").read_bytes()
    writer.close()
    new.with_name(f"{NAME}.new-wal").write_bytes(log)
    assert load(path) == []
    assert sorted(os.listdir(tmp_path)) == [NAME, f"{NAME}.lock"]


# The command.


def configured(folder: Path) -> str:
    config = folder / "c.yaml"
    config.write_text("state_dir: state\n")
    return str(config)


def test_the_command_says_what_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = a_store(tmp_path, jobs(30))
    (path.parent / "journals" / "job-of-no-record").mkdir(parents=True)
    config = configured(tmp_path)
    assert main(["store", "check", "--config", config]) == 0
    assert "30 job(s) can be read" in capsys.readouterr().out
    spoil_a_record(path)
    assert main(["store", "check", "--config", config]) == 65
    said = capsys.readouterr().out
    assert "lost: job job-0007" in said
    assert "store salvage" in said
    assert main(["store", "salvage", "--config", config]) == 0
    said = capsys.readouterr().out
    assert "29 job(s)" in said
    assert "lost: job job-0007" in said
    assert "lost: job job-of-no-record" in said
    (kept,) = path.parent.glob("*.damaged-*")
    assert str(kept) in said
    assert main(["store", "check", "--config", config]) == 0
    assert len(load(path)) == 29


def test_the_command_tells_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_store(tmp_path, jobs(3))
    os.truncate(path, 0)
    config = configured(tmp_path)
    assert main(["store", "salvage", "--config", config]) == 69
    assert "--instance-id" in capsys.readouterr().err
    assert main(["store", "salvage", "--config", config, "--instance-id", "new"]) == 0
    with pytest.raises(SystemExit):
        main(["store", "salvage", "--config", config, "--instance-id", "x"])
    assert main(["store", "check", "--config", str(tmp_path / "none.yaml")]) == 78
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    assert main(["store", "check", "--config", config]) == 69
    assert "isn't there" in capsys.readouterr().err


def test_the_command_leaves_a_running_daemons_store_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_store(tmp_path, jobs(3))
    store = Store(path, lambda call, *arguments: None)
    store.load()
    try:
        assert main(["store", "salvage", "--config", configured(tmp_path)]) == 69
    finally:
        store._close()
    assert f"process {os.getpid()}" in capsys.readouterr().err


def start(tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """A daemon that doesn't come up."""
    twistd = Path(sys.executable).with_name("twistd")
    return subprocess.run(
        [str(twistd), "-n", "--pidfile=", "cumulusd", "--config", configured(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_daemon_ends_with_65_and_names_the_way_out(tmp_path: Path) -> None:
    path = a_store(tmp_path, jobs(3))
    path.write_bytes(b"\0" * 8192)
    done = start(tmp_path)
    assert done.returncode == 65, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert str(path) in last and "is damaged" in last
    assert "cumulusd store salvage --config FILE" in last
    assert path.read_bytes() == b"\0" * 8192


@pytest.mark.parametrize("what", ["file", "record"])
def test_the_daemon_ends_with_76_where_a_newer_one_wrote(tmp_path: Path, what: str) -> None:
    """Not with a code that systemd starts it again after, every two seconds."""
    path = a_store(tmp_path, jobs(3))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        if what == "file":
            connection.execute(f"PRAGMA user_version = {store_file.FORMAT + 1}")
        else:
            newer = f'"version":{versions.VERSION + 1}'
            old = f'"version":{versions.VERSION}'
            changed = connection.execute(
                "UPDATE jobs SET record = replace(record, ?, ?) WHERE job_id = 'job-0002'",
                (old, newer),
            )
            assert changed.rowcount == 1
    done = start(tmp_path)
    assert done.returncode == 76, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert str(path) in last and "newer" in last and "restore a backup" in last
