"""A job's folders as its runner makes them, and scripts run in them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INSIDE = Path(__file__).resolve().parents[3] / "cumulus_runner" / "inside"
MINE = ("CUMULUS_", "AWS_")


def forget_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(MINE):
            monkeypatch.delenv(name)


class Job:
    """Folders and variables of one job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.control = folder / "scratch" / ".cumulus" / "control"
        self.kept = folder / "kept"
        self.temporary = folder / "scratch" / "tmp"
        for path in (self.work, self.control, self.kept, self.temporary):
            path.mkdir(parents=True)
        self.checkpoints = self.kept / "checkpoints"
        self.variables = {
            "TMPDIR": str(self.temporary),
            "CUMULUS_JOB_ID": "job_1",
            "CUMULUS_JOB_DIR": str(self.work),
            "CUMULUS_CONTROL_DIR": str(self.control),
            "CUMULUS_CHECKPOINT_DIR": str(self.checkpoints),
            "CUMULUS_ARTIFACT_DIR": str(self.kept / "artifacts"),
            "CUMULUS_OUTPUT_DIR": str(self.kept / "outputs"),
        }

    def index(self) -> list[dict[str, Any]]:
        """As the runner reads it."""
        found = json.loads((self.checkpoints / "index.json").read_text())["checkpoints"]
        assert isinstance(found, list)
        return found

    def ask_pause(self) -> None:
        """As the runner does it."""
        (self.control / "pause").touch()

    @property
    def pause_seen(self) -> bool:
        """The code has heard of it."""
        return (self.control / "pause_seen").exists()

    def run(self, source: str, python: str = sys.executable, **variables: str) -> Any:
        """Runs a script in the job; what it prints last, as JSON."""
        done = self.process(source, python, **variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])

    def process(
        self, source: str, python: str = sys.executable, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """The same, however it ends."""
        return subprocess.run(
            [python, "-u", "-c", source],
            cwd=self.work,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{self.work}:{INSIDE}",
                "PYTHONWARNINGS": "default",
                **self.variables,
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=100,
        )
