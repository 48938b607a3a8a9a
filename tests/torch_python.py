"""A Python that has PyTorch, for tests that can't do without."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import JOB_PYTHON


def _has_torch(python: str) -> bool:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return subprocess.run([python, "-c", look]).returncode == 0


@pytest.fixture(scope="session")
def torch_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """This environment's Python or the jobs', where one has PyTorch; else one of an environment
    that is made for these tests, with the CPU build from where pip finds wheels."""
    if importlib.util.find_spec("torch") is not None:
        yield sys.executable
        return
    if _has_torch(str(JOB_PYTHON)):
        yield str(JOB_PYTHON)
        return
    folder: Path = tmp_path_factory.mktemp("torch") / "env"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "torch==2.13.0+cpu", "numpy"],
        check=True,
        timeout=800,
        stdin=subprocess.DEVNULL,
    )
    yield python
