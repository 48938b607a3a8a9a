"""Users' scripts for the packaging tests: each runs in a Python of its own, as users run them."""

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
BOOTSTRAP = Path(__file__).with_name("client_bootstrap.py")
JOBS_BOOTSTRAP = REPOSITORY / "cumulus_runner" / "bootstrap.py"
TIMEOUT_S = 60

#: Before a user's script: packing instead of a daemon.
PRELUDE = """\
import json as _json, os as _os, sys as _sys
_sys.path.insert(0, _os.environ["REPOSITORY"])
import cumulus_client.client as _client_module
from cumulus_client.packaging import package_function as _pack
def _submit(self, func, args, kwargs, spec, timeout, files=None):
    try:
        package = _pack(func, args, kwargs)
    except _client_module.CumulusError as error:
        with open("refused.json", "w") as _file:
            _json.dump({"type": type(error).__name__, "text": str(error)}, _file)
        raise SystemExit(3)
    with open("package.zip", "wb") as _file:
        _file.write(package.whole())
    return package
_client_module.CumulusClient._run_call = _submit
"""

#: Before a user's script: `client.run` packs, runs the package as a job's Python would, and opens
#: what comes back.
ROUND_TRIP = (
    PRELUDE
    + """\
import subprocess as _subprocess, tempfile as _tempfile
from cumulus_client import exceptions as _exceptions
from cumulus_client._arguments import decode_result as _decode
def _run(self, func, args, kwargs, spec, timeout, files=None):
    package = _pack(func, args, kwargs)
    self.last_package = package
    folder = _tempfile.mkdtemp(dir=_os.environ["JOBS"])
    with open(folder + ".zip", "wb") as _file:
        _file.write(package.whole())
    command = [_sys.executable, "-I", *_os.environ["BOOTSTRAPS"].split(":")]
    command[3:3] = [folder + ".zip", folder]
    done = _subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = _json.loads(done.stdout.strip().splitlines()[-1])
    end = {"reason": "user_error", "error": answer.get("told"), "message": "it raised"}
    if "told" not in answer and answer["report"]["state"] != "returned":
        end = {"reason": "result_invalid", **answer["report"]}
    if "told" in answer or answer["report"]["state"] != "returned":
        view = {"job_id": "j", "status": "failed", "end": end}
        raise _exceptions.error_from_end(view, aliases=package.aliases, may_import=True)
    self.last_encoding = answer["report"]["encoding"]
    with open(folder + "/result", "rb") as _file:
        data = _file.read()
    return _decode(
        data, self.last_encoding, job_id="j", may_unpickle=None, aliases=package.aliases
    )
_client_module.CumulusClient._run_call = _run
"""
)


@dataclass
class Ran:
    """What the job did with the package."""

    value: Any
    error: str | None
    traceback: str
    modules: list[str]
    files: dict[str, str]
    data: bytes
    report: dict[str, Any]  #: of the value, as the bootstrap saved it
    told: dict[str, str]  #: of the exception
    folder: Path


class Refused(Exception):
    """The client would not pack it."""


class UserScript:
    """A folder with a user's script and modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs = 0

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), "utf-8")
        return path

    def pack(
        self, text: str | None = None, *, command: list[str] | None = None, typed: str = ""
    ) -> bytes:
        """Runs the script, in which `client.run(...)` packs. Raises Refused with its words.
        `typed`: on its standard input."""
        if text is not None:
            self.write("train.py", text)
        self.write("sitecustomize.py", PRELUDE)
        for left in ("package.zip", "refused.json"):
            (self.folder / left).unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, *(command or ["train.py"])],
            cwd=self.folder,
            env={**os.environ, "REPOSITORY": str(REPOSITORY), "PYTHONPATH": str(self.folder)},
            input=typed,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        refused = self.folder / "refused.json"
        if refused.exists():
            said = json.loads(refused.read_text())
            assert said["type"] == "PackagingError", said
            raise Refused(said["text"])
        assert done.returncode == 0, done.stderr
        package = self.folder / "package.zip"
        assert package.exists(), f"nothing was submitted: {done.stdout}{done.stderr}"
        return package.read_bytes()

    def round_trip(self, text: str) -> str:
        """Runs the script, in which `client.run(...)` gives the job's value back; its stdout."""
        self.write("train.py", text)
        self.write("sitecustomize.py", ROUND_TRIP)
        jobs = self.folder.parent / "jobs"
        jobs.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "train.py"],
            cwd=self.folder,
            env={
                **os.environ,
                "REPOSITORY": str(REPOSITORY),
                "PYTHONPATH": str(self.folder),
                "JOBS": str(jobs),
                "BOOTSTRAPS": f"{BOOTSTRAP}:{JOBS_BOOTSTRAP}",
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(
        self,
        text: str | None = None,
        *,
        command: list[str] | None = None,
        typed: str = "",
        python: str = sys.executable,
    ) -> Ran:
        """Packs, then runs the package in a Python that has no cumulus_client."""
        data = self.pack(text, command=command, typed=typed)
        self._runs += 1
        work = self.folder.parent / f"{self.folder.name}-job-{self._runs}"
        work.mkdir()
        package = work.parent / f"{work.name}.zip"
        package.write_bytes(data)
        done = subprocess.run(
            [python, "-I", str(BOOTSTRAP), str(package), str(work), str(JOBS_BOOTSTRAP)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        with zipfile.ZipFile(package) as archive:
            files = {name: archive.read(name).decode("latin-1") for name in archive.namelist()}
        return Ran(
            answer.get("value"),
            answer.get("error"),
            answer.get("traceback", ""),
            answer["modules"],
            files,
            data,
            answer.get("report", {}),
            answer.get("told", {}),
            work,
        )
