"""Secrets of jobs through all that can happen to a job, and where they may never be."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.security.marked import Marked, files_holding, processes_holding, shown

CODE = '''
import hashlib, os, subprocess, sys, time

def digest():
    return hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest()

def succeed():
    print("up", flush=True)
    return digest()

def fail():
    token = os.environ["TOKEN"]
    assert len(token) < 3, "it is longer"

def crash():
    os.kill(os.getpid(), 11)

def go_on(pids):
    """Until it is told to go on, telling its processes."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(json.dumps([os.getpid(), child.pid]), flush=True)
    time.sleep(300)

def retried():
    if os.environ["CUMULUS_ATTEMPT"] == "1":
        os.kill(os.getppid(), 9)  # the runner
        time.sleep(60)
    return digest()

def paused():
    import runtime
    while os.environ["CUMULUS_ATTEMPT"] == "1":
        print("looking", flush=True)
        if runtime.should_pause():
            raise runtime.CooperativePause("later")
        time.sleep(0.05)
    return digest()
'''


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """At its most talkative."""
    daemon = Daemon(tmp_path / "daemon", extra="log: {level: debug}\n")
    try:
        yield daemon.start()
    finally:
        daemon.stop()


def nowhere(daemon: Daemon, *secrets: Marked, but: tuple[int, ...] = ()) -> None:
    """No record, log, answer, process or file has them."""
    assert shown(daemon, secrets) == []
    assert processes_holding(secrets, but) == []
    assert files_holding(daemon.state_dir, secrets) == {}


def sha256(secret: Marked) -> str:
    return hashlib.sha256(secret.value.encode()).hexdigest()


def test_ends_of_every_kind(daemon: Daemon) -> None:
    good, bad, dead, again = (Marked(name) for name in ("good", "bad", "dead", "again"))
    done = daemon.run(
        HEAD
        + CODE
        + f"""
told = {{}}
told["good"] = client.run(succeed, gpu_memory=0.1, duration=60, secrets={{"TOKEN": {good.source}}})
told["again"] = client.run(
    retried, gpu_memory=0.1, duration=60, retries=1, secrets={{"TOKEN": {again.source}}}
)
for name, function, value in (("bad", fail, {bad.source}), ("dead", crash, {dead.source})):
    try:
        client.run(function, gpu_memory=0.1, duration=60, secrets={{"TOKEN": value}})
    except Exception as error:
        print(error, repr(error), error.__cause__, vars(error))
        told[name] = type(error).__name__
print(json.dumps(told))
""",
        timeout_s=120,
    )
    told = last_json(done.stdout)
    assert told["good"] == sha256(good) and told["again"] == sha256(again)
    assert told["bad"] == told["dead"] == "JobFailed"
    said = (done.stdout + done.stderr).encode()
    assert not [one.name for one in (good, bad, dead, again) if one.is_in(said)]
    daemon.wait_nothing_left()
    nowhere(daemon, good, bad, dead, again)


def test_only_the_codes_own_processes_have_them(daemon: Daemon) -> None:
    """And the daemon's one file, until the end; also over the agent's restart."""
    secret = Marked("running")
    process = daemon.begin(
        HEAD
        + CODE
        + f"""
given = {{"TOKEN": {secret.source}}}
job = client.submit(go_on, gpu_memory=0.1, duration=600, args=[0], secrets=given)
print(job.job_id, flush=True)
print(next(iter(job.logs(follow=True))).strip(), flush=True)
"""
    )
    out, err = process.communicate(timeout=60)
    job_id, pids = out.split("\n")[:2]
    own = tuple(json.loads(pids))
    only = {f"secrets/{job_id}.json": ["running"]}
    assert processes_holding([secret]) == [f"{pid} environ: running" for pid in sorted(own)], err
    assert shown(daemon, [secret]) == [] and files_holding(daemon.state_dir, [secret]) == only
    daemon.kill()  # the agent is in it
    assert files_holding(daemon.state_dir, [secret]) == only
    daemon.start()
    daemon.wait_job(job_id, "running")
    assert shown(daemon, [secret]) == [] and files_holding(daemon.state_dir, [secret]) == only
    assert {line.split()[0] for line in processes_holding([secret])} == set(map(str, own))
    daemon.run(HEAD + f"client.cancel_job({job_id!r})\n")
    daemon.wait_job(job_id, "ended", timeout_s=60)
    daemon.wait_nothing_left()
    nowhere(daemon, secret)


def test_a_pause_and_what_follows(daemon: Daemon) -> None:
    secret = Marked("paused")
    done = daemon.run(
        HEAD
        + CODE
        + f"""
job = client.submit(paused, gpu_memory=0.1, duration=60, secrets={{"TOKEN": {secret.source}}})
next(iter(job.logs(follow=True)))
job.pause()
while job.status() != "paused":
    time.sleep(0.05)
print(json.dumps({{"job_id": job.job_id}}))
"""
    )
    job_id = last_json(done.stdout)["job_id"]
    assert files_holding(daemon.state_dir, [secret]) == {f"secrets/{job_id}.json": ["paused"]}
    assert processes_holding([secret]) == [] and shown(daemon, [secret]) == []
    done = daemon.run(
        HEAD
        + f"""
job = client.attach({job_id!r})
job.resume()
print(json.dumps({{"sha256": job.result(timeout=60)}}))
"""
    )
    assert last_json(done.stdout)["sha256"] == sha256(secret)
    daemon.wait_job(job_id, "ended")
    daemon.wait_nothing_left()
    nowhere(daemon, secret)


REFUSALS: list[str] = [
    '{"gpu_memory": 7.0, "duration": 60, "secrets": {"TOKEN": VALUE}}',
    '{"gpu_memory": 0.1, "duration": -1, "secrets": {"TOKEN": VALUE}}',
    '{"gpu_memory": 0.1, "duration": 60, "secrets": {"LD_PRELOAD": VALUE}}',
    '{"gpu_memory": 0.1, "duration": 60, "secrets": {VALUE: "x"}}',
    '{"gpu_memory": 0.1, "duration": 60, "secrets": {"TOKEN": VALUE + chr(0)}}',
    '{"gpu_memory": 0.1, "duration": 60, "secrets": {"TOKEN": VALUE}, "env": {"TOKEN": "x"}}',
    '{"gpu_memory": 0.1, "duration": 60, "secrets": {"TOKEN": VALUE * 5000}}',
    '{"gpu_memory": 0.1, "duration": 60, "secrets": VALUE}',
    '{"gpu_memory": 0.1, "duration": 60, "secrets": {"TOKEN": [VALUE]}}',
]


def test_what_is_refused(daemon: Daemon) -> None:
    secret = Marked("refused")
    done = daemon.run(
        HEAD
        + CODE
        + f"VALUE = {secret.source}\nwrong = [{', '.join(REFUSALS)}]\n"
        + """
for each in wrong:
    try:
        client.submit(succeed, **each)
    except Exception as error:
        print(type(error).__name__, error, repr(error), error.__cause__, vars(error))
    else:
        print("TAKEN", sorted(each))
""",
        timeout_s=120,
    )
    assert "TAKEN" not in done.stdout
    assert not secret.is_in((done.stdout + done.stderr).encode()), done.stdout
    # The same past the client's own checks: by the session itself.
    done = daemon.run(
        HEAD
        + f"VALUE = {secret.source}\nwrong = [{', '.join(REFUSALS)}]\n"
        + """
from cumulus_wire import uris
for each in wrong + [{"secrets": {"TOKEN": VALUE}, VALUE: 1}, {"name": [VALUE], "secrets": VALUE}]:
    try:
        client._call(client._core.connection.call(uris.JOB_SUBMIT, each))
    except Exception as error:
        print(type(error).__name__, error, repr(error), vars(error))
    else:
        print("TAKEN", sorted(each))
""",
        timeout_s=120,
    )
    assert "TAKEN" not in done.stdout
    nowhere(daemon, secret)
