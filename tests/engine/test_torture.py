"""`script/torture` as it is called: two rounds, and what an interruption leaves."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from engines import host, sweep
from tests.engine.swarm_daemon import processes_with
from tests.torture.__main__ import BAD
from tests.torture.plan import Fault

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "script/torture")
#: Its first two rounds have all kinds of fault between them. Always the same here, so that a change
#: is judged by its own faults; `script/torture` by itself takes another each time.
SEED = 620_732


def test_two_rounds_of_torture_leave_nothing_wrong(image_archives: dict[str, Path]) -> None:
    done = subprocess.run(
        [SCRIPT, "--rounds", "2", "--seed", str(SEED)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=800,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-20_000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    assert {name: told[name] for name in BAD} == dict.fromkeys(BAD, 0)
    assert told["jobs"] >= 20
    assert told["faults"] >= 6
    named = re.findall(r"round \d: .*; ([a-z_, ]+); \d+ wrong", done.stderr)
    assert set(", ".join(named).split(", ")) == {fault.value for fault in Fault}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_an_ended_torture_leaves_nothing(
    image_archives: dict[str, Path], number: signal.Signals
) -> None:
    before = set(host.known_tags())
    with subprocess.Popen(
        [SCRIPT, "--rounds", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if re.search(r"round 1 of 1", line):
                break
        (tag,) = set(host.known_tags()) - before
        time.sleep(3.0)  # jobs and readers are at work
        process.send_signal(number)
        out, err = process.communicate(timeout=200)
    assert process.returncode == (130 if number is signal.SIGINT else -number), said + err
    assert out == ""
    deadline = time.monotonic() + 90
    while tag in host.known_tags():  # the guardian is at it
        assert time.monotonic() < deadline, sweep.leftovers(tag)
        time.sleep(0.2)
    assert sweep.leftovers(tag) == []
    assert processes_with(f"{ROOT}/var/torture-") == [], "the daemon, or a reader"
    assert not list((ROOT / "var").glob("torture-*")), said + err
