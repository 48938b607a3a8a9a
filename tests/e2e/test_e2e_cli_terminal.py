"""What `cumulus run` shows in a real terminal, at several moments."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon
from tests.e2e.shell import CUMULUS
from tests.e2e.terminal import Terminal

#: Many commands, each a process of its own.
pytestmark = pytest.mark.timeout(300)

SPINNER = "[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]"

WAITS_FOR = """\
import os, sys, time
def wait_for(name):
    while not os.path.exists(os.path.join({folder!r}, name)):
        time.sleep(0.02)
"""


@pytest.fixture
def terminal(daemon: Daemon, tmp_path: Path) -> Iterator[Terminal]:
    environment = {
        "CUMULUS_SERVER_URL": daemon.url,
        "PATH": f"{CUMULUS.parent}{os.pathsep}{os.environ['PATH']}",
    }
    with Terminal(tmp_path, environment, cwd=tmp_path) as terminal:
        terminal.wait(r"^\$")
        yield terminal


def script(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(WAITS_FOR.format(folder=str(tmp_path)) + text)


def cumulus(daemon: Daemon, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [str(CUMULUS), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "CUMULUS_SERVER_URL": daemon.url},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shown(rows: list[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, row)) for row in rows)


def test_what_a_run_shows_from_the_queue_to_its_end(
    daemon: Daemon, terminal: Terminal, tmp_path: Path
) -> None:
    script(tmp_path, "holds.py", "wait_for('over')\n")
    script(
        tmp_path,
        "job.py",
        """\
print("begun", end=" ", flush=True)
wait_for("a")
print("and ended")
print("to stderr", file=sys.stderr)
for share in range(0, 100, 20):
    print(f"{share}%", end="\\r", flush=True)
wait_for("b")
for number in range(100):
    print("line", number)
wait_for("c")
print("no newline", end="")
sys.exit(3)
""",
    )
    holding = cumulus(
        daemon, "submit", "--gpu-memory", "1", "--duration", "5m", "holds.py", cwd=tmp_path
    )
    daemon.wait_job(holding, "running")
    terminal.type("cumulus run --gpu-memory 50% --duration 5m job.py; echo code $?")
    rows = terminal.wait(f"^{SPINNER} waiting .*")
    status = next(at for at, row in enumerate(rows) if re.match(SPINNER, row))
    assert "free" in rows[status + 1], "why it waits stands below"
    assert shown(rows, r"^\[cumulus\] job job_\w+ accepted$") == 1

    (tmp_path / "over").touch()
    rows = terminal.wait(f"^{SPINNER} running .* left · ")
    status = next(at for at, row in enumerate(rows) if re.match(SPINNER, row))
    assert re.search(r"4m\d\ds left · .+ · 50% of .+", rows[status])
    rows = terminal.wait("^begun *$")
    status = next(at for at, row in enumerate(rows) if re.match(SPINNER, row))
    assert rows[status - 1].rstrip() == "begun", "a begun line is shown before it has an end"

    (tmp_path / "a").touch()
    rows = terminal.wait("^80%")
    assert shown(rows, "^begun and ended$") == 1 and shown(rows, "^begun *$") == 0
    assert shown(rows, "^to stderr$") == 1
    assert shown(rows, SPINNER) == 1

    terminal.resize(30, 10)
    rows = terminal.wait(f"^{SPINNER} running .*…", lambda r: shown(r, f"^{SPINNER} run.*…") == 1)
    assert max(map(len, rows)) <= 30
    rows = terminal.everything()
    assert shown(rows, "^begun and ended$") == shown(rows, "^to stderr$") == 1
    assert shown(rows, SPINNER) == 1, "what was broken into several rows is gone"
    terminal.resize(100, 24)
    terminal.wait(f"^{SPINNER} running .* left · .* · 50% of ")

    (tmp_path / "b").touch()
    rows = terminal.wait("^line 99$")
    rows = terminal.wait("", lambda r: bool(re.match(SPINNER, r[-1])))
    assert rows[-2] == "line 99"

    (tmp_path / "c").touch()
    terminal.wait("^code 3$")
    rows = terminal.everything()
    assert shown(rows, SPINNER) == 0, "nothing of the status is left"
    at = rows.index("begun and ended")
    assert rows[at + 1] == "to stderr"
    # The terminal shows what the carriage returns left of the percentages: the first line over it.
    lines = [f"line {number}" for number in range(100)]
    assert rows[at + 2 : at + 102] == lines
    assert rows[at + 102] == "no newline"
    assert re.match(r"\[cumulus\] failed after [\d.]+ s on .+, 50% of ", rows[at + 103])
    assert re.match(r"\[cumulus\] job job_\w+ failed: ", rows[at + 104])
    assert rows[-2] == "code 3"


def test_how_far_the_code_is(daemon: Daemon, terminal: Terminal, tmp_path: Path) -> None:
    script(
        tmp_path,
        "train.py",
        """\
import runtime
runtime.progress(0.25, "epoch 1 of 4")
wait_for("a")
print("loss 0.1")
runtime.progress(None, "saving")
wait_for("b")
""",
    )
    terminal.type("cumulus run train.py; echo code $?")
    rows = terminal.wait("^ +[━╸╺]+ +25% epoch 1 of 4$")
    bar = next(at for at, row in enumerate(rows) if "━" in row)
    assert re.match(f"{SPINNER} running ", rows[bar - 1])
    (tmp_path / "a").touch()
    rows = terminal.wait("^ +[━╸╺]+ +saving$")
    assert shown(rows, "^loss 0.1$") == 1 and shown(rows, "%.*epoch") == 0
    (tmp_path / "b").touch()
    terminal.wait("^code 0$")
    assert shown(terminal.everything(), "[━╸╺]|saving") == 0


def test_ctrl_c_in_a_terminal(daemon: Daemon, terminal: Terminal, tmp_path: Path) -> None:
    script(tmp_path, "long.py", "print('there', flush=True)\nwait_for('never')\n")
    terminal.type("cumulus run long.py; echo code $?")
    terminal.wait("^there$")
    terminal.wait(f"^{SPINNER} running ")
    terminal.press("C-c")
    terminal.wait("^code 130$")
    rows = terminal.everything()
    assert shown(rows, SPINNER) == 0
    assert shown(rows, r"^\[cumulus\] cancelling job job_\w+ \(Ctrl-C again detaches from it\)$")
    assert shown(rows, r"^\[cumulus\] cancelled after ") == 1
    assert daemon.jobs()[0]["status"] == "cancelled"


def test_output_that_goes_elsewhere_leaves_the_terminal_to_the_status(
    daemon: Daemon, terminal: Terminal, tmp_path: Path
) -> None:
    script(tmp_path, "out.py", "print('x' * 10, end='', flush=True)\nwait_for('go')\n")
    terminal.type("cumulus run out.py > out; echo code $?")
    terminal.wait(f"^{SPINNER} running ")
    terminal.wait("", lambda rows: (tmp_path / "out").read_bytes() == b"x" * 10)
    assert shown(terminal.screen(), "^x") == 0
    (tmp_path / "go").touch()
    terminal.wait("^code 0$")
    assert (tmp_path / "out").read_bytes() == b"x" * 10


@pytest.mark.parametrize(
    "line",
    [
        "TERM=dumb cumulus run plain.py",
        "cumulus run plain.py | cat",
        "cumulus run plain.py 2>&1 | cat",
    ],
)
def test_lines_where_a_status_would_be_in_the_way(
    daemon: Daemon, terminal: Terminal, tmp_path: Path, line: str
) -> None:
    script(tmp_path, "plain.py", "print('done')\n")
    terminal.type(f"{line}; echo code $?")
    terminal.wait("^code 0$")
    rows = terminal.everything()
    assert shown(rows, SPINNER) == 0
    for words in ("^.cumulus. worker ", "^.cumulus. running$", "^done$", "^.cumulus. completed"):
        assert shown(rows, words) == 1, rows


def test_no_colour_where_none_is_wanted(daemon: Daemon, terminal: Terminal, tmp_path: Path) -> None:
    script(tmp_path, "go.py", "wait_for('go')\n")
    terminal.type("NO_COLOR=1 cumulus run go.py; echo code $?")
    terminal.wait(f"^{SPINNER} running ")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.coloured())
    (tmp_path / "go").touch()
    terminal.wait("^code 0$")


def test_login_asks_and_shows_no_key(daemon: Daemon, terminal: Terminal, tmp_path: Path) -> None:
    terminal.type(f"export XDG_CONFIG_HOME={tmp_path}/xdg; unset CUMULUS_SERVER_URL")
    terminal.type("cumulus login; echo code $?")
    terminal.wait("^The daemon's URL .*: *$")
    terminal.type(daemon.url)
    terminal.wait("^Your API key .*: *$")
    terminal.type("some-secret")
    rows = terminal.wait("^code 0$")
    assert not shown(rows, "some-secret"), rows
    # This daemon has no tokens, so that it can tell no key from none.
    text = (tmp_path / "xdg/cumulus/config.toml").read_text()
    assert daemon.url in text
    terminal.type("clear; cumulus login --make-default --profile other; echo code $?")
    terminal.wait("^The daemon's URL .*: *$")
    terminal.press("C-c")
    terminal.wait("^code 130$")
    assert (tmp_path / "xdg/cumulus/config.toml").read_text() == text
