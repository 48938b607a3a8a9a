"""The units as systemd reads them: well-formed, and how much they leave open."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
from twisted.internet.task import Clock

from cumulusd import exits, service
from cumulusd.config import Config

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "systemd"
#: `systemd-analyze security` calls what is below 3.0 fine; the threshold is ten times that.
THRESHOLD = 30

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (script/setup: systemd)"
)


def installed(folder: Path, dropin: str | None) -> Path:
    """A root with the units installed as the documentation says."""
    there = folder / "etc/systemd/system"
    (there / "cumulusd.service.d").mkdir(parents=True)
    for unit in ("cumulusd.service", "cumulusd.socket"):
        shutil.copy(UNITS / unit, there)
    if dropin is not None:
        shutil.copy(UNITS / "dropins" / dropin, there / "cumulusd.service.d")
    for command in ("opt/cumulus/venv/bin/twistd", "bin/sh"):
        path = folder / command
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    # What every unit depends on, which a bare root lacks.
    for target in ("basic", "shutdown", "sysinit", "sockets", "network-online", "multi-user"):
        (there / f"{target}.target").write_text("[Unit]\n")
    for slice in ("system", "-"):
        (there / f"{slice}.slice").write_text("[Unit]\n")
    return folder


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@analyze
@pytest.mark.parametrize("dropin", [None, "swarm.conf", "local.conf"])
def test_exposure_is_below_three(tmp_path: Path, dropin: str | None) -> None:
    root = installed(tmp_path, dropin)
    done = run(
        *("security", "--offline=true", f"--root={root}", f"--threshold={THRESHOLD}"),
        *("--no-pager", "cumulusd.service"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"Overall exposure level for cumulusd.service: ([0-9.]+)", done.stdout)
    assert told is not None and float(told[1]) < THRESHOLD / 10


@analyze
def test_the_threshold_is_one(tmp_path: Path) -> None:
    root = installed(tmp_path, None)
    weak = root / "etc/systemd/system/cumulusd.service.d/weak.conf"
    weak.write_text("[Service]\nUser=root\nCapabilityBoundingSet=~\nProtectSystem=no\n")
    done = run(
        *("security", "--offline=true", f"--root={root}", f"--threshold={THRESHOLD}"),
        *("--no-pager", "cumulusd.service"),
    )
    assert done.returncode != 0


@analyze
@pytest.mark.parametrize("dropin", [None, "swarm.conf", "local.conf"])
def test_systemd_finds_no_fault(tmp_path: Path, dropin: str | None) -> None:
    root = installed(tmp_path, dropin)
    done = run("verify", f"--root={root}", "cumulusd.service", "cumulusd.socket")
    assert (done.returncode, done.stderr) == (0, "")


@analyze
def test_a_fault_would_be_found(tmp_path: Path) -> None:
    root = installed(tmp_path, None)
    wrong = root / "etc/systemd/system/cumulusd.service.d/wrong.conf"
    wrong.write_text("[Service]\nWatchdogSeconds=60\n")
    done = run("verify", f"--root={root}", "cumulusd.service")
    assert "WatchdogSeconds" in done.stderr


class Unit(configparser.RawConfigParser):
    """A unit's file, keys as they are written; of a key that is there twice the last counts."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",))
        self.read_string(path.read_text())

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def test_the_unit_fits_the_daemon() -> None:
    unit = Unit(UNITS / "cumulusd.service")["Service"]
    refused = {int(code) for code in unit["RestartPreventExitStatus"].split()}
    assert refused == {exits.EXIT_DAMAGED, exits.EXIT_NEWER, exits.EXIT_CONFIG}
    made = service.Cumulusd(Config(), Clock(), Mock())
    steps = made._stop_steps(Mock())
    assert len(steps) > 10
    assert len(steps) * service.STOP_STEP_S < int(unit["TimeoutStopSec"])
    # Jobs of the local platform are the daemon's children.
    assert unit["KillMode"] == "process"


def test_the_socket_fits_the_daemon() -> None:
    socket = Unit(UNITS / "cumulusd.socket")["Socket"]
    assert socket["ListenStream"].endswith("50051")
    assert socket["FileDescriptorName"] == "cumulusd"
