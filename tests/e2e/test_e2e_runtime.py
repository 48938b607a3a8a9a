"""`runtime` in real jobs of the local platform: checkpoints, artifacts, pauses; S3 and without."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import JOB_PYTHON, Daemon
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.s3_server import BUCKET, REGION, S3Server, s3_server

MakeDaemon = Callable[..., Daemon]

CODE = """
def train(steps, more=None):
    # Until `steps`; a second attempt makes `more` of them.
    import os, time, runtime
    state = {"step": 0, "attempts": []}
    if runtime.find_latest_checkpoint():
        state = runtime.load_checkpoint()["state"]
    state["attempts"].append(int(os.environ["CUMULUS_ATTEMPT"]))
    if more is not None and len(state["attempts"]) > 1:
        steps = state["step"] + more
    runtime.get_artifact_store().save_artifact_bytes("notes/first.txt", b"kept")
    while state["step"] < steps:
        state["step"] += 1
        print("step", state["step"], flush=True)
        runtime.progress(state["step"] / steps, f"step {state['step']}")
        pausing = runtime.should_pause()
        if state["step"] % 5 == 0 or pausing:
            runtime.save_checkpoint(state, framework="sklearn", step=state["step"])
        if pausing:
            return "paused"
        time.sleep(0.02)
    names = [one["name"] for one in runtime.get_artifact_store().list_artifacts()]
    key = os.environ.get("AWS_SECRET_ACCESS_KEY")
    return {**state, "artifacts": names, "s3": key is not None,
            "last": runtime.get_last_checkpoint_info()}
"""


def test_a_job_saves_lists_and_tells(daemon: Daemon) -> None:
    told = last_json(
        daemon.run(
            HEAD
            + CODE
            + """
job = client.submit(train, args=[12], duration=60)
value = job.result(timeout=60)
print(json.dumps({"value": value, "checkpoints": job.get_checkpoints()}))
"""
        ).stdout
    )
    value, checkpoints = told["value"], told["checkpoints"]
    assert (value["step"], value["attempts"], value["artifacts"]) == (12, [1], ["notes/first.txt"])
    assert value["s3"] is False and value["last"]["checkpoint_id"] == "ckpt_0_10"
    shown = [(c["filename"], c["step"], c["framework"], c.get("s3_key")) for c in checkpoints]
    assert sorted(shown) == [
        ("ckpt_0_10.pkl", 10, "sklearn", None),
        ("ckpt_0_5.pkl", 5, "sklearn", None),
    ]


def test_automatic_checkpoints_are_shown_too(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    # Its jobs have this environment's XGBoost, rather than install one.
    daemon.config.write_text(daemon.config.read_text().replace(str(JOB_PYTHON), sys.executable))
    daemon.start()
    told = last_json(
        daemon.run(
            HEAD
            + """
def boost():
    import numpy, xgboost
    x = numpy.arange(40.0).reshape(20, 2)
    data = xgboost.DMatrix(x, label=(x[:, 0] > 20).astype(int))
    return xgboost.train({"verbosity": 0}, data, 7).num_boosted_rounds()

env = {"CUMULUS_AUTO_CHECKPOINT": "1", "CUMULUS_CHECKPOINT_EVERY_STEPS": "3"}
job = client.submit(boost, duration=60, env=env)
rounds = job.result(timeout=60)
print(json.dumps({"rounds": rounds, "checkpoints": job.get_checkpoints()}))
"""
        ).stdout
    )
    assert told["rounds"] == 7
    found = {(one["step"], one["framework"]) for one in told["checkpoints"]}
    assert found == {(3, "xgboost"), (6, "xgboost"), (7, "xgboost")}


def test_a_job_that_hears_of_a_pause_goes_on_from_its_checkpoint(daemon: Daemon) -> None:
    script = HEAD + CODE
    job_id = daemon.run(
        script + "print(client.submit(train, args=[9999, 10], duration=300).job_id)"
    ).stdout.split()[-1]
    daemon.wait_steps(job_id, 7)
    daemon.run(script + f"client.pause_job({job_id!r})")
    view = daemon.wait_job(job_id, "paused")
    assert view["checkpoint_count"] >= 2
    done = daemon.steps_of(job_id)
    daemon.run(script + f"client.resume_job({job_id!r})")
    told = last_json(
        daemon.run(
            script + f"print(json.dumps(client.attach({job_id!r}).result(timeout=60)))"
        ).stdout
    )
    assert told["attempts"] == [1, 2]
    assert told["artifacts"] == ["notes/first.txt"], "kept over the pause"
    assert daemon.steps_of(job_id) == list(range(1, len(done) + 11))


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def with_s3(make_daemon: MakeDaemon, s3: S3Server) -> Daemon:
    """A daemon that has S3 configured, and jobs that have boto3."""
    s3.clear()
    daemon = make_daemon(
        extra=f"s3: {{bucket: {BUCKET}, region: {REGION}, endpoint_url: '{s3.url}', "
        "prefix: lab/}\nlog: {level: debug}\n"
    )
    daemon.config.write_text(daemon.config.read_text().replace(str(JOB_PYTHON), sys.executable))
    daemon.environment = {
        "CUMULUSD_S3_ACCESS_KEY": s3.access_key,
        "CUMULUSD_S3_SECRET_KEY": s3.secret_key,
    }
    return daemon.start()


def wait_keys(s3: S3Server, met: Callable[[list[str]], bool], daemon: Daemon) -> list[str]:
    deadline = time.monotonic() + 60
    while not met(keys := s3.keys()):
        assert time.monotonic() < deadline, (keys, daemon.log_text()[-3000:])
        time.sleep(0.1)
    return keys


def places(keys: list[str], job_id: str) -> list[str]:
    """What that job has, below `lab/<instance>/<job id>/`."""
    return [key.split("/", 3)[3] for key in keys if key.split("/")[2] == job_id]


def test_on_s3_a_paused_job_goes_on_anywhere_and_deleting_it_removes_all(
    make_daemon: MakeDaemon, s3: S3Server
) -> None:
    daemon = with_s3(make_daemon, s3)
    script = HEAD + CODE
    job_id = daemon.run(
        script + "print(client.submit(train, args=[9999, 10], duration=300).job_id)"
    ).stdout.split()[-1]
    daemon.wait_steps(job_id, 7)
    daemon.run(script + f"client.pause_job({job_id!r})")
    daemon.wait_job(job_id, "paused")
    found = places(s3.keys(), job_id)
    done = len(daemon.steps_of(job_id))
    assert {f"checkpoints/ckpt_0_{done}.pkl", "checkpoints/index.json"} < set(found)
    assert "artifacts/notes/first.txt" in found
    # As on another worker: nothing is left here of what it kept.
    shutil.rmtree(daemon.state_dir / "worker" / "kept" / job_id)
    daemon.run(script + f"client.resume_job({job_id!r})")
    told = last_json(
        daemon.run(
            script + f"print(json.dumps(client.attach({job_id!r}).result(timeout=60)))"
        ).stdout
    )
    assert (told["step"], told["attempts"], told["s3"]) == (done + 10, [1, 2], True)
    assert f"{job_id}/checkpoints/ckpt_0_" in told["last"]["s3_key"]
    assert daemon.steps_of(job_id) == list(range(1, done + 11))
    daemon.wait_job(job_id, "ended")
    assert places(s3.keys(), job_id), "a job that completed keeps its own as long as history"
    assert_hidden(daemon, s3)
    daemon.run(script + f"client.delete_job({job_id!r})")
    wait_keys(s3, lambda keys: not places(keys, job_id), daemon)


def test_cancelling_removes_checkpoints_and_what_was_missed_goes_at_the_next_start(
    make_daemon: MakeDaemon, s3: S3Server
) -> None:
    daemon = with_s3(make_daemon, s3)
    script = HEAD + CODE
    first, second = (
        daemon.run(
            script + "print(client.submit(train, args=[9999], gpu_memory=0.3).job_id)"
        ).stdout.split()[-1]
        for _ in range(2)
    )
    for job_id in (first, second):
        daemon.wait_steps(job_id, 6)
    daemon.run(script + f"client.cancel_job({first!r})")
    daemon.wait_job(first, "ended")
    keys = wait_keys(s3, lambda keys: places(keys, first) == ["artifacts/notes/first.txt"], daemon)
    assert "checkpoints/index.json" in places(keys, second), "another job's aren't touched"
    daemon.run(script + f"client.cancel_job({second!r})")
    daemon.kill()
    daemon.start()
    daemon.wait_job(second, "ended")
    wait_keys(s3, lambda keys: places(keys, second) == ["artifacts/notes/first.txt"], daemon)
    assert_hidden(daemon, s3)


def test_a_job_with_a_bucket_of_its_own_is_told_nothing_of_ours(
    make_daemon: MakeDaemon, s3: S3Server
) -> None:
    daemon = with_s3(make_daemon, s3)
    told = last_json(
        daemon.run(
            HEAD
            + """
def look():
    import os
    return {name: os.environ[name] for name in os.environ if name.startswith(("AWS", "CUMULUS_S3"))}
print(json.dumps(client.run(look, duration=60, env={"CUMULUS_S3_BUCKET": "mine"})))
"""
        ).stdout
    )
    assert told == {"CUMULUS_S3_BUCKET": "mine"}


def assert_hidden(daemon: Daemon, s3: S3Server) -> None:
    """The key is in no file of the daemon's or the worker's, and nowhere in what it shows."""
    secret = s3.secret_key.encode()
    for path in Path(daemon.state_dir).rglob("*"):
        try:
            if path.is_file():
                assert secret not in path.read_bytes(), path
        except FileNotFoundError:
            continue  # it went meanwhile
    shown = daemon.log_text() + json.dumps(daemon.jobs())
    assert s3.secret_key not in shown
