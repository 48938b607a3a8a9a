"""Children of the runner: programs, and copies of itself."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
#: In a process of its own: a copy of pytest's would have all that pytest has.
PRELUDE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from cumulus_runner.sandbox import Process, reap
os.environ["OURS"] = "1"
lock = os.open(sys.argv[2], os.O_RDONLY | os.O_CREAT)
ours = os.open(os.devnull, os.O_RDONLY)

def copy(work):
    process = Process.fork(work, "a test", {"THEIRS": "2"}, "/", lock)
    output = [b"", b""]
    for number, pipe in enumerate((process.stdout, process.stderr)):
        while data := os.read(pipe, 4096):
            output[number] += data
    while not process.ended:
        reap()
    process.close()
    return process, *output
"""


def said(tmp_path: Path, code: str) -> str:
    """What that code prints."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PRELUDE + textwrap.dedent(code), REPOSITORY, tmp_path / "l"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_copy_has_its_environment_and_the_lock_and_nothing_else(tmp_path: Path) -> None:
    code = """
    def work():
        found = []
        for fd in range(3, 100):
            try:
                os.fstat(fd)
            except OSError:
                continue
            found.append(fd)
        leads = os.getsid(0) == os.getpid()
        told = (dict(os.environ), os.getcwd(), found == [lock], os.read(0, 10), leads)
        os.write(1, repr(told).encode())
        return 7

    process, out, err = copy(work)
    print(process.exit_code, process.signal, out.decode(), err)
    """
    assert said(tmp_path, code) == "7 None ({'THEIRS': '2'}, '/', True, b'', True) b''\n"


@pytest.mark.parametrize(
    ("work", "end", "words"),
    [
        ("lambda: 1 // 0", (1, None), "ZeroDivisionError"),
        ("lambda: os.abort()", (None, signal.SIGABRT), ""),
    ],
    ids=["raises", "crashes"],
)
def test_how_a_copy_ended(
    tmp_path: Path, work: str, end: tuple[int | None, int | None], words: str
) -> None:
    code = f"process, out, err = copy({work}); print(process.exit_code, process.signal, err)"
    out = said(tmp_path, code)
    assert out.startswith(f"{end[0]} {end[1] and int(end[1])} ")
    assert words in out


def test_a_copy_that_cant_begin(tmp_path: Path) -> None:
    code = """
    from cumulus_runner.sandbox import StartFailed
    try:
        Process.fork(lambda: 0, "a test", {}, "/nowhere", lock)
    except StartFailed as error:
        print(error, reap())
    """
    out = said(tmp_path, code)
    assert out.startswith("a test can't be started: ") and "/nowhere" in out
    assert out.endswith(" False\n"), "a child is left"


def test_who_minds_one_leaves_alone_what_is_aside(tmp_path: Path) -> None:
    """And all others go."""
    code = """
    sleep = ["/bin/sleep", "60"]
    waits, goes = (Process.start(sleep, {}, "/", lock) for _ in range(2))
    waits.set_aside()
    print(goes.leaves_any())
    goes.end_now()
    print(goes.ended, waits.ended, goes.leaves_any())
    waits.take_up()
    print(waits.leaves_any())
    waits.end_now()
    print(waits.signal, reap())
    """
    assert said(tmp_path, code).splitlines() == [
        "True",
        "True False False",
        "True",
        f"{int(signal.SIGKILL)} False",
    ]
