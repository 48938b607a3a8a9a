"""Every shell script of the repository passes shellcheck."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def scripts() -> list[Path]:
    """Files under version control, or about to be, whose first line names a shell."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip(f"no git checkout to look at: {listed.stderr.strip()}")
    found = []
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file():
            with path.open("rb") as file:
                first = file.readline(100).split()
            if first[:1] and first[0].startswith(b"#!") and first[-1].split(b"/")[-1] in _SHELLS:
                found.append(path)
    return found


_SHELLS = (b"sh", b"bash", b"dash")


def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck")
    assert program, "shellcheck is missing; script/setup installs it"
    found = scripts()
    assert ROOT / "provision" / "worker.sh" in found and ROOT / "script" / "setup" in found
    # Not: functions that are called by a name in a variable, and files of another place.
    words = [program, "--exclude=SC2317,SC1091", "--format=gcc", *found]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
