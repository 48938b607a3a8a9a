"""`runtime` as a job's code has it: on the path, with the variables of a job."""

import sys
from pathlib import Path

import pytest
import runtime_kit

INSIDE = Path(__file__).resolve().parents[3] / "cumulus_runner" / "inside"
sys.path.append(str(INSIDE))


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """None of a job's variables, and an empty current directory: as at home."""
    runtime_kit.forget_variables(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> runtime_kit.Job:
    """The folders of a job."""
    made = runtime_kit.Job(tmp_path / "job")
    for name, value in made.variables.items():
        monkeypatch.setenv(name, value)
    return made
