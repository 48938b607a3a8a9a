"""Automatic checkpoints: hooks in the real frameworks, in a process of their own for each test."""

import json
from typing import Any

import pytest
from runtime_kit import Job

HEAD = """
import json, os, runtime
manager = runtime.get_auto_checkpoint_manager()
import numpy
chance = numpy.random.default_rng(5)
x = chance.normal(size=(200, 4))
y = (x[:, 0] + x[:, 1] > 0).astype(int)

def say(*values):
    print(json.dumps([*values, [[c["framework"], c["step"]] for c in runtime.list_checkpoints()]]))
"""
XGBOOST = """
import xgboost
def train(rounds=20, **more):
    data = xgboost.DMatrix(x, label=y)
    return xgboost.train({"verbosity": 0}, data, num_boost_round=rounds, **more)
def rounds(model): return model.num_boosted_rounds()
"""
XGB_MODEL = """
import xgboost
def train(rounds=20):
    return xgboost.XGBClassifier(n_estimators=rounds, verbosity=0).fit(x, y)
def rounds(model): return model.get_booster().num_boosted_rounds()
"""
LIGHTGBM = """
import lightgbm
def train(rounds=20):
    given = {"verbosity": -1, "objective": "binary"}
    return lightgbm.train(given, lightgbm.Dataset(x, label=y), num_boost_round=rounds)
def rounds(model): return model.num_trees()
"""
LGB_MODEL = """
import lightgbm
def train(rounds=20):
    return lightgbm.LGBMClassifier(n_estimators=rounds, verbose=-1).fit(x, y)
def rounds(model): return model.booster_.num_trees()
"""
BOOSTERS = pytest.mark.parametrize(
    ("framework", "source"),
    [
        ("xgboost", XGBOOST),
        ("xgboost", XGB_MODEL),
        ("lightgbm", LIGHTGBM),
        ("lightgbm", LGB_MODEL),
    ],
    ids=["xgboost", "xgboost-sklearn", "lightgbm", "lightgbm-sklearn"],
)
EVERY_6 = {"CUMULUS_CHECKPOINT_EVERY_STEPS": "6"}


@BOOSTERS
def test_boosters_are_saved_every_so_many_rounds_and_at_the_end(
    job: Job, framework: str, source: str
) -> None:
    rounds, status, state, saved = job.run(
        HEAD + source + "say(rounds(train()), manager.get_framework_status(), "
        "manager.framework_state, )",
        **EVERY_6,
    )
    assert rounds == 20
    assert [step for kind, step in saved if kind == framework] == [20, 18, 12, 6]
    assert status[framework] == "ok" and status["pytorch"] == "not imported yet"
    assert state[framework]["step"] == 20 and state[framework]["resumed"] is False


#: Asks for the pause as the runner does, in round 8.
PAUSE_AT_8 = """
real = manager.stepped
def stepped(framework, step, save, **about):
    if step == 8:
        open(os.environ["CUMULUS_CONTROL_DIR"] + "/pause", "w").close()
    real(framework, step, save, **about)
manager.stepped = stepped
try:
    train()
    outcome = "returned"
except runtime.CooperativePause as pause:
    outcome = str(pause)
say(outcome)
"""


@BOOSTERS
def test_a_pause_saves_and_the_next_run_trains_only_what_is_left(
    job: Job, framework: str, source: str
) -> None:
    outcome, saved = job.run(HEAD + source + PAUSE_AT_8)
    assert outcome == f"paused after step 8 of {framework}"
    assert saved == [[framework, 8]] and job.pause_seen
    (job.control / "pause").unlink()
    (job.control / "pause_seen").unlink()
    done = job.process(
        HEAD
        + source
        + f"""
real, seen = manager.stepped, []
manager.stepped = lambda framework, step, save, **about: (
    seen.append(step), real(framework, step, save, **about))
say(rounds(train()), [s for s in seen], manager.framework_state["{framework}"]["resumed"])
""",
    )
    rounds, seen, resumed, _ = json.loads(done.stdout.splitlines()[-1])
    assert rounds == 20 and seen == list(range(9, 21)) and resumed is True
    assert f"{framework} goes on from its checkpoint of step 8" in done.stderr


def test_a_checkpoint_is_only_for_the_training_that_made_it(job: Job) -> None:
    job.run(HEAD + XGBOOST + "train(4); train(7); say()")
    seen = "say(rounds(train(9)), rounds(train(9)), rounds(train(9)))"
    done = job.process(HEAD + XGBOOST + seen)
    assert json.loads(done.stdout)[:3] == [9, 9, 9]
    assert done.stderr.count("goes on from its checkpoint of step 7") == 1


def test_a_training_that_was_over_is_not_run_again(job: Job) -> None:
    job.run(HEAD + XGBOOST + "train(4); say()")
    rounds, seen, _ = job.run(
        HEAD
        + XGBOOST
        + "seen = []\nmanager.stepped = lambda *a, **k: seen.append(a)\nsay(rounds(train(4)), seen)"
    )
    assert (rounds, seen) == (4, [])


def test_outside_of_a_job_nothing_is_resumed(job: Job) -> None:
    job.run(HEAD + XGBOOST + "train(4); say()")
    done = job.process(HEAD + XGBOOST + "say(rounds(train(6)))", CUMULUS_JOB_ID="")
    assert json.loads(done.stdout)[0] == 6
    assert "goes on" not in done.stderr


def test_the_code_s_own_model_to_go_on_from_counts(job: Job) -> None:
    job.run(HEAD + XGBOOST + "train(4); say()")
    source = "mine = xgboost.train.__wrapped__({}, xgboost.DMatrix(x, label=y), 2)\n"
    told = job.run(HEAD + XGBOOST + source + "say(rounds(train(3, xgb_model=mine)))")
    assert told[0] == 5


SKLEARN = """
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
"""


def test_scikit_learn_is_saved_after_outermost_fits(job: Job) -> None:
    calls, names, saved = job.run(
        HEAD
        + SKLEARN
        + """
model = make_pipeline(StandardScaler(), SGDClassifier())
for _ in range(7):
    model.fit(x, y)
other = SGDClassifier()
for _ in range(6):
    other.partial_fit(x, y, classes=[0, 1])
say(manager.framework_state["sklearn"]["step"],
    [type(runtime.load_checkpoint(checkpoint_path=c["filename"])["state"]).__name__
     for c in runtime.list_checkpoints()])
""",
        **EVERY_6,
    )
    assert calls == 13, "what a pipeline fits inside isn't counted"
    assert saved == [["sklearn", 12], ["sklearn", 6]]
    assert names == ["SGDClassifier", "Pipeline"]


def test_scikit_learn_imported_before_is_hooked_too(job: Job) -> None:
    source = "from sklearn.linear_model import SGDClassifier\n" + HEAD + "SGDClassifier().fit(x, y)"
    _, saved = job.run(source + "\nsay(0)", CUMULUS_CHECKPOINT_EVERY_STEPS="1")
    assert saved == [["sklearn", 1]]


def test_scikit_learn_goes_on_where_fits_build_on_one_another(job: Job) -> None:
    source = """
model = SGDClassifier(random_state=0)
try:
    for n in range(10):
        if n == 4 and not os.path.exists("paused"):
            open("paused", "w").close()
            open(os.environ["CUMULUS_CONTROL_DIR"] + "/pause", "w").close()
        model.partial_fit(x, y, classes=[0, 1])
    say("returned", model.t_)
except runtime.CooperativePause as pause:
    say(str(pause), model.t_)
"""
    outcome, steps, saved = job.run(HEAD + SKLEARN + source)
    assert outcome == "paused after step 5 of sklearn" and saved == [["sklearn", 5]]
    (job.control / "pause").unlink()
    outcome, after, _ = job.run(HEAD + SKLEARN + source)
    assert outcome == "returned"
    assert after == steps + 10 * 200, "ten fits more, on top of the five"


def test_a_save_that_fails_is_said_and_neither_ends_nor_pauses_the_training(job: Job) -> None:
    job.checkpoints.write_text("in the way")
    job.ask_pause()
    done = job.process(HEAD + XGBOOST + "print(json.dumps(rounds(train())))")
    assert json.loads(done.stdout) == 20, done.stderr
    assert "no automatic checkpoint of xgboost: " in done.stderr
    assert done.stderr.count("no automatic checkpoint") == 1, "each thing is said once"
    assert not job.pause_seen


@pytest.mark.parametrize("off", ["0", "false", "off", ""])
def test_it_can_be_switched_off(job: Job, off: str) -> None:
    told = job.run(
        HEAD + XGBOOST + "train(); say(manager.enabled, manager.get_framework_status())",
        CUMULUS_AUTO_CHECKPOINT=off,
    )
    enabled, status, saved = told
    assert (enabled, set(status.values()), saved) == (False, {"disabled"}, [])


def test_by_seconds_too(job: Job) -> None:
    told: Any = job.run(
        HEAD
        + XGBOOST
        + "import time\n"
        + PAUSE_AT_8.replace("step == 8", "False").replace(
            "    real(", "    time.sleep(0.02)\n    real("
        ),
        CUMULUS_CHECKPOINT_EVERY_SECONDS="0.1",
    )
    saved = [step for _, step in told[1]]
    assert saved[0] == 20 and len(saved) > 1


def test_a_setting_that_is_no_number_is_said_at_once(job: Job) -> None:
    done = job.process(HEAD, CUMULUS_CHECKPOINT_EVERY_STEPS="often")
    assert "CUMULUS_CHECKPOINT_EVERY_STEPS must be a number, it is 'often'" in done.stderr
