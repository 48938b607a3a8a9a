"""Secrets reach the job's code, over restarts and retries, and are seen nowhere else."""

import hashlib
import io
import json
import os
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import requests

from tests.e2e.harness import Daemon
from tests.e2e.test_e2e_jobs import HEAD, last_json

MakeDaemon = Callable[..., Daemon]
#: In two halves, so that no file of the test's own holds it.
HALVES = ("hunter2-Zq9-", "wK4vRm")
VALUE = "".join(HALVES)
SHA256 = hashlib.sha256(VALUE.encode()).hexdigest()

SUBMIT = """
VALUE = "".join({halves!r})

def block():
    import time
    print("up", flush=True)
    time.sleep(300)

def use():
    import hashlib, os, time
    if os.environ["CUMULUS_ATTEMPT"] == "1":
        os.kill(os.getppid(), 9)  # the runner: another attempt follows
        time.sleep(60)
    with open(f"/proc/{{os.getppid()}}/environ") as file:
        runner = file.read()
    return {{
        "sha256": hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest(),
        "runner_has_it": os.environ["TOKEN"] in runner,
        "files": sorted(os.listdir("..")),
    }}

"""


def holding(folder: Path) -> list[Path]:
    """The files below that hold the value."""
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file() and VALUE.encode() in path.read_bytes():
                found.append(path)
        except FileNotFoundError:
            continue  # it went meanwhile
    return found


def seen(daemon: Daemon) -> list[str]:
    """Where the value is shown."""
    shown = {
        "log": daemon.log_text(),
        "metrics": str(daemon.get("/metrics")[1]),
        "jobs": json.dumps(daemon.jobs()),
        "workers": json.dumps(daemon.get("/api/workers")[1]),
        "processes": subprocess.run(
            ["ps", "-ewwo", "args"], capture_output=True, text=True, check=True
        ).stdout,
    }
    return [where for where, text in shown.items() if VALUE in text]


def test_they_reach_the_code_and_nothing_else(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra="log: {level: debug}\n").start()
    told = daemon.run(
        HEAD
        + SUBMIT.format(halves=HALVES)
        + """
blocker = client.submit(block, gpu_memory=1.0, duration=600)
next(iter(blocker.logs(follow=True)))
job = client.submit(use, gpu_memory=1.0, duration=60, retries=1, secrets={"TOKEN": VALUE})
print(json.dumps({"blocker": blocker.job_id, "job": job.job_id}))
"""
    )
    ids = last_json(told.stdout)
    assert VALUE not in told.stdout + told.stderr
    # It waits. Only one file has it, for the daemon alone; so it is after a kill.
    (kept,) = holding(daemon.state_dir)
    assert kept == daemon.state_dir / "secrets" / f"{ids['job']}.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert seen(daemon) == []
    daemon.kill()
    assert holding(daemon.state_dir) == [kept]
    daemon.start()
    done = daemon.run(
        HEAD
        + f"""
client.cancel_job({ids["blocker"]!r})
print(json.dumps(client.attach({ids["job"]!r}).result(timeout=60)))
"""
    )
    result = last_json(done.stdout)
    assert result["sha256"] == SHA256, "the second attempt had it again"
    assert result["runner_has_it"] is False
    assert "secrets.json" not in result["files"]
    view = daemon.job(ids["job"])
    assert view["attempt"] == 2 and view["secret_names"] == ["TOKEN"]
    daemon.wait_nothing_left()
    assert holding(daemon.state_dir) == []
    assert seen(daemon) == []


def test_what_is_wrong_with_them_is_told_without_their_values(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + f"VALUE = ''.join({HALVES!r})\n"
        + """
def f(): pass

for wrong in ({"LD_PRELOAD": VALUE}, {"TOKEN": VALUE + chr(0)}, {VALUE: "TOKEN"}):
    try:
        client.run(f, duration=60, secrets=wrong)
    except Exception as error:
        print(type(error).__name__, error, repr(error), error.__cause__)
    else:
        raise SystemExit("it was taken")
"""
    )
    assert "LD_PRELOAD" in done.stdout and "TOKEN" in done.stdout
    assert VALUE not in done.stdout + done.stderr
    assert seen(daemon) == [] and holding(daemon.state_dir) == []


def test_a_jobs_secrets_dont_outlive_a_cancelled_wait(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + SUBMIT.format(halves=HALVES)
        + """
blocker = client.submit(block, gpu_memory=1.0, duration=600)
next(iter(blocker.logs(follow=True)))
job = client.submit(use, gpu_memory=1.0, duration=60, secrets={"TOKEN": VALUE})
job.cancel()
blocker.cancel()
print(json.dumps({"job_id": job.job_id}))
"""
    )
    daemon.wait_job(last_json(done.stdout)["job_id"], "ended")
    daemon.wait_nothing_left()
    assert os.listdir(daemon.state_dir / "secrets") == []


def test_a_resumed_job_has_them_again(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + f"VALUE = ''.join({HALVES!r})\n"
        + """
def use():
    import hashlib, os, time, runtime
    while os.environ["CUMULUS_ATTEMPT"] == "1":
        print("looking", flush=True)
        if runtime.should_pause():
            raise runtime.CooperativePause("later")
        time.sleep(0.05)
    return hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest()

job = client.submit(use, gpu_memory=0.1, duration=60, secrets={"TOKEN": VALUE})
next(iter(job.logs(follow=True)))
job.pause()
while job.status() != "paused":
    time.sleep(0.05)
print(json.dumps({"job_id": job.job_id}))
"""
    )
    job_id = last_json(done.stdout)["job_id"]
    kept = daemon.state_dir / "secrets" / f"{job_id}.json"
    assert holding(daemon.state_dir) == [kept], "it needs them when it is resumed"
    done = daemon.run(
        HEAD
        + f"""
job = client.attach({job_id!r})
job.resume()
print(json.dumps({{"sha256": job.result(timeout=60)}}))
"""
    )
    assert last_json(done.stdout)["sha256"] == SHA256
    daemon.wait_job(job_id, "ended")
    assert holding(daemon.state_dir) == []


def test_over_http_they_are_as_hidden(daemon: Daemon) -> None:
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr(
            "main.py",
            "import hashlib, json, os, time\n"
            "print('up', flush=True)\n"
            "time.sleep(1)\n"
            "digest = hashlib.sha256(os.environ['TOKEN'].encode()).hexdigest()\n"
            "json.dump(digest, open('result.json', 'w'))\n",
        )
    files = {"code": ("code.zip", code.getvalue(), "application/zip")}
    form = {"gpu_memory": "0.1", "duration": "60", "secrets": json.dumps({"TOKEN": VALUE})}
    answer = requests.post(f"{daemon.url}/api/jobs", data=form, files=files, timeout=30)
    assert answer.status_code in (200, 201, 202), answer.text
    job_id = answer.json()["job_id"]
    daemon.wait_job(job_id, "running", "ending", "ended")
    assert VALUE not in answer.text
    assert set(holding(daemon.state_dir)) <= {daemon.state_dir / "secrets" / f"{job_id}.json"}
    daemon.wait_job(job_id, "ended")
    result = requests.get(f"{daemon.url}/api/jobs/{job_id}/results", timeout=30)
    assert SHA256 in result.text
    for wrong in (json.dumps({"LD_X": VALUE}), f'{{"TOKEN": "{VALUE}', json.dumps([VALUE])):
        refused = requests.post(
            f"{daemon.url}/api/jobs", data={**form, "secrets": wrong}, files=files, timeout=30
        )
        assert refused.status_code == 400
        assert "secrets" in refused.text and VALUE not in refused.text
    assert seen(daemon) == []
    assert holding(daemon.state_dir) == []
