"""Environments of peers: kept, but not where a copy would run another's scripts."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.parts import peer_python
from bench.parts.errors import BenchError


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that was made by what only says that it did."""

    def run(command: list[Any], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, 0, "", "")

    folder = tmp_path / "made"
    folder.mkdir()
    monkeypatch.setattr(subprocess, "run", run)
    peer_python.installed(folder, "peer>=1")
    return folder


def refuse(*_: object, **__: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.CompletedProcess([], 1, "", "refused")


def works(_: Path) -> bool:
    return True


def test_a_copied_environment_is_made_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = made.with_name("copy")
    shutil.copytree(made, copy)
    monkeypatch.setattr(peer_python, "_works", works)
    monkeypatch.setattr(subprocess, "run", refuse)
    assert peer_python.installed(made, "peer>=1") == made / "bin/python"
    with pytest.raises(BenchError, match="refused"):
        peer_python.installed(copy, "peer>=1")


def test_for_another_requirement_it_is_made_again(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_python, "_works", works)
    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(BenchError, match="refused"):
        peer_python.installed(made, "peer>=2")
