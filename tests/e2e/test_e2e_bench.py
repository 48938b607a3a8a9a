"""script/bench as it is used: one table, its results kept, and nothing left of what it started."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import REPOSITORY

KEPT = REPOSITORY / "var/bench"
END_S = 90.0


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Short: a socket's path has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="cb-") as name:
        yield Path(name)


def bench(*arguments: str, temporary: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def test_what_was_measured_is_one_table_and_kept(temporary: Path) -> None:
    process = bench("client", "--quick", "--case", "packing a function", temporary=temporary)
    said, errors = process.communicate(timeout=END_S)
    assert process.returncode == 0, errors  # that row has no goal
    lines = said.splitlines()
    assert lines[0] == "| case | ours | peer | ratio | goal | met or not |"
    assert lines[2].startswith("| packing a function |")
    assert len([line for line in lines if line.startswith("|")]) == 3
    path = REPOSITORY / lines[-1].rpartition("; ")[2]
    assert json.loads(path.read_text())["rows"][0]["case"] == "packing a function"
    path.unlink()


def test_ctrl_c_leaves_nothing_of_a_pool(temporary: Path) -> None:
    before = set(KEPT.glob("bench-of-*")) if KEPT.exists() else set()
    process = bench("idle", "--quick", temporary=temporary)
    try:
        deadline = time.monotonic() + END_S
        while not list(temporary.glob("bench-of-*/cumulus-pool-*/engine.sock")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        assert len(of_folder(temporary)) >= 2
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=END_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=END_S)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert of_folder(temporary) == []
    assert list(temporary.iterdir()) == []
    assert set(KEPT.glob("bench-of-*")) <= before
    (REPOSITORY / said.splitlines()[-1].rpartition("; ")[2]).unlink()


def of_folder(folder: Path) -> list[int]:
    """Processes whose temporary folder lies in that."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(each.startswith(b"TMPDIR=" + os.fsencode(folder)) for each in variables):
                found.append(int(entry.name))
    return found
