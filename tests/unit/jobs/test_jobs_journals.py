"""The daemon's copies of journals: whole frames, durable offsets, gaps, crashes, full disks."""

import errno
import os
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_values import Threads, result_of
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from cumulus_wire.folder import segment_name
from cumulus_wire.journal import HEADER, JournalCorrupt, Kind, encode, encode_json
from cumulusd.errors import Conflict, InvalidArgument
from cumulusd.jobs import journals as journals_module
from cumulusd.jobs.journals import Journal, JournalDamaged, JournalHole, Journals
from cumulusd.jobs.segments import Segment, droppable
from cumulusd.jobs.store import StoreFailed

EXIT = encode_json(Kind.EXIT, {"outcome": "completed"}, 5)


def line(text: str, size: int = 0) -> bytes:
    return encode(Kind.STDOUT, text.encode().ljust(size, b"."), 1)


class Daemon:
    """Journals on a clock of their own, made again after a crash."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.options = {"cap_bytes": 8000, "segment_bytes": 1000} | options
        self.clock: Any = Clock()
        self.threads = Threads()
        self.durable: list[tuple[str, int]] = []
        self.journals = self.make()

    def make(self) -> Journals:
        return Journals(
            self.root,
            clock=self.clock,
            run_in_thread=self.threads,
            on_durable=lambda job_id, offset: self.durable.append((job_id, offset)),
            **self.options,
        )

    def crash(self) -> None:
        """As kill -9: nothing is synced, the descriptors go."""
        for journal in list(self.journals._journals.values()):
            journal.close()
        self.clock, self.threads = Clock(), Threads()
        self.journals = self.make()

    def end(self) -> None:
        result_of(self.journals.stop())


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    made = Daemon(tmp_path / "journals")
    yield made
    made.threads.held = False
    while made.threads.waiting:
        made.threads.release()
    made.end()


def read_all(
    journal: Journal, max_bytes: int = 300, offset: int = 0
) -> tuple[bytes, list[tuple[int, int]]]:
    """(all frames, the gaps)."""
    data, gaps = b"", []
    while offset < journal.end_offset:
        chunk = journal.read(offset, max_bytes)
        assert chunk.offset == offset
        assert chunk.next_offset > offset
        if chunk.kind == "gap":
            gaps.append((chunk.offset, chunk.next_offset))
            assert [each.kind for each in chunk.records()] == [Kind.GAP]
        else:
            data += chunk.data
            assert chunk.next_offset == offset + len(chunk.data)
            assert chunk.records()[-1].next_offset == chunk.next_offset
        offset = chunk.next_offset
    return data, gaps


def files(daemon: Daemon, job_id: str = "j") -> dict[str, int]:
    return {each.name: each.stat().st_size for each in sorted((daemon.root / job_id).iterdir())}


def test_records_are_returned_as_they_become_whole(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    stream = line("one") + line("two") + EXIT
    seen = []
    for index in range(len(stream)):
        seen += journal.append(index, stream[index : index + 1])
        assert journal.received_offset == index + 1
    assert [each.payload for each in seen[:2]] == [b"one", b"two"]
    assert [each.offset for each in seen] == [0, len(line("one")), 2 * len(line("one"))]
    assert journal.end_offset == len(stream)
    assert journal.finished
    assert read_all(journal) == (stream, [])
    assert daemon.journals.open("j") is journal


def test_doubles_are_skipped_and_holes_refused(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    stream = line("one") + line("two") + line("three")
    journal.append(0, stream[:30])
    assert journal.append(0, stream[:20]) == []
    assert [each.payload for each in journal.append(10, stream[10:])] == [b"two", b"three"]
    assert journal.append(0, stream) == []
    with pytest.raises(JournalHole) as caught:
        journal.append(len(stream) + 1, b"x")
    assert caught.value.job_id == "j"
    assert caught.value.details["received_offset"] == len(stream)
    assert read_all(journal)[0] == stream


def test_damage_keeps_what_was_whole(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    good = line("one") + line("two")
    journal.append(0, good[:10])
    with pytest.raises(JournalDamaged) as caught:
        journal.append(10, good[10:] + b"\0" * 50)
    assert isinstance(caught.value, JournalCorrupt)
    assert caught.value.offset == len(good)
    assert [each.payload for each in caught.value.records] == [b"one", b"two"]
    assert journal.end_offset == journal.received_offset == len(good)
    assert read_all(journal)[0] == good
    with pytest.raises(JournalCorrupt):
        journal.append(len(good), line("three"))
    assert files(daemon) == {segment_name(0): len(good)}
    assert daemon.journals.total_bytes == len(good)


def test_a_flipped_bit_is_damage(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    bad = bytearray(line("two"))
    bad[-1] ^= 1
    with pytest.raises(JournalDamaged, match="checksum"):
        journal.append(0, line("one") + bytes(bad))
    assert journal.end_offset == len(line("one"))


def test_segments_begin_at_frame_boundaries(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    stream = b"".join(line(str(number), 300) for number in range(20))
    for at in range(0, len(stream), 170):
        journal.append(at, stream[at : at + 170])
    frame = len(line("", 300))
    starts = [int(name[:20]) for name in files(daemon)]
    assert len(starts) > 3
    assert all(start % frame == 0 for start in starts)
    assert sum(files(daemon).values()) == len(stream) == daemon.journals.total_bytes
    for max_bytes in (1, 100, 500, 5000):
        assert read_all(journal, max_bytes) == (stream, [])


def test_an_append_may_be_larger_than_a_segment(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    stream = b"".join(line(str(number), 100) for number in range(40)) + line("tail")[:7]
    journal.append(0, stream)
    journal.append(len(stream), line("tail")[7:])
    assert read_all(journal)[0] == stream[:-7] + line("tail")
    assert len(files(daemon)) == 2


# Reading.


def test_reads_give_whole_frames_within_the_bound(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    frame = line("x", 80)
    journal.append(0, frame * 5 + frame[:50])
    chunk = journal.read(0, 250)
    assert (chunk.kind, chunk.next_offset, chunk.data) == ("frames", 200, frame * 2)
    assert journal.read(200, 10).data == frame  # one frame, though larger
    at_end = journal.read(500, 100)
    assert (at_end.data, at_end.next_offset, at_end.records()) == (b"", 500, [])


@pytest.mark.parametrize("offset", [1, 50, 119, -1, 501, 10**9])
def test_offsets_that_no_server_gave_are_refused(daemon: Daemon, offset: int) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("x", 80) * 5)
    with pytest.raises(InvalidArgument) as caught:
        journal.read(offset, 100)
    assert caught.value.job_id == "j"
    assert caught.value.details["end_offset"] == 500
    assert caught.value.details["faults"][0]["key"] == "from_offset"


def test_a_payload_that_looks_like_a_frame_is_no_boundary(daemon: Daemon) -> None:
    """Only the checksum tells: the payload holds a header that is as good as any."""
    journal = daemon.journals.open("j")
    forged = HEADER.pack(0xC5, Kind.STDOUT, 0, 5, 1, 12345) + b"abcde"
    journal.append(0, encode(Kind.STDOUT, forged + b"rest", 1))
    with pytest.raises(InvalidArgument, match="inside a record"):
        journal.read(HEADER.size, 100)


def test_a_reader_of_a_long_journal_needs_constant_memory(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "journals", cap_bytes=256 << 20, segment_bytes=4 << 20)
    journal = daemon.journals.open("j")
    block = line("x", 60_000) * 16
    for _ in range(40):
        journal.append(journal.end_offset, block)
    offset = 0
    tracemalloc.start()
    try:
        while offset < journal.end_offset:
            offset = journal.read(offset, 256 << 10).next_offset
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert journal.end_offset > 30 << 20
    assert peak < 2 << 20
    daemon.end()


def test_a_file_that_vanished_is_told(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("x"))
    (daemon.root / "j" / segment_name(0)).unlink()
    with pytest.raises(StoreFailed, match="can't be read"):
        journal.read(0, 100)


# The cap.


def test_the_cap_keeps_head_and_tail(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    frames = [line(str(number), 180) for number in range(200)]
    for frame in frames:
        journal.append(journal.end_offset, frame)
        assert journal.size_bytes <= 8000
    data, gaps = read_all(journal)
    assert len(gaps) == 1
    gap = gaps[0]
    stream = b"".join(frames)
    assert data == stream[: gap[0]] + stream[gap[1] :]
    assert 1000 <= gap[0] <= 8000 // 4
    assert len(stream) - gap[1] >= 8000 // 2
    assert journal.start_offset == 0
    # Inside the gap a reader is told where it goes on, at any offset.
    middle = (gap[0] + gap[1]) // 2
    assert journal.read(middle, 100).kind == "gap"
    assert journal.read(middle, 100).next_offset == gap[1]
    assert daemon.journals.total_bytes == sum(files(daemon).values()) == journal.size_bytes


def test_a_gap_survives_restarts_and_grows(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    for number in range(100):
        journal.append(journal.end_offset, line(str(number), 180))
    before = read_all(journal)
    daemon.crash()
    journal = daemon.journals.open("j")
    assert read_all(journal) == before
    head = before[1][0][0]
    for number in range(100, 150):
        journal.append(journal.end_offset, line(str(number), 180))
    ((start, end),) = read_all(journal)[1]
    assert start == head
    assert end > before[1][0][1]
    assert journal.size_bytes <= 8000


def test_the_last_two_segments_are_never_dropped() -> None:
    """Even when they alone are over the cap: recovery must tell a tear from a gap."""
    held = [Segment(0, 900), Segment(900, 1800), Segment(1800, 2700), Segment(2700, 9999)]
    assert droppable(held, 4000) == [held[1]]
    assert droppable([held[0], *held[2:]], 4000) == []
    assert droppable(held, 10_000) == []


def test_a_cap_too_small_for_its_segments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="four times"):
        Daemon(tmp_path / "journals", cap_bytes=3999, segment_bytes=1000)


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


@contextmanager
def failing(name: str, code: int = errno.EIO) -> Iterator[None]:
    """That function of `os` fails meanwhile, as a disk does."""

    def refuse(*arguments: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, refuse)
        yield


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


# Waiting.


def test_waiting_ends_with_more_bytes_an_end_or_a_close(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    soon, later = (ensureDeferred(journal.wait_beyond(offset)) for offset in (0, 10**6))
    journal.append(0, line("x")[:-1])
    assert not soon.called
    journal.append(len(line("x")) - 1, line("x")[-1:])
    assert soon.called
    assert not later.called
    assert ensureDeferred(journal.wait_beyond(0)).called
    journal.append(journal.end_offset, EXIT)
    assert later.called
    other = daemon.journals.open("k")
    waiting = ensureDeferred(other.wait_beyond(0))
    result_of(daemon.journals.delete("k"))
    assert waiting.called


def test_waiting_can_be_cancelled(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    gone, stays = (ensureDeferred(journal.wait_beyond(0)) for _ in range(2))
    gone.cancel()
    with pytest.raises(CancelledError):
        result_of(gone)
    journal.append(0, line("x"))
    assert stays.called
    assert journal._waiters == {}


def test_a_reader_that_cancels_another_when_woken(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    first, second = (ensureDeferred(journal.wait_beyond(0)) for _ in range(2))
    ended: list[Any] = []
    first.addCallback(lambda _: second.cancel())
    second.addErrback(ended.append)
    journal.append(0, line("x"))
    assert first.called
    assert ended[0].check(CancelledError)


# The collection.


def test_open_files_are_bounded(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    count = journals_module.MAX_OPEN_FILES + 40
    for turn in range(2):
        for number in range(count):
            journal = daemon.journals.open(f"job-{number}")
            journal.append(journal.end_offset, line(f"turn {turn}"))
    assert len(os.listdir("/proc/self/fd")) - before <= journals_module.MAX_OPEN_FILES
    for number in range(count):
        data, _ = read_all(daemon.journals.open(f"job-{number}"))
        assert data == line("turn 0") + line("turn 1")


def test_totals_count_journals_that_are_not_open(daemon: Daemon) -> None:
    for name in ("a", "b"):
        daemon.journals.open(name).append(0, line("x", 480) + EXIT[:3])
    assert daemon.journals.total_bytes == 1006
    daemon.crash()
    assert daemon.journals.total_bytes == 1006
    assert daemon.journals.known() == ["a", "b"]
    assert daemon.journals.extent("a") == (0, 503)
    assert daemon.journals.extent("nobody") == (0, 0)
    assert daemon.journals._journals == {}
    journal = daemon.journals.get("a")
    assert journal is not None
    assert daemon.journals.extent("a") == (0, 500)
    assert daemon.journals.total_bytes == 1003
    assert daemon.journals.get("nobody") is None
    assert not (daemon.root / "nobody").exists()


def test_delete_frees_everything(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("x", 480))
    daemon.journals.open("k").append(0, line("y"))
    result_of(daemon.journals.delete("j"))
    result_of(daemon.journals.delete("j"))
    assert [each.name for each in daemon.root.iterdir()] == ["k"]
    assert daemon.journals.total_bytes == len(line("y"))
    assert journal.closed
    assert daemon.journals.get("j") is None
    daemon.clock.advance(1)
    assert [job_id for job_id, _ in daemon.durable] == ["k"]
    daemon.crash()
    result_of(ensureDeferred(daemon.journals.delete("k")))  # not open
    assert list(daemon.root.iterdir()) == []


def test_delete_during_a_sync(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    journal.append(0, line("x"))
    daemon.threads.held = True
    syncing = ensureDeferred(journal.sync())
    deleting = ensureDeferred(daemon.journals.delete("j"))
    daemon.threads.release()
    daemon.threads.release()
    result_of(syncing)
    result_of(deleting)
    assert daemon.durable == []
    assert daemon.journals.total_bytes == 0


def test_an_interrupted_delete_is_finished_at_the_next_start(daemon: Daemon) -> None:
    daemon.journals.open("j").append(0, line("x"))
    daemon.threads.held = True
    ensureDeferred(daemon.journals.delete("j"))
    daemon.crash()
    assert list(daemon.root.iterdir()) == []
    assert daemon.journals.total_bytes == 0


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "a/b", "../x", "-x", ".trash-x", "a\0", "x" * 200]
)
def test_names_that_are_no_job_ids_are_refused(daemon: Daemon, job_id: str) -> None:
    with pytest.raises(InvalidArgument):
        daemon.journals.open(job_id)
    assert daemon.journals.get(job_id) is None


def test_the_cap_leaves_what_recovery_needs_also_when_the_last_segment_has_no_file_yet(
    daemon: Daemon,
) -> None:
    """A large append makes one large segment, and an empty one is begun after it."""
    journal = daemon.journals.open("j")
    journal.append(0, line("head", 1500))
    daemon.clock.advance(1)
    for last in (line("large"), EXIT):
        large = b"".join(line("large", 900) for _ in range(20))
        journal.append(journal.end_offset, large + last)
        daemon.clock.advance(1)
    end = journal.durable_offset
    daemon.crash()
    assert daemon.journals.open("j").end_offset == end
    assert daemon.journals.open("j").finished
