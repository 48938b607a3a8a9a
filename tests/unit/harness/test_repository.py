"""The repository keeps its own word: scripts, documents, what must not stand in it."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = [*sorted((ROOT / "script").iterdir()), ROOT / ".ci" / "run"]
REQUIREMENTS = ROOT / "docs" / "requirements.md"


def own_files() -> list[Path]:
    """What is, or would be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip(f"no git checkout to look at: {listed.stderr.strip()}")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_run(script: Path) -> None:
    assert os.access(script, os.X_OK), f"chmod +x {script}"
    if script.read_text().splitlines()[0].endswith("bash"):
        subprocess.run(["bash", "-n", script], check=True)
        assert "set -euo pipefail" in script.read_text()


def test_the_demo_refuses_what_is_not_there() -> None:
    done = subprocess.run(
        [ROOT / "script" / "demo", "--bogus"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "unknown argument" in done.stderr and done.stdout == ""


def test_no_package_index_is_named() -> None:
    """Where packages come from is the environment's business."""
    hosts = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org"]
    for path in own_files():
        if path.suffix in (".png", ".zip"):
            continue
        text = path.read_text(errors="replace")
        assert not [host for host in hosts if host in text], path


def criteria() -> dict[str, str]:
    """Number -> the cell that says what holds it."""
    rows = re.findall(r"^\| (\d+\.\d+) \| .+ \| (.+) \|$", REQUIREMENTS.read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a number stands twice"
    return dict(rows)


def test_every_criterion_has_its_row() -> None:
    counts = [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 1, 7, 5]
    expected = {f"{n}.{m}" for n, count in enumerate(counts, 1) for m in range(1, count + 1)}
    assert set(criteria()) == expected


@pytest.mark.parametrize("number", criteria())
def test_every_test_that_is_named_exists(number: str) -> None:
    named = re.findall(r"`([^`]+)`", criteria()[number])
    assert named, f"{number}: name the tests that hold it"
    for name in named:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), f"{number}: no file {path}"
        tree = ast.parse((ROOT / path).read_text())
        functions = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert function.startswith("test_") and function in functions, f"{number}: no {name}"


def test_the_place_of_the_job_diagram_is_marked() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert text.index("<!-- jobs-diagram:begin -->") < text.index("<!-- jobs-diagram:end -->")


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "without __init__.py, names must differ"
