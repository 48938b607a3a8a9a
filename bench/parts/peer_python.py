"""Peers from PyPI, each in an environment of its own, kept from one run to the next."""

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.parts.errors import BenchError

INSTALL_S = 300.0
_MAKE_S = 120.0
#: In an environment: the requirement that it was made for and where, once all of it is there. Its
#: scripts name its interpreter by that path: a copy of the folder is made again.
_STAMP = ".cumulus-bench"


def installed(folder: Path, requirement: str) -> Path:
    """The interpreter of the environment in `folder` that has `requirement`, made if need be; by uv
    as script/setup, which is many times quicker than pip, else by pip. Raises BenchError."""
    python, stamp = folder / "bin/python", folder / _STAMP
    made = f"{requirement} in {folder.resolve()}"
    if _works(python) and stamp.exists() and stamp.read_text() == made:
        return python
    print(f"bench: installing {requirement} into {folder}", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + INSTALL_S
    venv = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", folder],
        capture_output=True,
        text=True,
        timeout=_MAKE_S,
    )
    if venv.returncode:
        raise BenchError(f"no environment in {folder}: {_last_line(venv.stderr)}")
    said = ""
    for command in _installers(python):
        try:
            done = subprocess.run(
                [*command, "--quiet", requirement],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=_environment(),
                timeout=max(1.0, deadline - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            said = f"not done within {INSTALL_S:.0f} s"
            break
        if done.returncode == 0:
            stamp.write_text(made)
            return python
        said = _last_line(done.stderr)
    raise BenchError(f"{requirement} can't be installed here: {said}")


def version_of(python: Path, package: str) -> str:
    """Of a package in that environment."""
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run(
        [python, "-c", ask], check=True, capture_output=True, text=True, timeout=_MAKE_S
    )
    return done.stdout.strip()


def _works(python: Path) -> bool:
    """An environment can't be moved, and its Python may have gone."""
    if not python.exists():
        return False
    asked = subprocess.run([python, "-c", ""], capture_output=True, timeout=_MAKE_S)
    return asked.returncode == 0


def _installers(python: Path) -> list[list[str]]:
    uv = Path(sys.executable).with_name("uv")
    by_uv = [[str(uv), "pip", "install", "--python", str(python)]] if uv.exists() else []
    return [*by_uv, [str(python), "-m", "pip", "install"]]


def _environment() -> dict[str, str]:
    """With what pip is told, for uv, which reads variables of its own only."""
    found = dict(os.environ)
    if places := found.get("PIP_FIND_LINKS"):
        found.setdefault("UV_FIND_LINKS", places.replace(" ", ","))
    if bundle := found.get("PIP_CERT"):
        found.setdefault("SSL_CERT_FILE", bundle)
    return found


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
