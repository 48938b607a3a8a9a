"""A job's folder as the agent leaves it, the real runner started on it, its journal read back."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cumulus_wire import folder
from cumulus_wire.journal import FrameParser, Kind, Record

REPOSITORY = Path(__file__).resolve().parents[3]
UV = Path(sys.executable).with_name("uv")
WAIT_S = 30.0


def until(met: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Waits for a condition to give something true, and gives it."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = met()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def gone(pid: int) -> bool:
    """No such process, or only its zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wheel(path: Path, name: str, version: str, body: str) -> str:
    """A wheel made by hand; its path."""
    file = path / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", body)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return str(file)


def index_of(path: Path) -> dict[str, str]:
    """uv's variables to install from that folder only."""
    return {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(path)}


def clean_environment() -> dict[str, str]:
    """As launchers give it: the code may run in a copy of the runner then."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "LC_", "LD_", "MALLOC_", "GLIBC_"))
    }
    return {"LANG": "C.UTF-8", **kept}


class JobFolder:
    """One job's folder. `start` as often as wanted; `close` ends whatever still runs."""

    def __init__(self, path: Path, **orders: Any) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.descriptors: list[int] = []  #: closed in the end
        self.orders: dict[str, Any] = {
            "version": 1,
            "job_id": "job-1",
            "attempt": 1,
            "owner": "ada",
            "setup_timeout_s": 60.0,
            "duration_s": 60.0,
            "stop_grace_s": 1.0,
            "requirements": [],
            "environment": {},
            "python": None,
            "uv": str(UV),
            "environments": None,
            "installer_environment": {},
            "package_max_bytes": 10 << 20,
            "package_max_files": 100,
            "journal_max_bytes": 64 << 20,
            "segment_bytes": 4 << 20,
            **orders,
        }
        (path / folder.ORDERS).write_text(json.dumps(self.orders))

    def function(self, source: str, *args: Any, **files: str) -> "JobFolder":
        """Packages `source`, whose function `f` is called with `args`."""
        manifest = {"version": 1, "kind": "function", "module": "task", "function": "f"}
        call = {"encoding": "json", "args": list(args), "kwargs": {}}
        return self.package(
            {
                folder.MANIFEST: json.dumps({**manifest, "call": "call.json"}),
                "call.json": json.dumps(call),
                "task.py": source,
                **files,
            }
        )

    def script(self, source: str, *argv: str, path: str = "script.py") -> "JobFolder":
        """Packages `source` as a script."""
        manifest = {"version": 1, "kind": "script", "path": path, "argv": list(argv)}
        return self.package({folder.MANIFEST: json.dumps(manifest), path: source})

    def package(self, files: dict[str, str]) -> "JobFolder":
        """Writes the package."""
        with zipfile.ZipFile(self.path / folder.PACKAGE, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return self

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Starts the runner the way the launcher does where it isn't installed."""
        process = subprocess.Popen(
            [sys.executable, "-u", str(REPOSITORY / "cumulus_runner/__main__.py"), str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**clean_environment(), **environment},
        )
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
        """Waits for the runner's end: exit code, its own stdout and stderr."""
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err

    def run(self, **environment: str) -> dict[str, Any]:
        """Runs the job to its end; the EXIT record."""
        self.finish(self.start(**environment))
        return self.exit()

    def segments(self) -> list[Path]:
        journal = self.path / folder.JOURNAL
        return sorted(journal.iterdir()) if journal.is_dir() else []

    def records(self) -> list[Record]:
        """The whole records there are now, each segment parsed from its own offset."""
        found: list[Record] = []
        for segment in self.segments():
            offset = folder.segment_offset(segment.name)
            assert offset is not None
            found += FrameParser(offset).feed(segment.read_bytes())
        for before, after in itertools.pairwise(found):
            assert before.next_offset == after.offset
        return found

    def output(self, kind: Kind) -> bytes:
        return b"".join(record.payload for record in self.records() if record.kind is kind)

    def jsons(self, kind: Kind) -> list[dict[str, Any]]:
        return [record.json() for record in self.records() if record.kind is kind]

    def exit(self) -> dict[str, Any]:
        """The EXIT record, which must be the last one and the only one."""
        records = self.records()
        assert [record.kind for record in records].count(Kind.EXIT) == 1, records
        assert records[-1].kind is Kind.EXIT
        return records[-1].json()

    def said(self, word: bytes) -> Callable[[], bool]:
        """A condition for `until`: the job has written that on stdout."""
        return lambda: word in self.output(Kind.STDOUT)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(WAIT_S)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        marker = f"CUMULUS_JOB_DIR={self.path / folder.WORK}".encode()
        for entry in Path("/proc").iterdir():
            # What a killed runner leaves is this job's by its environment alone.
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


class FakeAgent:
    """Listens on the job's `agent.sock`, one connection at a time."""

    def __init__(self, job: JobFolder) -> None:
        self._path = job.path / folder.SOCKET
        self._server = socket.socket(socket.AF_UNIX)
        self._server.settimeout(WAIT_S)
        here = os.open(job.path, os.O_PATH)
        try:  # tmp_path may be longer than a socket's address can be
            self._server.bind(f"/proc/self/fd/{here}/{folder.SOCKET}")
        finally:
            os.close(here)
        self._server.listen()
        self._connection: socket.socket | None = None
        self._rest = b""

    def accept(self) -> dict[str, Any]:
        """Waits for the runner; its hello."""
        self.hang_up()
        self._connection, _ = self._server.accept()
        self._connection.settimeout(WAIT_S)
        self._rest = b""
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self._connection is not None
        while b"\n" not in self._rest:
            data = self._connection.recv(4096)
            assert data, "the runner hung up"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def pause(self, wanted: bool) -> None:
        assert self._connection is not None
        line = json.dumps({"t": "pause", "wanted": wanted}).encode() + b"\n"
        self._connection.sendall(line)

    def read_until(self, kind: str) -> dict[str, Any]:
        """The next message of that kind."""
        while True:
            message = self.read()
            if message["t"] == kind:
                return message

    def send(self, data: bytes) -> None:
        assert self._connection is not None
        self._connection.sendall(data)

    def stop(self, reason: str, grace_s: float) -> None:
        message = {"t": "stop", "reason": reason, "grace_s": grace_s}
        self.send(json.dumps(message).encode() + b"\n")

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self.hang_up()
        self._server.close()
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def fake_agent(job: JobFolder) -> Iterator[FakeAgent]:
    agent = FakeAgent(job)
    try:
        yield agent
    finally:
        agent.close()
