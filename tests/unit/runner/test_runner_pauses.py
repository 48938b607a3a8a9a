"""The control folder: pauses that code comes to, and checkpoints that it tells."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner_kit import JobFolder, fake_agent, until

from cumulus_runner.checkpoint_index import INTERVAL_S, CheckpointIndex
from cumulus_runner.control import Control
from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]

#: Waits for the pause; then `END`, with `seen` the way to say that it was seen.
WAITS = """
import os, pathlib, time
control = pathlib.Path(os.environ['CUMULUS_CONTROL_DIR'])
class CooperativePause(Exception): pass
CooperativePause.__module__ = 'runtime'
def f():
    print('ready', flush=True)
    while not (control / 'pause').exists(): time.sleep(0.01)
    seen = lambda: (control / 'pause_seen').touch()
    END
"""


def ending(end: str) -> str:
    return WAITS.replace("END", end)


def paused_run(new_job: NewJob, end: str, **orders: Any) -> tuple[JobFolder, dict[str, Any]]:
    job = new_job(**orders).function(ending(end))
    with fake_agent(job) as agent:
        process = job.start()
        agent.accept()
        until(job.said(b"ready"), "the job runs")
        agent.pause(True)
        job.finish(process)
    return job, job.exit()


def test_code_that_raises_its_pause_has_paused(new_job: NewJob) -> None:
    job, end = paused_run(new_job, "raise CooperativePause('at step 3')")
    assert (end["outcome"], end["reason"], end["result"]) == ("paused", None, None)
    assert end["run_s"] > 0
    assert job.jsons(Kind.ERROR) == []


def test_code_that_saw_the_pause_and_returned_has_paused(new_job: NewJob) -> None:
    job, end = paused_run(new_job, "seen(); return 5")
    assert end["outcome"] == "paused"
    assert job.output(Kind.RESULT) == b""


@pytest.mark.parametrize(
    ("end", "outcome", "reason"),
    [
        ("return 5", "completed", None),
        ("seen(); raise ValueError('x')", "failed", "user_error"),
        ("seen(); os._exit(3)", "failed", "exit_code"),
    ],
)
def test_other_ends_are_what_they_are(
    new_job: NewJob, end: str, outcome: str, reason: str | None
) -> None:
    _, told = paused_run(new_job, end)
    assert (told["outcome"], told["reason"]) == (outcome, reason)


def test_a_pause_that_nobody_asked_for_is_an_error(new_job: NewJob) -> None:
    source = ending("seen(); raise CooperativePause('now')")
    job = new_job().function(source.replace("while not", "while False and not"))
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", "user_error")
    assert end["message"] == "runtime.CooperativePause: now"
    (error,) = job.jsons(Kind.ERROR)
    assert error["type"] == "CooperativePause"


def test_a_pause_is_withdrawn(new_job: NewJob) -> None:
    source = ending(
        "for turn in (1, 2):\n"
        "        while not (control / 'pause').exists(): time.sleep(0.01)\n"
        "        print('asked', turn, flush=True)\n"
        "        while (control / 'pause').exists(): time.sleep(0.01)\n"
        "        print('withdrawn', turn, flush=True)\n"
        "    return 'on'"
    )
    job = new_job().function(source)
    with fake_agent(job) as agent:
        process = job.start()
        agent.accept()
        until(job.said(b"ready"), "the job runs")
        for turn in (b"1", b"2"):  # each step is seen by the job before the next is sent
            agent.pause(True)
            agent.pause(True)
            until(job.said(b"asked " + turn), "it is asked")
            agent.pause(False)
            agent.pause(False)
            if turn == b"1":
                until(job.said(b"withdrawn 1"), "it is withdrawn")
        job.finish(process)
    assert job.exit()["outcome"] == "completed"


def entry(name: str = "a.pt", **changes: Any) -> dict[str, Any]:
    return {
        "filename": name,
        "path": f"/k/{name}",
        "epoch": 1,
        "step": 2,
        "framework": "pytorch",
        "timestamp": 3.5,
        "size_bytes": 4,
        "s3_key": None,
        **changes,
    }


def test_the_checkpoints_that_there_are_at_the_end_are_told(
    new_job: NewJob, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    index = json.dumps({"checkpoints": [entry()]})
    source = (
        "import os\n"
        "def f():\n"
        "    path = os.environ['CUMULUS_CHECKPOINT_DIR'] + '/index.json'\n"
        f"    open(path, 'w').write({index!r})\n"
        "    return 1"
    )
    job = new_job(kept=str(kept)).function(source)
    assert job.run()["outcome"] == "completed"
    assert job.jsons(Kind.CHECKPOINT) == [{"checkpoints": [entry()]}]
    again = new_job(kept=str(kept), attempt=2).function("def f(): return 1")
    again.run()
    assert again.jsons(Kind.CHECKPOINT) == [], "nothing new"


def test_news_are_told_once_a_second_at_most(tmp_path: Path) -> None:
    told: list[Any] = []
    index = CheckpointIndex(str(tmp_path), told.append)

    def write(*entries: Any) -> None:
        (tmp_path / "index.json").write_text(json.dumps({"checkpoints": list(entries)}))

    write(entry())
    index.tick(10.0)
    assert told == []
    index.changed()
    assert index.wake_at() <= 10.0
    index.tick(10.0)
    assert told == [{"checkpoints": [entry()]}]
    write(entry(), entry("b.pt", s3_key="j/b.pt"))
    index.changed()
    assert index.wake_at() == 10.0 + INTERVAL_S
    index.tick(10.5)
    assert len(told) == 1
    index.tick(11.0)
    assert told[1]["checkpoints"][-1]["s3_key"] == "j/b.pt"
    index.tell()
    assert len(told) == 2, "the same isn't told again"


def test_what_is_no_list_of_checkpoints_is_left_out(tmp_path: Path) -> None:
    told: list[Any] = []
    index = CheckpointIndex(str(tmp_path), told.append)
    path = tmp_path / "index.json"
    for text in ("", "[", "[]", '{"checkpoints": 3}', '{"checkpoints": []}' + " " * (300 << 10)):
        path.write_text(text)
        index.tell()
    path.unlink()
    path.symlink_to("/etc/hostname")
    index.tell()
    path.unlink()
    os.mkfifo(path)
    index.tell()
    assert told == []
    path.unlink()
    odd = [entry(str(number)) for number in range(30)]
    odd[-1] = {"filename": 3}
    odd[-2]["timestamp"], odd[-2]["epoch"] = "yesterday", 1.5
    path.write_text(json.dumps({"checkpoints": odd}))
    index.tell()
    (value,) = told
    assert [one["filename"] for one in value["checkpoints"]] == [str(n) for n in range(10, 29)]
    assert (value["checkpoints"][-1]["timestamp"], value["checkpoints"][-1]["epoch"]) == (0.0, None)


def test_the_control_folder_is_the_codes_to_spoil(tmp_path: Path) -> None:
    control = Control(str(tmp_path / "control"))
    control.make()
    assert not control.has_paused(True, True), "nobody asked"
    control.set_pause(True)
    assert control.has_paused(True, False) and not control.has_paused(False, True)
    (tmp_path / "control/pause_seen").symlink_to("/nowhere")
    assert control.has_paused(False, True)
    control.set_pause(False)
    control.set_pause(False)
    assert control.has_paused(False, True), "withdrawn too late"
    outside = tmp_path / "outside"
    (tmp_path / "control/pause").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        control.set_pause(True)
    assert not outside.exists()
    (tmp_path / "control/pause").unlink()
    os.mkfifo(tmp_path / "control/pause")
    with pytest.raises(OSError):  # at once: nobody reads the pipe
        control.set_pause(True)


def test_an_index_that_is_no_file_is_no_list(tmp_path: Path) -> None:
    told: list[Any] = []
    path = tmp_path / "index.json"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)  # so that a reader would wait
    try:
        index = CheckpointIndex(str(tmp_path), told.append)
        index.tell()
    finally:
        os.close(writer)
    path.unlink()
    path.mkdir()
    held = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        index.tell()
    assert (told, len(os.listdir("/proc/self/fd"))) == ([], held)
