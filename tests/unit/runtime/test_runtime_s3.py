"""Checkpoints and artifacts on S3: boto3 against a server that checks signatures and rights."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_kit import Job

from tests.s3_server import BUCKET, S3Server, s3_server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(running: S3Server, job: Job) -> S3Server:
    running.clear()
    job.variables.update(running.variables, CUMULUS_S3_PREFIX="pool/i-1/")
    return running


HEAD = """
import json, os, runtime
def save(step, **more):
    return runtime.save_checkpoint({"step": step}, framework="sklearn", step=step, **more)
def say(*values):
    print(json.dumps(values))
"""
PLACE = "pool/i-1/job_1/"


def test_a_checkpoint_is_here_and_there(job: Job, s3: S3Server) -> None:
    [told, path, listed] = job.run(
        HEAD + "say(save(3), runtime.find_latest_checkpoint(), runtime.list_checkpoints())"
    )
    key = PLACE + "checkpoints/ckpt_0_3.pkl"
    assert told == {
        "local_path": str(job.checkpoints / "ckpt_0_3.pkl"),
        "s3_key": key,
        "checkpoint_id": "ckpt_0_3",
    }
    assert path == told["local_path"]
    assert [one["s3_key"] for one in listed] == [key] == [one["s3_key"] for one in job.index()]
    assert s3.keys() == [key, PLACE + "checkpoints/index.json"]


def elsewhere(job: Job, folder: Path) -> Job:
    """The same job on another worker."""
    other = Job(folder)
    other.variables = {**job.variables, **other.variables}
    return other


def test_on_another_worker_the_newest_is_fetched(job: Job, s3: S3Server, tmp_path: Path) -> None:
    job.run(HEAD + "save(1); save(2, extra={'best': 0.25}, epoch=4); say()")
    other = elsewhere(job, tmp_path / "other")
    latest, found, listed, after = other.run(
        HEAD
        + """
latest = runtime.find_latest_checkpoint()
found = runtime.load_checkpoint()
listed = [(c["filename"], c["path"]) for c in runtime.list_checkpoints()]
say(latest, found, listed, save(5)["checkpoint_id"])
"""
    )
    assert latest == f"s3://{BUCKET}/{PLACE}checkpoints/ckpt_4_2.pkl"
    assert found["state"] == {"step": 2} and found["extra"] == {"best": 0.25}
    assert (found["epoch"], found["step"], found["framework"]) == (4, 2, "sklearn")
    assert found["local_path"] == str(other.checkpoints / "ckpt_4_2.pkl")
    assert listed == [
        ["ckpt_4_2.pkl", str(other.checkpoints / "ckpt_4_2.pkl")],
        ["ckpt_0_1.pkl", str(other.checkpoints / "ckpt_0_1.pkl")],
    ]
    assert after == "ckpt_0_5"
    assert [one["step"] for one in other.index()] == [1, 2, 5], "the runner sees all of them"


def test_what_goes_goes_there_too(job: Job, s3: S3Server, tmp_path: Path) -> None:
    job.variables["CUMULUS_KEEP_CHECKPOINTS"] = "2"
    job.run(HEAD + "save(1); save(2); say()")
    other = elsewhere(job, tmp_path / "other")
    other.run(HEAD + "save(3); say()")
    assert s3.keys() == [
        PLACE + f"checkpoints/{name}" for name in ("ckpt_0_2.pkl", "ckpt_0_3.pkl", "index.json")
    ]


def test_without_its_index_names_are_enough(job: Job, s3: S3Server, tmp_path: Path) -> None:
    job.run(HEAD + "save(7, epoch=2); say()")
    client = s3.client()
    client.put_object(Bucket=BUCKET, Key=PLACE + "checkpoints/index.json", Body=b"{}")
    client.close()
    done = elsewhere(job, tmp_path / "other").process(
        HEAD + "found = runtime.load_checkpoint(); say(found['epoch'], found['step'])"
    )
    assert json.loads(done.stdout) == [2, 7], done.stderr
    assert "index.json can't be read" in done.stderr


def test_another_job_s_checkpoint_by_its_address(job: Job, s3: S3Server) -> None:
    job.run(HEAD + "save(7); say()")
    address = f"s3://{BUCKET}/{PLACE}checkpoints/ckpt_0_7.pkl"
    other = elsewhere(job, job.folder.parent / "other")
    other.variables["CUMULUS_JOB_ID"] = "job_2"
    [state, step, own] = other.run(
        HEAD
        + "save(7); save(8)\n"
        + f"found = runtime.load_checkpoint(checkpoint_path={address!r})\n"
        "say(found['state'], found['step'], runtime.list_checkpoints()[0]['step'])"
    )
    assert (state, step, own) == ({"step": 7}, 7, 8)


def test_what_was_altered_there_isn_t_taken(job: Job, s3: S3Server, tmp_path: Path) -> None:
    job.run(HEAD + "save(1); say()")
    client = s3.client()
    key = PLACE + "checkpoints/ckpt_0_1.pkl"
    about = client.head_object(Bucket=BUCKET, Key=key)["Metadata"]
    client.put_object(Bucket=BUCKET, Key=key, Body=b"other", Metadata=about)
    client.close()
    other = elsewhere(job, tmp_path / "other")
    done = other.process(HEAD + "runtime.load_checkpoint()")
    assert "S3Error: what came of s3://" in done.stderr and "isn't what was stored" in done.stderr
    assert not list(other.checkpoints.glob("*ckpt*"))


def test_a_key_without_rights_leaves_it_local_and_says_so(job: Job, s3: S3Server) -> None:
    job.variables["CUMULUS_S3_BUCKET"] = "somebody-else-s"
    done = job.process(HEAD + "say(save(1))")
    [told] = json.loads(done.stdout)
    assert told["s3_key"] is None and Path(told["local_path"]).is_file()
    assert "can't store s3://somebody-else-s/" in done.stderr
    assert "on this worker only" in done.stderr
    assert job.index()[0]["s3_key"] is None
    refused = job.process(HEAD + "runtime.get_artifact_store().save_artifact_bytes('a', b'1')")
    assert "S3Error: can't store s3://somebody-else-s/" in refused.stderr


def test_an_s3_that_is_away_is_not_waited_for_for_ever(job: Job, s3: S3Server) -> None:
    job.variables["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    done = job.process(HEAD + "say(save(1)['s3_key'])")
    assert json.loads(done.stdout) == [None]
    assert "can't store" in done.stderr


WITHOUT_BOTO3 = """
import sys
sys.modules["boto3"] = None  # as where it isn't installed
"""


def test_without_boto3_it_says_what_to_add(job: Job, s3: S3Server) -> None:
    done = job.process(
        WITHOUT_BOTO3 + HEAD + "save(1); save(2)\n"
        "both = runtime.get_checkpointer(), runtime.get_artifact_store()\n"
        "say(*[type(one).__name__ for one in both])"
    )
    assert json.loads(done.stdout) == ["Checkpointer", "LocalArtifactStore"], done.stderr
    assert done.stderr.count("add 'boto3' to the job's requirements") == 1
    for call in ("get_distributed_checkpointer()", "S3ArtifactStore()"):
        asked = job.process(WITHOUT_BOTO3 + HEAD + f"runtime.{call}")
        assert "S3Error: S3 needs boto3 in the job" in asked.stderr
    assert s3.keys() == []


def test_the_local_one_can_be_asked_for(job: Job, s3: S3Server) -> None:
    told = job.run(
        HEAD
        + "say(save(1, use_distributed=False)['s3_key'],"
        + " type(runtime.get_checkpointer(use_distributed=False)).__name__,"
        + " type(runtime.get_artifact_store(use_distributed=False)).__name__)"
    )
    assert told == [None, "Checkpointer", "LocalArtifactStore"]
    assert s3.keys() == []


def test_a_bucket_of_the_code_s_own(job: Job, s3: S3Server) -> None:
    own = {name: job.variables.pop(name) for name in s3.variables}
    arguments = (
        f"s3_bucket={own['CUMULUS_S3_BUCKET']!r}, s3_region={own['CUMULUS_S3_REGION']!r}, "
        f"endpoint_url={own['AWS_ENDPOINT_URL']!r}, "
        f"aws_access_key_id={own['AWS_ACCESS_KEY_ID']!r}, "
        f"aws_secret_access_key={own['AWS_SECRET_ACCESS_KEY']!r}"
    )
    told = job.run(
        HEAD + f"say(save(1, {arguments})['s3_key'], runtime.get_distributed_checkpointer())"
    )
    assert told == [PLACE + "checkpoints/ckpt_0_1.pkl", None]


def test_artifacts_are_found_from_another_worker(job: Job, s3: S3Server, tmp_path: Path) -> None:
    told = job.run(
        HEAD
        + """
store = runtime.get_artifact_store()
open("plot.svg", "w").write("<svg>")
one = store.save_artifact_file("plots/a.svg", "plot.svg")
save(1)
store.save_artifact_bytes("b", b"12")
say(one, store.list_artifacts())
"""
    )
    key = PLACE + "artifacts/plots/a.svg"
    assert told[0] == {"local_path": f"{job.temporary}/artifacts/job_1/plots/a.svg", "s3_key": key}
    assert not (job.kept / "artifacts").exists(), "that would bind a paused job to its worker"
    assert {one["name"]: one["source"] for one in told[1]} == {
        "plots/a.svg": "L1 (local)",
        "b": "L1 (local)",
    }
    other = elsewhere(job, tmp_path / "other")
    listed, data, copied, missing = other.run(
        HEAD
        + """
store = runtime.S3ArtifactStore()
listed = store.list_artifacts("plots/")
data = store.load_artifact_bytes("b").decode()
copied = open(store.load_artifact_to_path("plots/a.svg", "copy.svg")).read()
try:
    store.load_artifact_bytes("c")
except FileNotFoundError as error:
    missing = str(error)
say(listed, data, copied, missing)
"""
    )
    [one] = listed
    assert (one["name"], one["path"]) == ("plots/a.svg", f"s3://{BUCKET}/{key}")
    assert one["source"] == "L2 (S3)" and one["timestamp"] > 1.7e9
    assert (data, copied) == ("12", "<svg>")
    assert missing == f"nothing is at s3://{BUCKET}/{PLACE}artifacts/c"


def test_a_large_file_is_stored_in_parts_and_comes_back_whole(job: Job, s3: S3Server) -> None:
    told = job.run(
        HEAD
        + """
import hashlib
data = os.urandom(20 << 20)
store = runtime.S3ArtifactStore()
path = store.save_artifact_bytes("large", data)["local_path"]
os.unlink(path)
say(hashlib.sha256(store.load_artifact_bytes("large")).hexdigest()
    == hashlib.sha256(data).hexdigest())
"""
    )
    assert told == [True]


def test_automatic_checkpoints_go_on_on_another_worker(
    job: Job, s3: S3Server, tmp_path: Path
) -> None:
    source = """
import json, os, runtime
manager = runtime.get_auto_checkpoint_manager()
import numpy, xgboost
chance = numpy.random.default_rng(5)
x = chance.normal(size=(100, 3))
data = xgboost.DMatrix(x, label=(x[:, 0] > 0).astype(int))
class At(xgboost.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        if epoch == AT:
            open(os.environ["CUMULUS_CONTROL_DIR"] + "/pause", "w").close()
        return False
try:
    model = xgboost.train({"verbosity": 0}, data, 9, callbacks=[At()])
    print(json.dumps([model.num_boosted_rounds(), manager.framework_state["xgboost"]["resumed"]]))
except runtime.CooperativePause as pause:
    print(json.dumps(str(pause)))
"""
    assert job.run(source.replace("AT:", "3:")) == "paused after step 4 of xgboost"
    other = elsewhere(job, tmp_path / "other")
    assert other.run(source.replace("AT:", "-1:")) == [9, True]
