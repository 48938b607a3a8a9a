"""A job's later attempts, and runners that come too late."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runner_kit import JobFolder

from cumulus_wire import folder
from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]
PRINTS = "def f():\n    print('ran')\n"


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_journal_begins_where_the_attempt_before_ended(new_job: NewJob) -> None:
    job = new_job(attempt=3, journal_start=123_456).function(PRINTS)
    assert job.run()["outcome"] == "completed"
    assert [path.name for path in job.segments()] == [folder.segment_name(123_456)]
    first = job.records()[0]
    assert (first.offset, first.kind) == (123_456, Kind.STATUS)
    assert first.json() == {"phase": "setup", "attempt": 3}


@pytest.mark.parametrize(
    ("late", "words"),
    [
        ({"boot_id": "another boot"}, "the worker was restarted since the job was placed"),
        ({"last_moment_s": 1.0}, "the time in which the job could run on this worker is over"),
    ],
)
def test_a_runner_that_comes_too_late_starts_nothing(
    new_job: NewJob, late: dict[str, object], words: str
) -> None:
    orders = {"boot_id": boot_id(), "last_moment_s": boot_time() + 1000.0, **late}
    job = new_job(**orders).function(PRINTS)
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", "runner_failed")
    assert words in end["message"] and "nothing was started" in end["message"]
    assert job.output(Kind.STDOUT) == b""


def test_in_time_it_runs(new_job: NewJob) -> None:
    job = new_job(boot_id=boot_id(), last_moment_s=boot_time() + 1000.0).function(PRINTS)
    assert job.run()["outcome"] == "completed"


def test_the_last_moment_ends_a_job_that_began_late(new_job: NewJob) -> None:
    source = "def f():\n    import time\n    time.sleep(600)\n"
    # 15 s before it everything is to be over, and 1 s of grace.
    job = new_job(boot_id=boot_id(), last_moment_s=boot_time() + 18.0).function(source)
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("timeout", "duration_exceeded")
    assert "the worker's time was over" in end["message"]
