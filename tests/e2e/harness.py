"""A real daemon in its own process, and users' scripts run against it as users run them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
PYTHON = sys.executable
JOB_PYTHON = REPOSITORY / ".venv-job/bin/python"
TWISTD = Path(sys.executable).with_name("twistd")


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """`twistd -n cumulusd` on a port of its own, with its state under `folder`."""

    #: What it is started by, such as `setpriv` and its options.
    command_prefix: Sequence[str] = ()
    #: Descriptors that it inherits.
    pass_fds: Sequence[int] = ()

    def __init__(self, folder: Path, *, count_cpu_devices: bool = True, extra: str = "") -> None:
        self.stand_in(folder)
        self.config.write_text(
            f"""\
listen: ["tcp:{self.port}:interface=127.0.0.1"]
state_dir: state
platform:
  type: local
  local:
    python: {JOB_PYTHON}
    count_cpu_devices: {str(count_cpu_devices).lower()}
{extra}"""
        )

    def stand_in(self, folder: Path) -> None:
        """Where it is, before it is configured."""
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state_dir = folder / "state"
        self.config = folder / "cumulusd.yaml"
        self.log = folder / "cumulusd.log"
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, wait: bool = True) -> "Daemon":
        """Starts it; with `wait`, returns once /health gives 200."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.command_prefix,
                    *(str(TWISTD), "-n", "--pidfile=", "cumulusd", "--config", str(self.config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environment, "PYTHONPATH": str(REPOSITORY)},
                pass_fds=self.pass_fds,
            )
        if wait:
            self.wait_healthy()
        return self

    def wait_healthy(self, timeout_s: float = 90.0) -> None:
        """Returns once /health gives 200."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"cumulusd ended: {self.log_text()}")
            try:
                if self.get("/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"cumulusd not healthy in {timeout_s} s: {self.log_text()}")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise AssertionError(f"cumulusd did not stop in 30 s: {self.log_text()}") from None

    def log_text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """Status and body (parsed where it is JSON) of a GET."""
        request = urllib.request.Request(self.url + path)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                status, body, kind = response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            with error:
                status, body, kind = error.code, error.read(), error.headers
        if "json" in (kind.get("Content-Type") or ""):
            return status, json.loads(body)
        return status, body.decode()

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, newest first."""
        status, jobs = self.get("/api/jobs")
        assert status == 200
        assert isinstance(jobs, list)
        return jobs

    def cancel_all(self) -> None:
        """Cancels whatever has not ended."""
        for job in self.jobs():
            if job["phase"] != "ended":
                url = f"{self.url}/api/jobs/{job['job_id']}/cancel"
                try:
                    urllib.request.urlopen(
                        urllib.request.Request(url, method="POST"), timeout=10
                    ).close()
                except urllib.error.HTTPError as refusal:
                    with refusal:
                        # It ended between the listing and the cancel: that is as good.
                        if refusal.code != 409:
                            raise
                self.wait_job(job["job_id"], "ended")

    def job(self, job_id: str) -> dict[str, Any]:
        """One job's view."""
        return next(job for job in self.jobs() if job["job_id"] == job_id)

    def steps_of(self, job_id: str) -> list[int]:
        """The numbers of the whole lines `step N` in the job's output, as HTTP shows it."""
        status, text = self.get(f"/api/jobs/{job_id}/logs")
        assert status == 200
        # What print() writes may be read before its newline.
        return [int(number) for number in re.findall(r"^step (\d+)\n", text, re.MULTILINE)]

    def wait_steps(self, job_id: str, count: int, timeout_s: float = 60.0) -> None:
        """Returns once it has printed so many of them."""
        deadline = time.monotonic() + timeout_s
        while len(self.steps_of(job_id)) < count:
            assert time.monotonic() < deadline, self.log_text()[-3000:]
            time.sleep(0.05)

    def wait_job(self, job_id: str, *phases: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The job's view once it is in one of these phases."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if job["phase"] in phases:
                return job
            time.sleep(0.03)
        raise AssertionError(f"job is {job}, not {phases}: {self.log_text()[-4000:]}")

    def script(self, text: str, name: str = "user_script.py") -> Path:
        """Writes a user's script; `URL` in it is this daemon's."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{URL}", self.url))
        return path

    def run(
        self,
        text: str,
        *,
        timeout_s: float = 60.0,
        check: bool = True,
        name: str = "user_script.py",
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a user's script to its end."""
        done = subprocess.run(
            [PYTHON, "-u", str(self.script(text, name))],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"script failed ({done.returncode}):\n{done.stdout}\n{done.stderr}\n"
                f"--- daemon:\n{self.log_text()[-6000:]}"
            )
        return done

    def begin(self, text: str, name: str = "user_script.py") -> "subprocess.Popen[str]":
        """Starts a user's script and returns at once."""
        return subprocess.Popen(
            [PYTHON, "-u", str(self.script(text, name))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
        )

    def leftovers(self) -> list[str]:
        """Job folders, partitions, runner files and processes of jobs that are still there."""
        worker = self.state_dir / "worker"
        left = [
            f"folder {path}"
            for kind in ("jobs", "grants", "kept")
            for path in (worker / kind).glob("*")
        ]
        left += [f"runner {path}" for path in (self.state_dir / "local").glob("*")]
        left += [f"process {pid}" for pid in processes_under(self.state_dir)]
        ledgers = list((self.state_dir / "worker").glob("ledger*.json"))
        for ledger in ledgers:
            partitions = json.loads(ledger.read_text()).get("partitions", [])
            left += [f"partition {partition}" for partition in partitions]
        return left

    def wait_nothing_left(self, timeout_s: float = 20.0) -> None:
        """Returns once nothing of any job is left on the worker."""
        deadline = time.monotonic() + timeout_s
        while left := self.leftovers():
            if time.monotonic() > deadline:
                raise AssertionError(f"left over: {left}\n{self.log_text()[-4000:]}")
            time.sleep(0.05)


def processes_under(folder: Path) -> list[int]:
    """Processes whose working directory or command line lies under `folder`, not the daemon's."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            cwd = os.readlink(entry / "cwd")
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if cwd.startswith(str(folder) + os.sep) or str(folder / "worker") in command:
            found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Is there such a process, and not as a zombie?"""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(pids: list[int], timeout_s: float) -> float:
    """How long until all of them are gone; fails after `timeout_s`."""
    began = time.monotonic()
    while any(alive(pid) for pid in pids):
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"still alive after {timeout_s} s: {pids}")
        time.sleep(0.01)
    return time.monotonic() - began
