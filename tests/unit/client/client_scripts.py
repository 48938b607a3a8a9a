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
        _file.write(package.data)
    return package
_client_module.CumulusClient._run_call = _submit
"""


@dataclass
class Ran:
    """What the job did with the package."""

    value: Any
    error: str | None
    traceback: str
    modules: list[str]
    files: dict[str, str]
    data: bytes


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

    def pack(self, text: str | None = None, *, command: list[str] | None = None) -> bytes:
        """Runs the script, in which `client.run(...)` packs. Raises Refused with its words."""
        if text is not None:
            self.write("train.py", text)
        self.write("sitecustomize.py", PRELUDE)
        for left in ("package.zip", "refused.json"):
            (self.folder / left).unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, *(command or ["train.py"])],
            cwd=self.folder,
            env={**os.environ, "REPOSITORY": str(REPOSITORY), "PYTHONPATH": str(self.folder)},
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

    def run(self, text: str | None = None, *, command: list[str] | None = None) -> Ran:
        """Packs, then runs the package in a Python that has no cumulus_client."""
        data = self.pack(text, command=command)
        self._runs += 1
        work = self.folder.parent / f"{self.folder.name}-job-{self._runs}"
        work.mkdir()
        package = work.parent / f"{work.name}.zip"
        package.write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-I", str(BOOTSTRAP), str(package), str(work)],
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
        )
