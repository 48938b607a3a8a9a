"""Failed tests run once more, alone: few of them, and what fails again fails the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

TESTS = '''
import os, pathlib, pytest

@pytest.mark.parametrize("name", ["a b", "c[d]", "e", "f", "g"][:int(os.environ["MANY"])])
def test_once(name):
    """Fails the first time."""
    been = pathlib.Path(__file__).with_name(f"been {name}")
    if not been.exists():
        been.touch()
        pytest.fail("not yet")

def test_always():
    assert os.environ["ALWAYS"] == "passes"

def test_another():
    with open(pathlib.Path(__file__).with_name("another"), "a") as file:
        file.write("ran ")
'''


def again(folder: Path, many: int, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -p tests.failures -p no:cacheprovider\n"
    )
    (folder / "test_it.py").write_text(TESTS)
    return subprocess.run(
        [sys.executable, "-m", "tests.again", "--rootdir", str(folder), "-c", "pytest.ini", "."],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if name != "CUMULUS_TEST_AGAIN"},
            "PYTHONPATH": str(ROOT),
            "MANY": str(many),
            "ALWAYS": "passes",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("many", [1, 3])
def test_what_passes_alone_is_named_and_passes(tmp_path: Path, many: int) -> None:
    done = again(tmp_path, many)
    assert done.returncode == 0, done.stdout
    last = done.stderr[done.stderr.index("FAILED AMID THE OTHERS") :]
    assert "test_it.py::test_once[a b]" in last
    assert f"{many} passed" in done.stdout, "only those ran again"
    assert (tmp_path / "another").read_text() == "ran "


def test_what_fails_again_fails(tmp_path: Path) -> None:
    done = again(tmp_path, 1, ALWAYS="fails")
    assert done.returncode == 1
    assert "AMID" not in done.stderr


@pytest.mark.parametrize(("many", "environment"), [(4, {}), (1, {"CUMULUS_TEST_AGAIN": "0"})])
def test_many_and_those_not_wanted_dont_run_again(
    tmp_path: Path, many: int, environment: dict[str, str]
) -> None:
    done = again(tmp_path, many, **environment)
    assert done.returncode == 1
    assert "again, alone" not in done.stderr


def test_what_passes_runs_once(tmp_path: Path) -> None:
    done = again(tmp_path, 0)
    assert done.returncode == 0, done.stdout
    assert "==" not in done.stderr
