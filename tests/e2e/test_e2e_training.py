"""The example that trains with PyTorch, on the local platform with a Python that has it."""

import os
import re
import subprocess
from collections.abc import Callable

import pytest

from tests.e2e.harness import JOB_PYTHON, PYTHON, REPOSITORY, Daemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def check_training_example(url: str, token: str | None = None) -> None:
    """Runs it as a user would: the job is paused, and goes on where it was."""
    done = subprocess.run(
        [PYTHON, str(REPOSITORY / "examples/pytorch_checkpoint.py"), url],
        capture_output=True,
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **({} if token is None else {"CUMULUS_API_KEY": token})},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    told = done.stdout
    paused = re.search(r"^paused after epoch (\d+)$", told, re.MULTILINE)
    assert paused is not None, told
    assert f"paused with checkpoint ckpt_{paused[1]}_0.pt" in told
    assert f"going on with epoch {int(paused[1]) + 1}\n" in told
    assert told.count("trained 80 epochs") == 1
    right = re.search(r"^right: (\d+)%$", told, re.MULTILINE)
    assert right is not None and int(right[1]) >= 95, told


def test_the_example_is_paused_and_goes_on(
    make_daemon: Callable[..., Daemon], torch_python: str
) -> None:
    daemon = make_daemon()
    daemon.config.write_text(daemon.config.read_text().replace(str(JOB_PYTHON), torch_python))
    daemon.start()
    check_training_example(daemon.url)
    daemon.wait_nothing_left()
