"""Builds the C libraries that tests load, once each."""

import subprocess
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"),
    *("-shared", "-fPIC", "-pthread"),
)


def build(name: str, folder: Path) -> Path:
    """`<name>.c` beside this file as a shared library in `folder`."""
    library = folder / f"{name}.so"
    source = _SOURCES / f"{name}.c"
    subprocess.run(["gcc", *_FLAGS, "-o", library, source, "-lm"], check=True, timeout=60)
    return library
