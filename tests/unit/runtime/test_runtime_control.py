"""What passes between the code and the job's runner: pause, progress, news of checkpoints."""

import json
import os
import pickle
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import runtime
from runtime_kit import INSIDE, Job


class Runner:
    """The runner's end of the socket."""

    def __init__(self, job: Job) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        here = os.open(job.control, os.O_PATH)
        try:
            self._socket.bind(f"/proc/self/fd/{here}/runtime.sock")
        finally:
            os.close(here)

    def heard(self) -> list[dict[str, Any]]:
        """What has come since."""
        found = []
        while True:
            try:
                found.append(json.loads(self._socket.recv(8 << 10)))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def runner(job: Job) -> Iterator[Runner]:
    made = Runner(job)
    yield made
    made.close()


def test_a_pause_is_heard_once_it_was_asked_and_that_is_noted(job: Job) -> None:
    assert not runtime.should_pause()
    assert not job.pause_seen
    job.ask_pause()
    assert runtime.should_pause() and runtime.should_pause()
    assert job.pause_seen


def test_raising_the_pause_counts_as_heard(job: Job) -> None:
    assert str(runtime.CooperativePause()) == "the job pauses"
    assert not job.pause_seen, "nobody asked"
    job.ask_pause()
    raised = runtime.CooperativePause("at epoch 3")
    assert job.pause_seen
    assert (type(raised).__module__, type(raised).__qualname__) == ("runtime", "CooperativePause")
    assert str(pickle.loads(pickle.dumps(raised))) == "at epoch 3"


def test_progress_and_checkpoints_are_told(job: Job, runner: Runner) -> None:
    runtime.progress(0.4, "epoch 4")
    runtime.progress(message="warming up")
    runtime.progress(7)
    runtime.save_checkpoint({}, framework="sklearn")
    assert runner.heard() == [
        {"t": "progress", "fraction": 0.4, "message": "epoch 4"},
        {"t": "progress", "fraction": None, "message": "warming up"},
        {"t": "progress", "fraction": 1.0, "message": ""},
        {"t": "checkpoint"},
    ]


def test_a_long_message_is_cut_to_what_a_datagram_holds(job: Job, runner: Runner) -> None:
    runtime.progress(0.5, "\U0001f600" * 5000)
    [told] = runner.heard()
    assert 100 < len(told["message"]) <= 1000
    assert set(told["message"]) == {"\U0001f600"}


@pytest.mark.parametrize("wrong", [float("nan"), "half", [1]])
def test_a_fraction_that_is_none_is_the_code_s_error(job: Job, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        runtime.progress(wrong)


def test_it_never_waits_for_the_runner(job: Job, runner: Runner) -> None:
    for number in range(5000):
        runtime.progress(number / 5000)
    heard = runner.heard()
    assert 0 < len(heard) < 5000, "what didn't fit is lost"
    runtime.progress(1.0)
    assert runner.heard() == [{"t": "progress", "fraction": 1.0, "message": ""}]
    runner.close()
    runtime.progress(1.0)


def test_importing_it_takes_the_standard_library_alone(job: Job) -> None:
    told = job.run(
        "import sys, json\n"
        "before = set(sys.modules)\n"
        "import runtime, distributed_checkpointer\n"
        "outer = {n.partition('.')[0] for n in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(outer - sys.stdlib_module_names)))",
        PYTHONWARNINGS="error",
    )
    assert told == ["distributed_checkpointer", "runtime"]


def test_the_old_name_gives_the_same(job: Job) -> None:
    import distributed_checkpointer as old

    assert old.DistributedCheckpointer is runtime.DistributedCheckpointer
    assert old.get_distributed_checkpointer() is None, "no bucket"


def test_all_that_was_documented_is_there() -> None:
    documented = (
        "job_dir should_pause list_checkpoints get_last_checkpoint_info find_latest_checkpoint "
        "Checkpointer get_distributed_checkpointer get_checkpointer save_checkpoint "
        "load_checkpoint save_on_interrupt LocalArtifactStore S3ArtifactStore get_artifact_store "
        "CooperativePause AutoCheckpointManager get_auto_checkpoint_manager progress output_dir"
    )
    assert set(documented.split()) <= set(runtime.__all__)
    assert runtime.__all__ == sorted(runtime.__all__)
    assert all(hasattr(runtime, name) for name in runtime.__all__)


def test_it_is_written_in_the_python_of_old_images() -> None:
    import ast

    for path in INSIDE.rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 9))


INTERRUPTED = """
import json, os, signal, sys, runtime
epoch, step = 3, 0
saver = runtime.get_checkpointer()
try:
    with runtime.save_on_interrupt(saver, MODEL, None, lambda: epoch, lambda: step):
        for step in range(100):
            if step == 7:
                os.kill(os.getpid(), SIGNAL)
except BaseException as error:
    outcome = [type(error).__name__, getattr(error, "code", None)]
print(json.dumps([outcome, [c["filename"] for c in runtime.list_checkpoints()],
                  signal.getsignal(signal.SIGTERM) == signal.SIG_DFL]))
"""


@pytest.mark.parametrize(
    ("number", "outcome"),
    [(signal.SIGTERM, ["SystemExit", 143]), (signal.SIGINT, ["KeyboardInterrupt", None])],
)
def test_an_interrupt_saves_where_the_code_is(job: Job, number: int, outcome: list[Any]) -> None:
    source = INTERRUPTED.replace("SIGNAL", str(int(number))).replace(
        "MODEL", "__import__('sklearn.linear_model').linear_model.LogisticRegression()"
    )
    assert job.run(source) == [outcome, ["ckpt_3_7.pkl"], True]


def test_a_save_that_fails_at_an_interrupt_hides_nothing(job: Job) -> None:
    source = INTERRUPTED.replace("SIGNAL", "15").replace("MODEL", "object()")
    done = job.process(source)
    assert json.loads(done.stdout) == [["SystemExit", 143], [], True]
    assert "no checkpoint could be saved at the interrupt: TypeError" in done.stderr


def test_a_block_that_isn_t_interrupted_saves_nothing(job: Job) -> None:
    saver = runtime.get_checkpointer()
    with runtime.save_on_interrupt(saver, object(), None, lambda: 0, lambda: 0):
        pass
    with (
        pytest.raises(KeyError),
        runtime.save_on_interrupt(saver, object(), None, lambda: 0, lambda: 0),
    ):
        raise KeyError("the code's own")
    assert runtime.list_checkpoints() == []
