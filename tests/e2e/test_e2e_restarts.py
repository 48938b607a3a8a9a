"""What must survive a `kill -9` of the daemon at the worst moment."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.e2e.harness import Daemon
from tests.e2e.test_e2e_jobs import HEAD, last_json

MakeDaemon = Callable[..., Daemon]


def test_a_cancel_that_was_answered_survives_a_kill(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    assert daemon.process is not None
    told = daemon.run(
        HEAD
        + f"""
import os

def long():
    import time
    print("begun")
    time.sleep(300)

job = client.submit(long, duration=600)
next(iter(job.logs(follow=True)))
cancelled = job.cancel()
os.kill({daemon.process.pid}, 9)
print(json.dumps({{"job_id": job.job_id, "cancelled": cancelled}}), flush=True)
os._exit(0)
"""
    )
    job = last_json(told.stdout)
    assert job["cancelled"] is True
    assert daemon.process.wait(10) == -signal.SIGKILL
    daemon.start()
    view = daemon.wait_job(job["job_id"], "ended")
    assert (view["status"], view["end"]["reason"]) == ("cancelled", "cancelled_by_user")
    daemon.wait_nothing_left()


def test_runners_killed_while_the_daemon_is_dead_are_found_dead(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    told = daemon.run(
        HEAD
        + """
def long():
    import os, time
    os.write(1, b"%d\\n" % os.getppid())  # in one piece
    time.sleep(300)

job = client.submit(long, duration=600)
runner = next(iter(job.logs(follow=True)))
print(json.dumps({"job_id": job.job_id, "runner": int(runner)}))
"""
    )
    job = last_json(told.stdout)
    daemon.kill()
    os.kill(job["runner"], signal.SIGKILL)
    daemon.start()
    view = daemon.wait_job(job["job_id"], "ended")
    assert (view["status"], view["end"]["reason"]) == ("failed", "runner_failed")
    daemon.wait_nothing_left()


def test_a_damaged_checkpoint_is_refused_salvaged_and_started_on(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    told = daemon.run(
        HEAD
        + """
def answer():
    print("the output")
    return 42

job = client.submit(answer, duration=60)
assert job.result(timeout=60) == 42
print(json.dumps({"job_id": job.job_id}))
"""
    )
    job_id = last_json(told.stdout)["job_id"]
    daemon.wait_job(job_id, "ended")
    daemon.stop()
    store = daemon.state_dir / "jobs.sqlite3"
    connection = sqlite3.connect(store)
    connection.execute("INSERT INTO jobs VALUES ('job_broken', '{\"version\": 1, \"job')")
    connection.commit()
    connection.close()
    damaged = store.read_bytes()

    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(30) == 65
    assert "cumulusd store salvage --config FILE" in daemon.log_text().splitlines()[-1]
    assert store.read_bytes() == damaged

    cumulusd = Path(sys.executable).with_name("cumulusd")
    done = subprocess.run(
        [str(cumulusd), "store", "salvage", "--config", str(daemon.config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "lost: job job_broken" in done.stdout
    (kept,) = daemon.state_dir.glob("jobs.sqlite3.damaged-*")
    assert kept.read_bytes() == damaged

    daemon.start()
    told = daemon.run(
        HEAD
        + f"""
job = client.attach("{job_id}")
print(json.dumps({{"result": job.result(timeout=60), "text": "".join(job.logs())}}))
"""
    )
    assert last_json(told.stdout) == {"result": 42, "text": "the output\n"}
    daemon.wait_nothing_left()
