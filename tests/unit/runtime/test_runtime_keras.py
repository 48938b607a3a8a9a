"""Keras, the real one, on PyTorch."""

import subprocess

import pytest
from runtime_kit import INSIDE, Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HEAD = """
import json, os, runtime
manager = runtime.get_auto_checkpoint_manager()
import keras, numpy
keras.utils.set_random_seed(3)
x = numpy.random.default_rng(3).normal(size=(64, 4)).astype("float32")
y = (x[:, :1] > 0).astype("float32")

def make():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    return model

def same(one, other):
    return all((a == b).all() for a, b in zip(one.get_weights(), other.get_weights()))

def say(*values):
    print(json.dumps([*values, [[c["epoch"], c["step"], c["filename"]]
                                for c in runtime.list_checkpoints()]]))
"""


@pytest.fixture(scope="module")
def keras_path(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with Keras, to be put on the path of `torch_python`."""
    folder = tmp_path_factory.mktemp("keras")
    command = ["-m", "pip", "install", "-q", "--target", str(folder), "keras>=3.10", "h5py"]
    subprocess.run([torch_python, *command], check=True, timeout=600, stdin=subprocess.DEVNULL)
    return str(folder)


@pytest.fixture
def run(job: Job, torch_python: str, keras_path: str) -> "Run":
    return Run(job, torch_python, keras_path)


class Run:
    """Scripts in the job that have Keras."""

    def __init__(self, job: Job, python: str, keras_path: str) -> None:
        self._job = job
        self._python = python
        self._variables = {
            "PYTHONPATH": f"{job.work}:{INSIDE}:{keras_path}",
            "KERAS_BACKEND": "torch",
            "KERAS_HOME": str(job.folder),
        }

    def __call__(self, source: str, **variables: str) -> list[object]:
        found = self._job.run(HEAD + source, self._python, **self._variables, **variables)
        assert isinstance(found, list)
        return found


def test_weights_are_saved_and_loaded_by_hand(job: Job, run: Run) -> None:
    told = run(
        """
model = make()
told = runtime.save_checkpoint(model, epoch=1, step=2, extra={"lr": 0.5})
other = make()
before = same(model, other)
found = runtime.load_checkpoint(other)
try:
    runtime.load_checkpoint()
except ValueError as error:
    refused = str(error)
say(told["local_path"], before, same(model, other), found["state"] is other,
    [found["framework"], found["epoch"], found["step"], found["extra"]], refused)
"""
    )
    path = str(job.checkpoints / "ckpt_1_2.weights.h5")
    assert told[:5] == [path, False, True, True, ["tensorflow", 1, 2, {"lr": 0.5}]]
    assert "give the model they are for" in str(told[5])


def test_fit_is_saved_after_batches_and_at_its_end(run: Run) -> None:
    *_, saved = run(
        "make().fit(x, y, batch_size=16, epochs=3, verbose=0)\nsay()",
        CUMULUS_CHECKPOINT_EVERY_STEPS="5",
    )
    assert saved == [
        [3, 12, "ckpt_3_12.weights.h5"],
        [2, 10, "ckpt_2_10.weights.h5"],
        [1, 5, "ckpt_1_5.weights.h5"],
    ]


def test_a_fit_is_paused_and_goes_on_with_the_epoch_it_was_in(job: Job, run: Run) -> None:
    source = """
class Pauser(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if seen[-1] == 2 and batch == 1 and AT:
            open(os.environ["CUMULUS_CONTROL_DIR"] + "/pause", "w").close()
    def on_epoch_begin(self, epoch, logs=None):
        seen.append(epoch)

seen = []
model = make()
try:
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[Pauser()])
    outcome = "returned"
except runtime.CooperativePause as pause:
    outcome = str(pause)
say(outcome, seen, manager.framework_state["tensorflow"]["resumed"])
"""
    outcome, seen, resumed, saved = run(source.replace("AT", "True"))
    assert (outcome, seen, resumed) == ("paused after step 10 of tensorflow", [0, 1, 2], False)
    assert saved == [[2, 10, "ckpt_2_10.weights.h5"]] and job.pause_seen
    (job.control / "pause").unlink()
    outcome, seen, resumed, _ = run(source.replace("AT", "False"))
    assert (outcome, seen, resumed) == ("returned", [2, 3], True)
