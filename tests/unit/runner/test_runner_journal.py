"""The journal on disk: segments, the bound, what a crash leaves."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner_kit import WAIT_S, JobFolder, fake_agent, gone, until

from cumulus_runner.journal_writer import SPARE_BYTES, JournalWriter
from cumulus_wire.folder import segment_name, segment_offset
from cumulus_wire.journal import FrameParser, Kind, encode, encode_json

NewJob = Callable[..., JobFolder]
FRAME = encode(Kind.STDOUT, b"x" * 80)  # 100 bytes


def write(path: Path, *frames: bytes, max_bytes: int = 4000, segment_bytes: int = 250) -> None:
    journal = JournalWriter(str(path), max_bytes, segment_bytes)
    for frame in frames:
        assert journal.append(frame)
    journal.close()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_segments_begin_at_frames(tmp_path: Path) -> None:
    write(tmp_path, *[FRAME] * 5)
    assert names(tmp_path) == [segment_name(offset) for offset in (0, 200, 400)]
    for segment in tmp_path.iterdir():
        parser = FrameParser(segment_offset(segment.name) or 0)
        assert parser.feed(segment.read_bytes()) and parser.pending_bytes == 0


def test_a_batch_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, FRAME, FRAME * 9, FRAME)
    assert names(tmp_path) == [segment_name(offset) for offset in (0, 100, 1000)]


def test_a_segment_never_takes_the_whole_bound(tmp_path: Path) -> None:
    write(tmp_path, *[FRAME] * 8, max_bytes=800, segment_bytes=1 << 30)
    assert len(names(tmp_path)) == 4


def test_room_comes_back_when_segments_are_deleted(tmp_path: Path) -> None:
    journal = JournalWriter(str(tmp_path), 1000, 250)
    for _ in range(10):
        journal.append(FRAME)
    assert journal.room_bytes(1) == 0
    (tmp_path / segment_name(0)).unlink()
    assert journal.room_bytes(1) == 200
    assert journal.end_offset == 1000
    journal.close()


@pytest.mark.parametrize(
    "torn",
    [b"", FRAME[:1], FRAME[:20], FRAME[:-1], b"\0" * 300],
    ids=["none", "a byte", "a head", "all but one", "zeros"],  # a frame holds the time
)
def test_it_goes_on_after_the_last_whole_frame(tmp_path: Path, torn: bytes) -> None:
    write(tmp_path, *[FRAME] * 3)
    newest = tmp_path / segment_name(200)
    newest.write_bytes(newest.read_bytes() + torn)
    journal = JournalWriter(str(tmp_path), 4000, 250)
    assert (journal.end_offset, journal.exited) == (300, False)
    assert journal.room_bytes(0) == 3700
    journal.append(encode_json(Kind.EXIT, {}))
    journal.close()
    again = JournalWriter(str(tmp_path), 4000, 250)
    assert again.exited
    again.close()
    parser = FrameParser(200)
    kinds = [record.kind for record in parser.feed(newest.read_bytes())]
    assert kinds[0] is Kind.STDOUT and parser.pending_bytes == 0


@given(cut=st.integers(0, 500))
def test_any_cut_leaves_whole_frames(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("journal")
    write(path, *[FRAME] * 5, segment_bytes=1000)
    segment = path / segment_name(0)
    os.truncate(segment, cut)
    journal = JournalWriter(str(path), 4000, 1000)
    assert journal.end_offset == cut // 100 * 100 == segment.stat().st_size
    journal.close()


def test_a_full_disk_leaves_no_half_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = JournalWriter(str(tmp_path), 4000, 4000)
    journal.append(FRAME)
    real_write = os.write
    left = [30]

    def short_write(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "full")
        written = real_write(fd, data[: left[0]])
        left[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short_write)
        assert journal.append(FRAME) is False
    assert (tmp_path / segment_name(0)).stat().st_size == 100 == journal.end_offset
    assert journal.append(FRAME) is True
    journal.close()
    assert (tmp_path / segment_name(0)).read_bytes() == FRAME * 2


PIPE_BYTES = 1 << 20


def test_a_disk_with_hardly_any_room_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a frame that is taken back again could be read meanwhile."""
    journal = JournalWriter(str(tmp_path), 1 << 20, 1 << 20)
    assert journal.append(FRAME)
    real, left = os.fstatvfs, [len(FRAME) + SPARE_BYTES - 1]

    class Disk:
        f_frsize = 1

        @property
        def f_bavail(self) -> int:
            return left[0]

    monkeypatch.setattr(os, "fstatvfs", lambda fd: Disk())
    assert not journal.append(FRAME) and journal.end_offset == len(FRAME)
    left[0] += 1
    assert journal.append(FRAME) and journal.end_offset == 2 * len(FRAME)
    monkeypatch.setattr(os, "fstatvfs", real)
    journal.close()


def test_a_full_journal_blocks_the_job_until_there_is_room(new_job: NewJob) -> None:
    job = new_job(journal_max_bytes=400_000, segment_bytes=50_000).function(
        "import os\n"
        "def f():\n"
        "    for i in range(400): os.write(1, b'%05d' % i * 4000)\n"
        "    return 'done'"
    )
    process = job.start()

    def used() -> int:
        return sum(segment.stat().st_size for segment in job.segments())

    until(lambda: used() > 330_000, "the journal is full")
    with pytest.raises(AssertionError):
        until(lambda: used() > 400_000 or process.poll() is not None, "more", timeout_s=0.5)
    # The agent: takes away all but the newest, as often as there is something.
    taken: dict[str, bytes] = {}

    def take() -> bool:
        ended = process.poll() is not None
        # What is left in the pipe when the code has ended may pass the bound.
        assert used() <= 400_000 + PIPE_BYTES
        for segment in job.segments()[:-1]:
            taken[segment.name] = segment.read_bytes()
            segment.unlink()
        return ended

    until(take, "the job ends")
    assert job.exit()["outcome"] == "completed"
    for segment in job.segments():
        taken[segment.name] = segment.read_bytes()
    journal = b"".join(taken[name] for name in sorted(taken))
    records = FrameParser(0).feed(journal)
    output = b"".join(record.payload for record in records if record.kind is Kind.STDOUT)
    assert output == b"".join(b"%05d" % i * 4000 for i in range(400))
    assert records[-1].kind is Kind.EXIT


def test_a_full_journal_doesnt_hold_up_the_deadline(new_job: NewJob) -> None:
    job = new_job(
        journal_max_bytes=100_000, segment_bytes=10_000, duration_s=1.0, stop_grace_s=0.2
    ).function("def f():\n  while True: print('z' * 1000)")
    end = job.run()
    assert end["outcome"] == "timeout" and end["run_s"] < 4
    assert sum(s.stat().st_size for s in job.segments()) < 100_000 + (1 << 20)


def test_a_result_without_room_is_said(new_job: NewJob) -> None:
    job = new_job(
        journal_max_bytes=100_000, segment_bytes=10_000, duration_s=1.0, stop_grace_s=0.2
    ).function("def f(): return 'x' * 1_000_000")
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", "result_invalid")
    assert "no room" in end["message"] and end["result"] is None


def test_a_job_whose_result_waits_can_be_cancelled(new_job: NewJob) -> None:
    job = new_job(journal_max_bytes=100_000, segment_bytes=10_000).function(
        "def f(): return 'x' * 1_000_000"
    )
    with fake_agent(job) as agent:
        process = job.start()
        agent.accept()
        until(lambda: job.output(Kind.RESULT), "the result begins")
        agent.stop("cancelled_by_user", 1.0)
        process.wait(WAIT_S)
    assert job.exit()["outcome"] == "cancelled"


def test_the_end_is_recorded_on_a_full_disk(new_job: NewJob) -> None:
    job = new_job(duration_s=1.5, stop_grace_s=0.2, segment_bytes=200_000)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "cumulus-test", str(job.path)]
    orders = (job.path / "job.json").read_bytes()
    mounted = subprocess.run(mount, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode()}")
    try:
        (job.path / "job.json").write_bytes(orders)
        job.function("def f():\n  while True: print('z' * 1000)")
        end = job.run()
        assert end["outcome"] == "timeout" and end["run_s"] < 10
        assert len(job.output(Kind.STDOUT)) > 1_000_000
    finally:
        job.close()
        subprocess.run(["umount", str(job.path)], check=True)


def test_without_its_journal_the_job_is_ended(new_job: NewJob) -> None:
    job = new_job(segment_bytes=1).function(
        "import os, shutil, time\n"
        "def f():\n"
        "    shutil.rmtree('../journal')\n"
        "    open('../pid', 'w').write(str(os.getpid()))\n"
        "    print('lost')\n"
        "    time.sleep(600)"
    )
    code, _, err = job.finish(job.start())
    assert code == 74 and b"EXIT can't be written" in err
    assert gone(int((job.path / "pid").read_text()))


@pytest.mark.parametrize(
    "fills",
    [
        "open('fill', 'wb').write(b'x' * (8 << 20))",
        "with open('/dev/full', 'w') as full: full.write('x')",
        "return 'x' * (8 << 20)",
    ],
    ids=["its disk", "another file system", "the result"],
)
def test_code_that_fills_the_disk_is_told_so(new_job: NewJob, fills: str) -> None:
    job = new_job()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "cumulus-test", str(job.path)]
    orders = (job.path / "job.json").read_text()
    mounted = subprocess.run(mount, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode()}")
    try:
        (job.path / "job.json").write_text(orders)
        end = job.function(f"def f():\n    {fills}\n").run()
        assert (end["outcome"], end["reason"]) == ("failed", "disk_full")
        assert "No space left on device" in end["message"] and "Write less" in end["hint"]
        if "return" not in fills:
            (error,) = job.jsons(Kind.ERROR)
            assert error["type"] == "OSError" and "line 2, in f" in error["traceback"]
    finally:
        job.close()
        subprocess.run(["umount", str(job.path)], check=True)
