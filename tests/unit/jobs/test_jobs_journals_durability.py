"""The daemon's copies of journals: durable offsets, crashes, disks that refuse."""

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_values import result_of
from journal_world import EXIT, Daemon, failing, files, line, read_all
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.logger import globalLogPublisher

from cumulus_wire.folder import segment_name
from cumulus_wire.journal import Kind, encode_json
from cumulusd.errors import Conflict
from cumulusd.jobs.journals import JournalDamaged, JournalHole
from cumulusd.jobs.store import StoreFailed

# Durability.


def test_a_sync_follows_within_the_interval(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    assert (journal.durable_offset, daemon.threads.ran) == (0, 0)
    daemon.clock.advance(0.9)
    assert daemon.threads.ran == 0
    daemon.clock.advance(0.2)
    assert journal.durable_offset == journal.end_offset
    assert daemon.durable == [("j", journal.end_offset)]
    daemon.clock.advance(10)
    assert daemon.threads.ran == 1  # nothing new, nothing done
    assert not daemon.clock.getDelayedCalls()


def test_names_are_made_durable_once_and_with_each_new_segment(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append("root" if path == daemon.root else path.name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    daemon.clock.advance(1)
    assert synced == [segment_name(0), "j", "root"]
    synced.clear()
    journal.append(journal.end_offset, EXIT)
    daemon.clock.advance(1)
    assert synced == [segment_name(0)]
    journal.append(journal.end_offset, line("", 1000))
    daemon.clock.advance(1)
    begin = journal.end_offset
    synced.clear()
    journal.append(begin, line("two"))
    daemon.clock.advance(1)
    assert synced == [segment_name(begin), "j", "root"]
    daemon.crash()  # what it left may have no name on disk yet
    synced.clear()
    result_of(ensureDeferred(daemon.journals.open("j").sync()))
    assert synced[-2:] == ["j", "root"]


def test_a_partial_frame_is_not_called_durable(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("one") + line("two")[:-1])
    daemon.clock.advance(1)
    assert daemon.durable == [("j", len(line("one")))]
    assert not daemon.clock.getDelayedCalls()
    journal.append(journal.received_offset, line("two")[-1:])
    daemon.clock.advance(1)
    assert daemon.durable[-1] == ("j", 2 * len(line("one")))


def test_bytes_appended_during_a_sync_are_synced_next(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    daemon.threads.held = True
    journal.append(0, line("one"))
    first = ensureDeferred(journal.sync())
    journal.append(journal.end_offset, line("two"))
    second, third = ensureDeferred(journal.sync()), ensureDeferred(journal.sync())
    assert daemon.threads.waiting == 1
    daemon.threads.release()
    assert result_of(first) == len(line("one"))
    assert journal.durable_offset == len(line("one"))
    assert not second.called
    daemon.threads.release()
    assert result_of(second) == result_of(third) == journal.end_offset
    assert daemon.threads.waiting == 0  # the two shared one fsync


def test_a_cancelled_sync_is_done_again(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    daemon.threads.held = True
    journal.append(0, line("one"))
    waiting = ensureDeferred(journal.sync())
    waiting.cancel()
    with pytest.raises(CancelledError):
        result_of(waiting)
    daemon.threads.held = False
    assert journal.durable_offset == 0
    daemon.clock.advance(1)
    assert journal.durable_offset == journal.end_offset


def test_a_new_segment_waits_until_the_older_ones_are_on_disk(daemon: Daemon) -> None:
    """What recovery rests on: only the last two segments can ever be torn."""
    journal = daemon.journals.open("j")
    daemon.threads.held = True
    frame = line("x", 180)
    for _ in range(30):
        journal.append(journal.end_offset, frame)
    assert len(files(daemon)) == 2
    assert daemon.threads.waiting == 1  # and it doesn't wait for the interval
    daemon.threads.held = False
    daemon.threads.release()
    journal.append(journal.end_offset, frame)
    journal.append(journal.end_offset, frame)
    assert len(files(daemon)) == 3


def test_a_failed_fsync_claims_nothing_takes_nothing_and_mends_by_itself(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    first, part = line("one"), line("two")[:-3]
    journal.append(0, first + part)
    with failing("fsync"):
        daemon.clock.advance(1)
        with pytest.raises(StoreFailed, match="Input/output error") as caught:
            result_of(journal.sync())
        assert caught.value.job_id == "j"
        with pytest.raises(StoreFailed, match="Input/output error"):
            journal.append(journal.received_offset, line("two")[-3:])
        assert daemon.journals.trouble == os.strerror(errno.EIO)
        daemon.clock.pump([1.0] * 20)
        assert daemon.durable == []
    inode = next((daemon.root / "j").iterdir()).stat().st_ino
    daemon.clock.pump([1.0] * 11)
    assert daemon.journals.trouble is None
    assert daemon.durable == [("j", len(first))]
    assert next((daemon.root / "j").iterdir()).stat().st_ino != inode, "written anew"
    assert journal.received_offset == len(first), "what had no checksum yet comes again"
    assert files(daemon) == {segment_name(0): len(first)}
    journal.append(len(first), line("two") + EXIT)
    daemon.clock.advance(1)
    assert journal.durable_offset == journal.end_offset
    assert read_all(journal) == (first + line("two") + EXIT, [])
    assert not daemon.clock.getDelayedCalls()


def test_what_the_kernel_lost_after_a_failed_fsync_is_cut_off(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    frame = line("x", 180)
    for _ in range(9):  # two segments, the first one durable
        journal.append(journal.end_offset, frame)
        daemon.clock.advance(1)
    durable = journal.durable_offset
    for _ in range(3):
        journal.append(journal.end_offset, frame)
    with failing("fsync"):
        daemon.clock.advance(1)
    name = max(files(daemon))
    with (daemon.root / "j" / name).open("r+b") as file:
        file.seek(durable + len(frame) + 50 - int(name[:20]))
        file.write(b"\0\0\0\0")
    with pytest.raises(StoreFailed):
        journal.read(durable + len(frame), 1000)
    daemon.clock.pump([1.0] * 11)
    assert journal.end_offset == journal.durable_offset == durable + len(frame)
    with pytest.raises(JournalHole):
        journal.append(durable + 3 * len(frame), EXIT)
    journal.append(durable, 3 * frame + EXIT)
    assert journal.finished
    data, gaps = read_all(journal)
    assert (data, gaps) == (12 * frame + EXIT, [])


def test_a_mending_that_is_given_up_goes_on_alone(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    with failing("fsync"):
        daemon.clock.advance(1)
    daemon.threads.held = True
    first = ensureDeferred(journal.sync())
    first.cancel()
    with pytest.raises(CancelledError):
        result_of(first)
    second = ensureDeferred(journal.sync())
    assert daemon.threads.waiting == 1, "never two at a time"
    daemon.threads.held = False
    daemon.threads.release()
    assert result_of(second) == len(line("one"))


def test_a_mending_that_is_given_up_and_fails_is_tried_again(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    with failing("fsync"):
        daemon.clock.advance(1)
        daemon.threads.held = True
        first = ensureDeferred(journal.sync())
        first.cancel()
        with pytest.raises(CancelledError):
            result_of(first)
        daemon.threads.release()
        second = ensureDeferred(journal.sync())
        daemon.threads.release()
        with pytest.raises(StoreFailed):
            result_of(second)
    daemon.threads.held = False
    assert journal.durable_offset == 0
    assert result_of(journal.sync()) == len(line("one"))


def test_a_full_disk_takes_nothing_says_so_once_and_goes_on_by_itself(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    told = []

    def watch(event: Any) -> None:
        if event["log_level"].name == "error":
            told.append(event)

    globalLogPublisher.addObserver(watch)
    try:
        with failing("pwrite", errno.ENOSPC), failing("fsync", errno.ENOSPC):
            for _ in range(50):
                with pytest.raises(StoreFailed, match="No space left") as caught:
                    journal.append(len(line("one")), line("two"))
                assert caught.value.job_id == "j"
                daemon.clock.advance(0.5)
            with pytest.raises(StoreFailed):
                daemon.journals.open("k").append(0, line("x"))
            assert daemon.journals.trouble == os.strerror(errno.ENOSPC)
        assert len(told) <= 2, "the write and the sync, once each"
    finally:
        globalLogPublisher.removeObserver(watch)
    daemon.clock.pump([1.0] * 11)
    assert daemon.journals.trouble is None, "found out without a write"
    journal.append(len(line("one")), line("two"))
    assert read_all(journal)[0] == line("one") + line("two")
    assert not [name for name in os.listdir(daemon.root) if name.startswith(".")]


def test_what_is_found_at_start_is_synced_before_it_is_called_durable(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    daemon.crash()
    journal = daemon.journals.open("j")
    assert (journal.end_offset, journal.durable_offset) == (len(line("one")), 0)
    daemon.clock.advance(1)
    assert journal.durable_offset == journal.end_offset


def test_stop_syncs_and_closes(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "journals")
    journal = daemon.journals.open("j")
    journal.append(0, line("one"))
    waiting = ensureDeferred(journal.wait_beyond(10**6))
    daemon.end()
    assert daemon.durable == [("j", journal.end_offset)]
    assert waiting.called
    assert not daemon.clock.getDelayedCalls()
    with pytest.raises(Conflict, match="stopping"):
        daemon.journals.open("k")
    with pytest.raises(Conflict, match="closed"):
        journal.append(journal.end_offset, line("two"))
    with pytest.raises(Conflict, match="closed"):
        journal.read(0, 10)
    daemon.end()


# Crashes.


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 900), min_size=1, max_size=25),
    cut=st.floats(0, 1),
    piece=st.integers(1, 700),
)
def test_a_torn_tail_is_cut_and_sent_again(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cut: float, piece: int
) -> None:
    daemon = Daemon(tmp_path_factory.mktemp("torn"), cap_bytes=10**6, segment_bytes=1000)
    stream = b"".join(line(str(number), size) for number, size in enumerate(sizes))
    journal = daemon.journals.open("j")
    sent = int(len(stream) * cut)
    for at in range(0, sent, piece):
        journal.append(at, stream[at : min(at + piece, sent)])
    whole = journal.end_offset
    daemon.crash()
    journal = daemon.journals.open("j")
    assert journal.end_offset == journal.received_offset == whole
    for at in range(whole, len(stream), piece):
        journal.append(at, stream[at : at + piece])
    assert read_all(journal) == (stream, [])
    assert sum(files(daemon).values()) == len(stream)
    daemon.end()


@settings(max_examples=60, deadline=None)
@given(lost=st.integers(0, 2500), zeros=st.booleans(), last_lost=st.integers(0, 2500))
def test_what_a_power_cut_left_of_the_last_two_segments(
    tmp_path_factory: pytest.TempPathFactory, lost: int, zeros: bool, last_lost: int
) -> None:
    """Unsynced bytes may be missing or zero in either file, in any combination."""
    daemon = Daemon(tmp_path_factory.mktemp("power"), cap_bytes=10**6, segment_bytes=1000)
    stream = b"".join(line(str(number), 70 + number) for number in range(40))
    journal = daemon.journals.open("j")
    for at in range(0, len(stream), 333):
        journal.append(at, stream[at : at + 333])
    names = list(files(daemon))
    assert len(names) > 3
    for name, missing in ((names[-2], lost), (names[-1], last_lost)):
        path = daemon.root / "j" / name
        size = path.stat().st_size
        os.truncate(path, max(0, size - missing))
        if zeros:
            os.truncate(path, size)
    synced = int(names[-2][:20])
    daemon.crash()
    journal = daemon.journals.open("j")
    assert synced <= journal.end_offset == journal.received_offset <= len(stream)
    journal.append(journal.end_offset, stream[journal.end_offset :])
    assert read_all(journal) == (stream, [])
    daemon.end()


def test_a_crash_between_the_two_steps_of_a_new_segment(daemon: Daemon) -> None:
    """The partial frame stands in both files."""
    journal = daemon.journals.open("j")
    frames = line("a", 600) + line("b", 600)
    partial = line("c", 500)[:200]
    journal.append(0, frames)
    daemon.crash()
    (daemon.root / "j" / segment_name(0)).write_bytes(frames + partial)
    (daemon.root / "j" / segment_name(len(frames))).write_bytes(partial)
    journal = daemon.journals.open("j")
    assert journal.end_offset == len(frames)
    journal.append(len(frames), line("c", 500))
    assert read_all(journal) == (frames + line("c", 500), [])


def test_finished_is_known_after_a_restart(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("x", 2000) + EXIT)
    assert journal.finished
    daemon.crash()
    assert daemon.journals.open("j").finished
    journal = daemon.journals.open("j")
    journal.append(journal.end_offset, encode_json(Kind.STATUS, {"phase": "setup"}, 1))
    assert not journal.finished


def test_a_sealed_attempt_is_cut_to_whole_records_and_durable(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    whole = line("a", 300) + EXIT
    journal.append(0, whole + line("torn", 300)[:-1])
    assert result_of(journal.seal(1)) == len(whole) == journal.durable_offset
    assert journal.sealed_attempt == 1
    assert files(daemon) == {segment_name(0): len(whole)}
    assert not journal.finished_since(len(whole)), "that EXIT is the attempt before's"
    journal.append(len(whole), line("b", 300))
    daemon.crash()
    journal = daemon.journals.open("j")
    assert read_all(journal) == (whole + line("b", 300), [])
    journal.append(journal.end_offset, EXIT)
    assert journal.finished_since(len(whole))


def test_sealing_ends_what_damage_began(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    with pytest.raises(JournalDamaged):
        journal.append(0, line("a", 300) + b"\0" * 40)
    assert result_of(journal.seal(1)) == len(line("a", 300))
    assert [entry.payload[:1] for entry in journal.append(300 + 20, line("b", 9))] == [b"b"]


def test_an_attempt_that_said_nothing_is_sealed_too(daemon: Daemon) -> None:
    assert result_of(daemon.journals.open("j").seal(1)) == 0


def test_damage_in_a_file_ends_the_journal_before_it(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("a", 100) + line("b", 100) + line("c", 100))
    path = daemon.root / "j" / segment_name(0)
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    daemon.crash()
    path.write_bytes(data)
    journal = daemon.journals.open("j")
    assert journal.end_offset == 120
    assert not journal.finished


# A disk that refuses.


def test_a_full_disk_takes_nothing_and_harms_nothing(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("one") + line("two")[:5])
    before = journal.received_offset
    more = line("two")[5:] + line("three", 700)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(StoreFailed, match="can't be written") as caught:
            journal.append(before, more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.job_id == "j"
    assert journal.received_offset == before == files(daemon)[segment_name(0)]
    assert read_all(journal)[0] == line("one")
    assert [each.payload[:5] for each in journal.append(before, more)] == [b"two", b"three"]
    assert read_all(journal)[0] == line("one") + line("two") + line("three", 700)


def test_a_segment_that_cannot_be_begun_goes_on_as_one(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = daemon.journals.open("j")
    stream = line("a", 1200) + line("b", 300)
    opened = os.open

    def refusing(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and not os.path.exists(path):
            raise OSError(28, "No space left on device")
        return opened(path, flags, *rest, **more)

    journal.append(0, stream[:100])
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        journal.append(100, stream[100:1300])
        assert len(files(daemon)) == 1
    journal.append(1300, stream[1300:1400])
    journal.append(1400, stream[1400:])
    assert len(files(daemon)) == 2
    assert read_all(journal) == (stream, [])
