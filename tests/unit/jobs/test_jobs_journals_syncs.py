"""What fsyncing the daemon's copies of journals costs: files and folders, and several at a time."""

import os
import stat
from pathlib import Path

import pytest
from job_values import result_of
from journal_world import Daemon, failing, line
from twisted.internet.defer import ensureDeferred

from cumulusd.jobs.store import StoreFailed


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kind of everything that is fsynced."""
    kinds: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        kinds.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return kinds


def taken(kinds: list[str]) -> list[str]:
    found = sorted(kinds)
    kinds.clear()
    return found


NEW = ["file", "folder", "folder"]


def test_folders_are_fsynced_with_new_files_only(tmp_path: Path, synced: list[str]) -> None:
    daemon = Daemon(tmp_path)
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    daemon.clock.advance(1)
    assert taken(synced) == NEW
    journal.append(journal.end_offset, line("two"))
    daemon.clock.advance(1)
    assert taken(synced) == ["file"]
    while len(journal._files._segments) == 1:
        journal.append(journal.end_offset, line("x", 300))
    daemon.clock.advance(1)
    taken(synced)
    journal.append(journal.end_offset, line("in the new one"))
    daemon.clock.advance(1)
    assert taken(synced) == NEW
    daemon.crash()  # what was found may not be on disk
    result_of(daemon.journals.open("j").sync())
    assert "folder" in taken(synced)
    daemon.end()


def test_a_failed_sync_s_folders_are_fsynced_later(tmp_path: Path, synced: list[str]) -> None:
    daemon = Daemon(tmp_path)
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    with failing("fsync"), pytest.raises(StoreFailed):
        result_of(ensureDeferred(journal.sync()))
    taken(synced)
    daemon.clock.advance(10)
    assert "folder" in taken(synced)
    assert journal.durable_offset == journal.end_offset
    daemon.end()


def test_journals_are_fsynced_some_at_a_time(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    for number in range(10):
        daemon.journals.open(f"j{number}").append(0, line("one"))
    daemon.threads.held = True
    daemon.clock.advance(1)
    most = 0
    while daemon.threads.waiting:
        most = max(most, daemon.threads.waiting)
        daemon.threads.release()
    daemon.threads.held = False
    assert most == 4
    assert sorted(daemon.durable) == [(f"j{number}", len(line("one"))) for number in range(10)]
    daemon.end()
