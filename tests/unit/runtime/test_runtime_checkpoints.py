"""Checkpoints: whole or not there, listed, bounded, found again; for each framework as it is."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy
import pytest
import runtime
import xgboost
from runtime import _files as files
from runtime import _formats as formats
from runtime_kit import Job
from sklearn.linear_model import LogisticRegression

CHANCE = numpy.random.default_rng(3)
X = CHANCE.normal(size=(200, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


def fitted() -> LogisticRegression:
    return LogisticRegression().fit(X, Y)


def test_what_is_saved_is_told_listed_and_loaded(job: Job) -> None:
    assert runtime.find_latest_checkpoint() is None
    assert runtime.list_checkpoints() == []
    model = fitted()
    told = runtime.save_checkpoint(model, epoch=2, step=40, extra={"best": 0.5})
    path = str(job.checkpoints / "ckpt_2_40.pkl")
    assert told == {"local_path": path, "s3_key": None, "checkpoint_id": "ckpt_2_40"}
    assert runtime.get_last_checkpoint_info() == told
    [entry] = runtime.list_checkpoints()
    assert entry["timestamp"] > 1.7e9
    assert {key: entry[key] for key in entry if key != "timestamp"} == {
        "filename": "ckpt_2_40.pkl",
        "path": path,
        "epoch": 2,
        "step": 40,
        "framework": "sklearn",
        "size_bytes": os.path.getsize(path),
        "s3_key": None,
    }
    assert runtime.find_latest_checkpoint() == path
    loaded = runtime.load_checkpoint()
    assert (loaded["local_path"], loaded["framework"]) == (path, "sklearn")
    assert (loaded["epoch"], loaded["step"], loaded["extra"]) == (2, 40, {"best": 0.5})
    assert (loaded["state"].coef_ == model.coef_).all()


@pytest.mark.parametrize("wanted", ["ckpt_0_1", "ckpt_0_1.pkl", "PATH"])
def test_one_of_several_is_loaded_by_id_name_or_path(job: Job, wanted: str) -> None:
    first, second = fitted(), LogisticRegression(C=0.01).fit(X, Y)
    path = runtime.save_checkpoint(first, step=1)["local_path"]
    runtime.save_checkpoint(second, step=2)
    asked = path if wanted == "PATH" else wanted
    found = runtime.load_checkpoint(checkpoint_path=asked)["state"]
    assert (found.coef_ == first.coef_).all()
    assert (runtime.load_checkpoint()["state"].coef_ == second.coef_).all()


def test_xgboost_both_interfaces(job: Job) -> None:
    booster = xgboost.train({"verbosity": 0}, xgboost.DMatrix(X, label=Y), num_boost_round=4)
    assert runtime.save_checkpoint(booster, step=4)["local_path"].endswith("ckpt_0_4.json")
    loaded = runtime.load_checkpoint()
    assert loaded["framework"] == "xgboost"
    assert loaded["state"].num_boosted_rounds() == 4
    data = xgboost.DMatrix(X)
    assert (loaded["state"].predict(data) == booster.predict(data)).all()

    model = xgboost.XGBClassifier(n_estimators=3).fit(X, Y)
    runtime.save_checkpoint(model, step=5)
    again = xgboost.XGBClassifier()
    assert runtime.load_checkpoint(again)["state"] is again
    assert (again.predict_proba(X) == model.predict_proba(X)).all()


def test_lightgbm_both_interfaces_keep_every_tree(job: Job) -> None:
    parameters = {"verbosity": -1, "objective": "binary"}
    booster = lightgbm.train(parameters, lightgbm.Dataset(X, label=Y), num_boost_round=6)
    booster.best_iteration = 2  # as early stopping leaves it
    assert runtime.save_checkpoint(booster, step=6)["local_path"].endswith("ckpt_0_6.txt")
    loaded = runtime.load_checkpoint()
    assert loaded["framework"] == "lightgbm"
    assert loaded["state"].num_trees() == 6
    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(X, Y)
    runtime.save_checkpoint(model, step=7)
    assert runtime.load_checkpoint()["state"].num_trees() == 3
    into = lightgbm.Booster(model_str=booster.model_to_string())
    assert runtime.load_checkpoint(into)["state"] is into
    assert into.num_trees() == 3


def test_an_estimator_takes_over_what_was_saved_and_no_other_kind_does(job: Job) -> None:
    model = fitted()
    runtime.save_checkpoint(model)
    again = LogisticRegression(C=7.0)
    assert runtime.load_checkpoint(again)["state"] is again
    assert (again.coef_ == model.coef_).all() and again.C == model.C
    from sklearn.tree import DecisionTreeClassifier

    with pytest.raises(TypeError, match="holds a LogisticRegression, not a DecisionTree"):
        runtime.load_checkpoint(DecisionTreeClassifier())


def test_an_unknown_object_is_refused_with_what_can_be_done(job: Job) -> None:
    with pytest.raises(TypeError, match=r"builtins\.dict.*framework=.*sklearn"):
        runtime.save_checkpoint({"weights": 1})
    with pytest.raises(ValueError, match="no framework 'caffe'; known: pytorch, tensorflow"):
        runtime.save_checkpoint({}, framework="caffe")
    runtime.save_checkpoint({"weights": 1}, framework="scikit-learn", step=3)
    assert runtime.load_checkpoint()["state"] == {"weights": 1}
    assert runtime.load_checkpoint()["step"] == 3


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("torch.nn.modules.module",), "pytorch"),
        (("mine", "torch.nn.modules.module"), "pytorch"),
        (("keras.src.models.model",), "tensorflow"),
        (("tensorflow.python.keras",), "tensorflow"),
        (("xgboost.sklearn", "sklearn.base"), "xgboost"),
        (("lightgbm.sklearn", "sklearn.base"), "lightgbm"),
        (("mine", "sklearn.base"), "sklearn"),
    ],
)
def test_the_framework_is_the_nearest_base_s(kinds: tuple[str, ...], expected: str) -> None:
    base: type = object
    for module in reversed(kinds):
        base = type("Model", (base,), {"__module__": module})
    assert formats.of_objects(base()).framework == expected


def test_loading_nothing_says_where_it_looked(job: Job) -> None:
    with pytest.raises(FileNotFoundError, match=f"looked for in {job.checkpoints}"):
        runtime.load_checkpoint()
    runtime.save_checkpoint(fitted(), step=1)
    with pytest.raises(FileNotFoundError, match="'ckpt_0_9' was looked for"):
        runtime.load_checkpoint(checkpoint_path="ckpt_0_9")


def test_only_the_newest_are_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUMULUS_KEEP_CHECKPOINTS", "2")
    saver = runtime.Checkpointer("best.pkl")
    saver.save(fitted(), step=0)
    for step in range(1, 5):
        runtime.save_checkpoint(fitted(), step=step)
    files = sorted(path.name for path in job.checkpoints.glob("*.pkl"))
    assert files == ["best.pkl", "ckpt_0_3.pkl", "ckpt_0_4.pkl"], "a named one isn't replaced"
    assert [entry["filename"] for entry in job.index()] == files
    assert runtime.Checkpointer("best.pkl").exists()
    assert not runtime.Checkpointer("other.pkl").exists()


def test_by_size_all_but_the_newest_may_go(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUMULUS_CACHE_SIZE_LIMIT_GB", "0.000000001")
    for step in (1, 2, 3):
        runtime.save_checkpoint(fitted(), step=step)
    assert [entry["step"] for entry in job.index()] == [3]


def test_nothing_is_removed_where_that_is_off(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUMULUS_AUTO_CLEANUP", "false")
    for step in range(25):
        runtime.save_checkpoint({"step": step}, framework="sklearn", step=step)
    assert len(list(job.checkpoints.glob("ckpt_*"))) == 25
    assert [entry["step"] for entry in job.index()] == list(range(5, 25)), "the contract's bound"


def test_a_setting_that_is_no_number_is_said(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUMULUS_KEEP_CHECKPOINTS", "many")
    with pytest.raises(ValueError, match=r"CUMULUS_KEEP_CHECKPOINTS must be a number.*'many'"):
        runtime.save_checkpoint(fitted())


class Unwritable:
    """Breaks off in the middle of being written."""

    def __reduce__(self) -> Any:
        raise RuntimeError("the disk, say")


def test_a_write_that_breaks_off_leaves_the_file_of_before(job: Job) -> None:
    saver = runtime.Checkpointer("state.pkl")
    saver.save({"round": 1}, framework="sklearn")
    with pytest.raises(RuntimeError, match="the disk, say"):
        saver.save({"round": 2, "more": Unwritable()}, framework="sklearn")
    assert saver.load() == {"round": 1}
    assert sorted(os.listdir(job.checkpoints)) == [".lock", "index.json", "state.pkl"]


def test_a_draft_of_a_process_that_was_killed_goes_with_the_next_save(job: Job) -> None:
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    (job.checkpoints / ".draft-999999999-aa-ckpt_0_1.pkl").write_bytes(b"half")
    # Of an attempt before this one, in a container: its process had the number of this one.
    (job.checkpoints / f".draft-{os.getpid()}-aa-ckpt_0_2.pkl").write_bytes(b"half")
    others = job.checkpoints / f".draft-{os.getppid()}-aa-ckpt_0_3.pkl"
    others.write_bytes(b"half")
    with files.replacing(str(job.checkpoints / "ckpt_0_4.pkl")) as mine:
        Path(mine).write_bytes(b"half")
        runtime.save_checkpoint(fitted())
        left = {str(path) for path in job.checkpoints.glob(".draft-*")}
    assert left == {str(others), mine}
    assert not files._open


def test_a_damaged_index_is_said_and_made_anew(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime.save_checkpoint(fitted(), epoch=1, step=7)
    (job.checkpoints / "index.json").write_text('{"checkpoints": 5}')
    [entry] = runtime.list_checkpoints()
    assert (entry["epoch"], entry["step"], entry["framework"]) == (1, 7, "sklearn")
    assert "index.json can't be read" in capsys.readouterr().err
    runtime.save_checkpoint(fitted(), epoch=1, step=8)
    assert [one["step"] for one in job.index()] == [7, 8]


def test_what_the_index_can_t_hold_is_left_out_of_it(job: Job) -> None:
    runtime.save_checkpoint(fitted(), step=1, extra={"object": object})
    runtime.save_checkpoint(fitted(), step=2, extra={"text": "x" * 5000})
    runtime.save_checkpoint(fitted(), step=3, extra={"loss": float("nan")})
    assert [entry.get("extra") for entry in job.index()] == [None, None, None]
    assert runtime.load_checkpoint()["extra"] == {}


def test_a_path_of_the_code_s_own_is_written_but_not_listed(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "model.pkl"
    saver = runtime.Checkpointer(str(path))
    assert not saver.exists()
    assert saver.save(fitted()) == str(path)
    assert saver.exists() and saver.load().coef_ is not None
    assert runtime.list_checkpoints() == []
    assert runtime.load_checkpoint(checkpoint_path=str(path))["framework"] == "sklearn"


def test_it_is_time_by_steps_or_seconds(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("runtime._checkpoints.time.monotonic", lambda: now[0])
    saver = runtime.Checkpointer()
    assert [saver.time_to_checkpoint(step, every_steps=3) for step in range(4)] == [
        *(False, False, False),
        True,
    ]
    assert not saver.time_to_checkpoint(1, every_seconds=10)
    now[0] += 10
    assert saver.time_to_checkpoint(1, every_seconds=10)
    saver.save_checkpoint(fitted())
    assert not saver.time_to_checkpoint(1, every_seconds=10)
    assert saver.time_to_checkpoint(100) and not saver.time_to_checkpoint(99)
    monkeypatch.setenv("CUMULUS_CHECKPOINT_EVERY_STEPS", "7")
    assert saver.time_to_checkpoint(7) and not saver.time_to_checkpoint(100)
    monkeypatch.setenv("CUMULUS_CHECKPOINT_EVERY_SECONDS", "60")
    now[0] += 60
    assert saver.time_to_checkpoint(1)


def test_outside_of_a_job_it_works_here(no_job: Path) -> None:
    assert runtime.job_dir() == str(no_job)
    runtime.save_checkpoint(fitted(), step=1)
    assert (no_job / "checkpoints" / "ckpt_0_1.pkl").is_file()
    assert runtime.output_dir() == str(no_job / "outputs")
    assert not runtime.should_pause()
    runtime.progress(0.5, "nobody listens")


def test_processes_that_save_at_once_lose_no_entry(job: Job) -> None:
    source = """
import runtime, os, sys
for n in range(10):
    runtime.save_checkpoint({"n": n}, framework="sklearn", epoch=int(sys.argv[1]), step=n)
"""
    environment = {**os.environ, **job.variables, "CUMULUS_KEEP_CHECKPOINTS": "20"}
    environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(runtime.__file__))
    running = [
        subprocess.Popen([sys.executable, "-c", source, str(n)], env=environment) for n in (1, 2)
    ]
    assert [one.wait(60) for one in running] == [0, 0]
    assert {(one["epoch"], one["step"]) for one in job.index()} == {
        (epoch, step) for epoch in (1, 2) for step in range(10)
    }
