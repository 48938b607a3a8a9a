"""What sets a worker up sees the devices as its agent will."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from cumulusd.agent.settings import SettingsError, read_options
from cumulusd.agent.show_devices import as_json
from cumulusd.chronos.devices import Discovered, Selection, read_answer


def found(**selected: Any) -> Discovered:
    entries = [
        {"platform": "PoCL", "name": "cpu", "kind": "cpu", "ordinal": 0, "memory_bytes": 1 << 30},
        {"platform": "X", "name": "late", "kind": "gpu", "ordinal": 0, "memory_bytes": 2 << 30}
        | {"pci": "0000:02:00.0"},
        {"platform": "X", "name": "early", "kind": "gpu", "ordinal": 1, "memory_bytes": 2 << 30}
        | {"pci": "0000:01:00.0"},
    ]
    return read_answer(json.dumps({"devices": entries}).encode(), Selection(**selected))


@pytest.mark.parametrize("with_cpu", [False, True])
def test_devices_are_numbered_as_the_agent_does(with_cpu: bool) -> None:
    shown = json.loads(as_json(found(count_cpu_devices=with_cpu)))
    names = ["early", "late", *(["cpu"] if with_cpu else [])]
    assert [(one["index"], one["name"]) for one in shown["devices"]] == list(enumerate(names))
    assert shown["reason"] is None


def test_what_could_not_be_asked_is_told() -> None:
    answer = {"devices": [], "failed": ["the driver hangs"]}
    shown = json.loads(as_json(read_answer(json.dumps(answer).encode(), Selection())))
    assert shown["devices"] == [] and shown["reason"]


def run(environ: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cumulusd.agent.show_devices"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_program_prints_one_line() -> None:
    done = run({"CUMULUS_AGENT_OPTIONS": '{"count_cpu_devices": true}'})
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"devices", "reason"}


def test_wrong_options_are_refused() -> None:
    done = run({"CUMULUS_AGENT_OPTIONS": '{"bogus": 1}'})
    assert done.returncode == 78 and "'bogus' is not known" in done.stderr
    with pytest.raises(SettingsError, match="no JSON"):
        read_options({"CUMULUS_AGENT_OPTIONS": "{"})
