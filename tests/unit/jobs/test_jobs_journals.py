"""The daemon's copies of journals: whole frames, readers, gaps, and all of them together."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from job_values import result_of
from journal_world import EXIT, Daemon, files, line, read_all
from twisted.internet.defer import CancelledError, ensureDeferred

from cumulus_wire.folder import segment_name
from cumulus_wire.journal import HEADER, FrameParser, JournalCorrupt, Kind, encode
from cumulusd.errors import InvalidArgument
from cumulusd.jobs import journals as journals_module
from cumulusd.jobs.journals import JournalDamaged, JournalHole
from cumulusd.jobs.segments import Segment, droppable, fit
from cumulusd.jobs.store import StoreFailed


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
    begin = max(0, min(offset // 100 * 100, 500))
    assert caught.value.details["continue_from"] == begin, "the start of the record it is inside"
    journal.read(begin, 100)
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
    # Who wants to begin anywhere begins at a record: the one around it, or the next that is kept.
    assert journal.record_begin(middle) == gap[1]
    assert journal.record_begin(len(stream)) == len(stream)
    for offset in (0, 1, 777, gap[1] + 1, len(stream) - 1):
        begin = journal.record_begin(offset)
        assert begin <= offset
        assert FrameParser(begin).feed(stream[begin:])[0].next_offset > offset
    assert daemon.journals.total_bytes == sum(files(daemon).values()) == journal.size_bytes


@pytest.mark.parametrize("sizes", [(60,), (30, 30), (12, 60), (60, 3), (20, 20, 20), (9, 9, 60, 9)])
@pytest.mark.parametrize("result", [0, 25])
def test_large_segments_are_cut_to_the_cap_when_the_job_has_ended(
    daemon: Daemon, sizes: tuple[int, ...], result: int
) -> None:
    """A quick writer's: a new one is begun only when those before are on disk."""
    journal = daemon.journals.open("j")
    stream, number = b"", 0
    for size in sizes:
        piece = b""
        for _ in range(size):
            piece, number = piece + line(str(number), 180), number + 1
        journal.append(journal.end_offset, piece)
        result_of(journal.sync())
        stream += piece
    ends = [encode(Kind.RESULT, b"r" * 180, 1)] * result + [EXIT]
    journal.append(journal.end_offset, b"".join(ends))
    result_of(journal.sync())
    stream += b"".join(ends)
    before = journal.size_bytes
    assert before > 8000
    freed = result_of(daemon.journals.fit("j", 0))
    data, gaps = read_all(journal)
    assert freed == before - journal.size_bytes > 0
    assert journal.size_bytes <= 8000 and journal.size_bytes == sum(files(daemon).values())
    (gap,) = gaps
    assert data == stream[: gap[0]] + stream[gap[1] :]
    assert 800 <= gap[0] <= 8000 // 4 and len(stream) - gap[1] >= 8000 // 2
    assert gap[1] <= len(stream) - sum(map(len, ends)), "a result is kept whole"
    assert result_of(daemon.journals.fit("j", 0)) == 0
    daemon.crash()
    assert read_all(daemon.journals.open("j")) == (data, gaps)
    assert daemon.journals.open("j").finished


def test_a_crash_while_a_journal_is_cut_to_the_cap_loses_nothing_else(daemon: Daemon) -> None:
    journal = daemon.journals.open("j")
    stream = b"".join(line(str(number), 180) for number in range(60)) + EXIT
    journal.append(0, stream)
    result_of(journal.sync())
    dropped = fit(daemon.root / "j", 8000, 0)
    assert dropped is not None
    daemon.crash()  # before anything was dropped: the new segments overlap the old one
    assert read_all(daemon.journals.open("j")) == (stream, [])
    assert result_of(daemon.journals.fit("j", 0)) > 0
    data, gaps = read_all(daemon.journals.open("j"))
    assert gaps == [dropped] and data == stream[: dropped[0]] + stream[dropped[1] :]


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


def test_as_many_files_stay_open_as_may(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.options["max_open_files"] = 100
    daemon.crash()
    opened: list[object] = []
    real = os.open

    def counting(path: object, *rest: Any, **more: Any) -> int:
        opened.append(path)
        return real(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", counting)
    for turn in range(3):
        for number in range(100):
            journal = daemon.journals.open(f"job-{number}")
            journal.append(journal.end_offset, line(f"turn {turn}"))
        if turn == 0:
            opened.clear()
    assert opened == [], "a journal that is written to again was opened again"


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
    assert daemon.journals.total_bytes == 0, "a start doesn't look into each folder"
    assert daemon.journals.size_bytes("a") == 503
    result_of(ensureDeferred(daemon.journals.measure()))
    assert daemon.journals.total_bytes == 1006
    assert sorted(daemon.journals.known()) == ["a", "b"]
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
