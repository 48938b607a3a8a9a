"""A backup of the daemon's folder, taken while it runs and while it doesn't, put in its place."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Daemon
from tests.e2e.test_e2e_jobs import HEAD, last_json

MakeDaemon = Callable[..., Daemon]

ENDED = """
def answer():
    from pathlib import Path
    print("the output")
    Path("outputs").mkdir(exist_ok=True)
    return 42

job = client.submit(answer, duration=60)
assert job.result(timeout=60) == 42
print(json.dumps({"job_id": job.job_id}))
"""
RUNNING = """
def long():
    import time
    print("begun", flush=True)
    time.sleep(300)

job = client.submit(long, duration=600)
next(iter(job.logs(follow=True)))
print(json.dumps({"job_id": job.job_id}))
"""


def cumulusd(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(Path(sys.executable).with_name("cumulusd")), *words],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def back_up(daemon: Daemon, folder: Path) -> str:
    done = cumulusd("store", "backup", "--config", str(daemon.config), str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def restore(daemon: Daemon, folder: Path) -> None:
    """As docs/operations.md says."""
    daemon.state_dir.rename(daemon.state_dir.with_name("state.before"))
    shutil.copytree(folder, daemon.state_dir)


def seen(daemon: Daemon, job_id: str) -> dict[str, Any]:
    told = daemon.run(
        HEAD
        + f"""
job = client.attach("{job_id}")
print(json.dumps({{"result": job.result(timeout=60), "text": "".join(job.logs())}}))
"""
    )
    return last_json(told.stdout)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_backup_takes_the_folders_place(
    make_daemon: MakeDaemon, tmp_path: Path, running: bool
) -> None:
    daemon = make_daemon().start()
    ended = last_json(daemon.run(HEAD + ENDED).stdout)["job_id"]
    daemon.wait_job(ended, "ended")
    under_way = last_json(daemon.run(HEAD + RUNNING).stdout)["job_id"] if running else None
    if not running:
        daemon.stop()
    folder = tmp_path / "backup"
    assert f"{2 if running else 1} job(s)" in back_up(daemon, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    if running:
        # What comes after it is not in it.
        later = last_json(daemon.run(HEAD + ENDED).stdout)["job_id"]
        assert under_way is not None
        daemon.cancel_all()
        daemon.wait_nothing_left()
        daemon.stop()
    restore(daemon, folder)
    daemon.start()
    assert seen(daemon, ended) == {"result": 42, "text": "the output\n"}
    jobs = {job["job_id"] for job in daemon.jobs()}
    if under_way is not None:
        assert jobs == {ended, under_way} and later not in jobs
        # It ran then and does no more: that is found out, and told with a reason.
        view = daemon.wait_job(under_way, "ended", timeout_s=90)
        assert (view["status"], bool(view["end"]["message"])) == ("failed", True)
    # And it works on.
    again = last_json(daemon.run(HEAD + ENDED).stdout)["job_id"]
    assert seen(daemon, again)["result"] == 42
    daemon.wait_nothing_left()


def test_a_backup_that_cant_be_is_refused(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon()
    command = ("store", "backup", "--config", str(daemon.config))
    done = cumulusd(*command, str(tmp_path / "b"))
    assert (done.returncode, "no daemon has run here yet" in done.stderr) == (69, True)
    daemon.start()
    daemon.stop()
    (tmp_path / "there").mkdir()
    done = cumulusd(*command, str(tmp_path / "there"))
    assert done.returncode == 69 and "is there already" in done.stderr
    done = cumulusd(*command, str(daemon.state_dir / "inside"))
    assert done.returncode == 69 and "lies in the state_dir" in done.stderr
    store = daemon.state_dir / "jobs.sqlite3"
    store.write_bytes(store.read_bytes()[:4096] + b"\xff" * 8192)
    done = cumulusd(*command, str(tmp_path / "b"))
    assert done.returncode == 69 and "store check" in done.stderr
    # Nothing half is left.
    assert not list(tmp_path.glob("*b*.new")) and not (tmp_path / "b").exists()


def test_a_downgrade_is_refused_and_changes_nothing(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    daemon.stop()
    store = daemon.state_dir / "jobs.sqlite3"
    connection = sqlite3.connect(store)
    connection.execute("PRAGMA user_version = 1000")
    connection.close()
    before = store.read_bytes()
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 76
    assert "It was written by a newer cumulusd: run that version" in daemon.log_text()
    assert store.read_bytes() == before
