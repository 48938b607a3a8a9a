"""`script/torture` as it is called: two rounds, and what an interruption leaves."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from engines import host, sweep
from tests.torture.__main__ import BAD

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "script/torture")


def test_two_rounds_of_torture_leave_nothing_wrong(image_archives: dict[str, Path]) -> None:
    done = subprocess.run(
        [SCRIPT, "--rounds", "2"],
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


def test_an_interrupted_torture_leaves_nothing(image_archives: dict[str, Path]) -> None:
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
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 130, said + err
    assert out == ""
    assert sweep.leftovers(tag) == []
    assert not list((ROOT / "var").glob("torture-*")), said + err
