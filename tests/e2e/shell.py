"""The command `cumulus` as a person or a script uses it, each time as a process."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.harness import Daemon

CUMULUS = Path(sys.executable).with_name("cumulus")


class Shell:
    """Runs the command in a folder, with a daemon's URL in the environment."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "xdg"), **environment}

    def __call__(
        self,
        *arguments: str,
        code: int = 0,
        stdin: str = "",
        raises: bool = False,
        **environment: str,
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [str(CUMULUS), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=60,
            input=stdin,
            cwd=self.folder,
            env={**self.environment, **environment},
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        assert ("Traceback" in done.stderr) is raises, "only what the job's code raised has one"
        return done

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(CUMULUS), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


WAITS = """\
import os, sys, time
print(os.getpid(), flush=True)
while not os.path.exists({go!r}):
    time.sleep(0.02)
print("over", flush=True)
sys.exit(7)
"""


def waiting_job(shell: Shell, daemon: Daemon, *options: str) -> tuple[str, int]:
    """A job that runs until the file `go` is there, and exits with 7: its id and process."""
    shell.write("waits.py", WAITS.format(go=str(shell.folder / "go")))
    job_id = shell("submit", *options, "waits.py").stdout.strip()
    daemon.wait_job(job_id, "running")
    deadline = time.monotonic() + 30
    while not (out := shell("logs", job_id).stdout):
        assert time.monotonic() < deadline
    return job_id, int(out)
