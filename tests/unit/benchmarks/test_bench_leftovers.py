"""What a measurement leaves is found and ended, whatever parent it has by then."""

import subprocess
import sys
import time
from pathlib import Path

from bench.parts import leftovers

ROOT = Path(__file__).parents[3]
#: Starts one that is spared, and one that leaves an orphan in a session of its own; says what it
#: ended, and what still runs.
HARNESS = """
import os, subprocess, sys, time
from bench.parts import leftovers

leftovers.adopt_orphans()
spared = subprocess.Popen(["sleep", "60"])
ours = leftovers.below()
maker = subprocess.run(
    ["sh", "-c", "setsid sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True
)
orphan = int(maker.stdout)
ended = leftovers.end_below(os.getpid(), ours)
assert ended == [orphan], (ended, orphan)
assert not os.path.exists(f"/proc/{orphan}"), "it is reaped"
assert spared.poll() is None
assert leftovers.end_below(os.getpid(), ours) == []
spared.kill()
spared.wait()
"""
#: A process whose child wants to go with it.
PARENT = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
import signal, time
from bench.parts import leftovers
leftovers.end_with_parent(signal.SIGTERM)
print("ready", flush=True)
time.sleep(60)
'''], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_orphan_in_a_session_of_its_own_is_ended_and_what_is_spared_is_not() -> None:
    subprocess.run([sys.executable, "-c", HARNESS], cwd=ROOT, check=True, timeout=60)


def test_a_module_goes_with_its_parent() -> None:
    parent = subprocess.run(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, timeout=60
    )
    child = int(parent.stdout)
    deadline = time.monotonic() + 30.0
    while _state(child) not in ("", "Z"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_folders_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    gone = subprocess.run(["sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True, check=True)
    names = [f"{leftovers.prefix()}a", f"bench-of-{gone.stdout.strip()}-b", "bench-of-others"]
    for name in names:
        (tmp_path / name / "deep").mkdir(parents=True)
    leftovers.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names[0], names[2]}


def _state(pid: int) -> str:
    """Nothing: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
