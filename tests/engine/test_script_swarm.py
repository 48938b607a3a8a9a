"""`script/swarm` as it is called, in a folder of its own."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulusd.config import load_config
from engines import sweep
from engines.layout import Layout

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "swarm"


@pytest.fixture
def swarm(folder: Path, image_archives: dict[str, Path]) -> Iterator[Script]:
    """Calls script/swarm; what it keeps is down after the test."""

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(ROOT / "script/swarm"), "--folder", str(folder), *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )

    yield call
    call("down")


def layout_in(folder: Path) -> Layout:
    return Layout.from_json((folder / "engines/cluster.json").read_text())


def test_up_status_and_down(swarm: Script, folder: Path) -> None:
    assert swarm("status").returncode == 3
    up = swarm("up", "--nodes", "2")
    assert up.returncode == 0, up.stderr
    layout = layout_in(folder)

    status: dict[str, Any] = json.loads(swarm("status", "--json").stdout)
    assert status["well"] is True
    assert [(n["name"], n["worker"], n["swarm"]) for n in status["nodes"]] == [
        ("manager", False, "ready"),
        ("worker1", True, "ready"),
    ]
    config = load_config(folder / "cumulusd.yaml", {})
    assert config.platform.swarm is not None
    assert config.platform.swarm.enroll == ("worker1",)
    assert [token.role for token in config.tokens] == ["admin", "client"]
    for token in config.tokens:
        file = folder / f"{token.role}.token"
        assert file.stat().st_mode & 0o777 == 0o600
        assert hashlib.sha256(file.read_text().strip().encode()).hexdigest() == token.token_sha256

    before = (folder / "cumulusd.yaml").read_text()
    again = swarm("up", "--nodes", "2")
    assert again.returncode == 0, again.stderr
    assert "up already" in again.stderr
    assert (folder / "cumulusd.yaml").read_text() == before
    assert layout_in(folder) == layout
    other = swarm("up", "--nodes", "3")
    assert other.returncode == 1
    assert "`script/swarm down` first" in other.stderr

    down = swarm("down")
    assert down.returncode == 0, down.stderr
    assert sweep.leftovers(layout.tag, layout.base) == []
    assert not folder.exists()
    assert swarm("down").returncode == 0


def test_hold_ends_with_who_holds_it(folder: Path, image_archives: dict[str, Path]) -> None:
    holding = subprocess.Popen(
        [str(ROOT / "script/swarm"), "--folder", str(folder), "hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with holding:
        assert holding.stdout is not None
        assert holding.stdin is not None
        assert holding.stdout.readline() == "ready\n"
        layout = layout_in(folder)
        holding.kill()  # and even so
    deadline = time.monotonic() + 150
    while left := sweep.leftovers(layout.tag, layout.base):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    "arguments", [["up", "--nodes", "0"], ["up", "--nodes", "2", "--workers", "3"], ["sideways"]]
)
def test_nonsense_is_refused_before_anything_is_done(
    swarm: Script, folder: Path, arguments: list[str]
) -> None:
    done = swarm(*arguments)
    assert done.returncode == 2
    assert "usage: script/swarm" in done.stderr
    assert not os.path.exists(folder)
