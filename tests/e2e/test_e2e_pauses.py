"""Jobs that pause, give their share to others, and go on from their checkpoint."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.harness import PYTHON, REPOSITORY, Daemon

TRAIN = """
from cumulus_client import CumulusClient
import sys

def train(steps, holds=False):
    # With `holds`, the first attempt goes on until it is paused, and the next for so many steps.
    import json, os, pathlib, time
    import runtime
    path = pathlib.Path(os.environ["CUMULUS_CHECKPOINT_DIR"]) / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {"step": 0, "attempts": []}
    state["attempts"].append(int(os.environ["CUMULUS_ATTEMPT"]))
    end = state["step"] + steps if len(state["attempts"]) > 1 or not holds else 10**9
    while state["step"] < end:
        state["step"] += 1
        print("step", state["step"], flush=True)
        path.write_text(json.dumps(state))
        if runtime.should_pause():
            raise runtime.CooperativePause("state.json has it")
        time.sleep(0.02)
    return state

client = CumulusClient("{URL}")
"""


def submit(daemon: Daemon, steps: int) -> str:
    """A job that takes all of the device until it is paused, and then so many steps more."""
    options = f"gpu_memory=1.0, duration=300, steps={steps}, holds=True"
    text = f"print(client.submit(train, {options}).job_id)"
    return daemon.run(TRAIN + text).stdout.split()[-1]


def ask(daemon: Daemon, line: str) -> str:
    """What a script prints that has `client`."""
    return daemon.run(TRAIN + line).stdout.strip()


def kept(daemon: Daemon) -> list[str]:
    return sorted(path.name for path in (daemon.state_dir / "worker" / "kept").iterdir())


def wait_kept(daemon: Daemon, job_ids: list[str]) -> None:
    """An ended job's folder goes after its end is told."""
    deadline = time.monotonic() + 20
    while kept(daemon) != job_ids:
        assert time.monotonic() < deadline, kept(daemon)
        time.sleep(0.05)


def test_a_job_pauses_over_a_restart_and_continues_from_its_checkpoint(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon().start()
    job_id = submit(daemon, 40)
    daemon.wait_steps(job_id, 3)
    assert "where it next looks" in ask(daemon, f"print(client.pause_job({job_id!r})['message'])")
    view = daemon.wait_job(job_id, "paused")
    assert (view["status"], view["worker"], view["partition"]) == ("paused", None, None)
    before = daemon.steps_of(job_id)
    assert before == list(range(1, len(before) + 1))
    # Its share is free for another job, which takes all of the device.
    other = ask(daemon, "print(client.run(train, gpu_memory=1.0, duration=60, steps=2)['step'])")
    assert other.endswith("2")
    wait_kept(daemon, [job_id])
    daemon.kill()
    daemon.start()
    assert daemon.job(job_id)["status"] == "paused"
    assert kept(daemon) == [job_id]
    assert "only there" in ask(daemon, f"print(client.resume_job({job_id!r})['message'])")
    value = ask(daemon, f"print(client.attach({job_id!r}).result()['attempts'])")
    assert value.splitlines()[-1] == "[1, 2]"
    count = len(before) + 40
    assert daemon.steps_of(job_id) == list(range(1, count + 1)), "nothing lost or doubled"
    view = daemon.wait_job(job_id, "ended")
    assert view["status"] == "completed" and view["ran_s"] > 0
    daemon.wait_nothing_left()
    wait_kept(daemon, [])


def test_a_pause_that_was_asked_before_a_restart_reaches_the_code(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon().start()
    blocked = (
        "def blind(seconds):\n"
        "    import os, pathlib, time, runtime\n"
        "    print('step 1', flush=True)\n"
        "    deadline = time.monotonic() + seconds\n"
        "    while time.monotonic() < deadline:\n"
        "        time.sleep(0.1)\n"
        "        if os.path.exists(os.environ['HOME'] + '/look') and runtime.should_pause():\n"
        "            return 'paused'\n"
        "job = client.submit(blind, gpu_memory=0.1, duration=300, seconds=250)\n"
        "print(job.job_id)\n"
    )
    job_id = daemon.run(TRAIN + blocked).stdout.split()[-1]
    daemon.wait_steps(job_id, 1)
    ask(daemon, f"client.pause_job({job_id!r})")
    daemon.kill()
    daemon.start()
    view = daemon.job(job_id)
    assert (view["status"], view["pause_requested"]) == ("running", True)
    (daemon.state_dir / "worker" / "jobs" / job_id / "scratch" / "look").touch()
    view = daemon.wait_job(job_id, "paused")
    assert view["checkpoint_count"] == 0
    said = ask(daemon, f"print(client.resume_job({job_id!r})['message'])")
    assert "begins anew" in said
    ask(daemon, f"client.cancel_job({job_id!r})")
    daemon.wait_job(job_id, "ended")


def test_a_paused_job_is_cancelled_and_deleted(daemon: Daemon) -> None:
    job_id = submit(daemon, 1)
    daemon.wait_steps(job_id, 2)
    ask(daemon, f"client.pause_job({job_id!r})")
    daemon.wait_job(job_id, "paused")
    refused = ask(
        daemon,
        f"""
for verb in (client.pause_job, client.delete_job):
    try:
        verb({job_id!r})
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])
""",
    )
    assert "paused already" in refused and "can't be deleted" in refused
    assert refused.count(job_id) == 2 and refused.count("Conflict") == 2
    assert ask(daemon, f"print(client.cancel_job({job_id!r}))").endswith("True")
    daemon.wait_job(job_id, "ended")
    deadline = time.monotonic() + 30
    while job_id in kept(daemon):
        assert time.monotonic() < deadline, "what it kept goes with it"
        time.sleep(0.1)
    ask(daemon, f"client.delete_job({job_id!r})")
    assert daemon.get(f"/api/jobs/{job_id}")[0] == 404
    assert not (daemon.state_dir / "journals" / job_id).exists()


def test_what_it_kept_is_gone(daemon: Daemon) -> None:
    job_id = submit(daemon, 1)
    daemon.wait_steps(job_id, 2)
    ask(daemon, f"client.pause_job({job_id!r})")
    daemon.wait_job(job_id, "paused")
    folder: Path = daemon.state_dir / "worker" / "kept" / job_id
    folder.rename(daemon.folder / "stolen")
    said = ask(
        daemon,
        f"""
client.resume_job({job_id!r})
try:
    client.attach({job_id!r}).result()
except RuntimeError as error:
    print(error)
""",
    )
    view = daemon.wait_job(job_id, "ended")
    assert view["end"]["reason"] == "checkpoint_lost"
    assert view["end"]["message"] in said and "S3" in view["end"]["hint"]


def test_the_example_goes_on_where_it_was(daemon: Daemon) -> None:
    done = subprocess.run(
        [PYTHON, str(REPOSITORY / "examples/pause_and_resume.py"), daemon.url],
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
        cwd=daemon.folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, attempts, output = done.stdout.splitlines()
    first, second = json.loads(attempts.removeprefix("its attempts began at "))
    assert first == 0 < second < 80, "it went on, not anew"
    assert output == "its output has 80 lines, ending with 'counted to 80'"
