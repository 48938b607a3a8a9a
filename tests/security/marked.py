"""Secrets that are known again in whatever form they turn up, and where that is looked for."""

import base64
import io
import os
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import requests

from tests.e2e.harness import Daemon


class Marked:
    """One secret's value. `source` is an expression for it that doesn't hold it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.value = f"mk-{name}-{os.urandom(12).hex()}-Zq9"
        middle = len(self.value) // 2
        self.source = f"({self.value[:middle]!r} + {self.value[middle:]!r})"
        plain = self.value.encode()
        forms = {plain, plain[::-1], plain.hex().encode(), plain.hex().upper().encode()}
        for shift in range(3):
            # Wherever it begins in what is encoded: without the characters that depend on others.
            text = base64.b64encode(b"\0" * shift + plain)
            forms.add(text[(0, 2, 3)[shift] : len(text) - 4])
        forms |= {form.replace(b"+", b"-").replace(b"/", b"_") for form in forms}
        forms.add("".join(f"%{byte:02x}" for byte in plain).encode())
        forms.add(self.value.encode("utf-16-le"))
        self.forms = tuple(forms)

    def is_in(self, data: bytes) -> bool:
        """In any of its forms?"""
        return any(form in data for form in self.forms)


def files_holding(folder: Path, secrets: Iterable[Marked]) -> dict[str, list[str]]:
    """File below `folder` -> the names of the secrets in it; zips are looked into."""
    found: dict[str, list[str]] = {}
    secrets = list(secrets)
    for path in folder.rglob("*"):
        try:
            if not path.is_file():
                continue
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # it went meanwhile
        names = [one.name for one in secrets if one.is_in(data + unzipped(data))]
        if names or any(one.is_in(str(path).encode()) for one in secrets):
            found[str(path.relative_to(folder))] = names
    return found


def unzipped(data: bytes) -> bytes:
    """All that a zip holds; nothing of what is none."""
    if not data.startswith(b"PK\3\4"):
        return b""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return b"\n".join(archive.read(name) for name in archive.namelist())
    except zipfile.BadZipFile:
        return b""


def processes_holding(secrets: Iterable[Marked], but: Iterable[int] = ()) -> list[str]:
    """Processes with one of them on their command line or in their environment, but those."""
    found, secrets, but = [], list(secrets), set(but)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in but:
            continue
        for part in ("cmdline", "environ"):
            try:
                data = (entry / part).read_bytes()
            except OSError:
                continue
            found += [f"{entry.name} {part}: {one.name}" for one in secrets if one.is_in(data)]
    return found


def answers(daemon: Daemon, token: str | None = None) -> Mapping[str, bytes]:
    """What the daemon tells of itself and of all its jobs."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def get(path: str) -> Any:
        return requests.get(daemon.url + path, headers=headers, timeout=30)

    paths = ["/health", "/metrics", "/api/info", "/api/workers", "/api/jobs"]
    for job in get("/api/jobs").json():
        below = ("", "/results", "/logs", "/outputs", "/checkpoints")
        paths += [f"/api/jobs/{job['job_id']}{part}" for part in below]
    said = {path: get(path) for path in paths}
    told = {path: answer.content + str(answer.headers).encode() for path, answer in said.items()}
    told["log"] = daemon.log.read_bytes()
    told["ps"] = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, check=True).stdout
    return told


def shown(daemon: Daemon, secrets: Iterable[Marked], token: str | None = None) -> list[str]:
    """Where one of them is shown."""
    told = answers(daemon, token)
    return [f"{where}: {one.name}" for one in secrets for where in told if one.is_in(told[where])]
