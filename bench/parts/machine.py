"""The machine that was measured on, in words."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_LIBRARIES = ("autobahn", "twisted", "cbor2", "msgspec", "orjson")


def machine() -> dict[str, Any]:
    """As JSON takes it. `load` tells whether it was quiet when the measuring began."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(ROOT),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cumulus": version("cumulus-gpu"),
        "commit": _commit(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "load": list(os.getloadavg()),
    }


def described(found: dict[str, Any]) -> str:
    """One line of it."""
    memory = found["memory_bytes"] / (1 << 30)
    load = found["load"][0]
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    engine = f", Docker Engine {found['engine']}" if "engine" in found else ""
    return (
        f"{found['cores']} cores of {found['cpu']}, {memory:.0f} GiB, {found['kernel']}, "
        f"{found['file_system']}, {found['python']}{engine}; Cumulus {found['cumulus']} at "
        f"{found['commit']} ({libraries}); load {load:.1f} at the start"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(path: Path) -> str:
    """Of the mount that holds it."""
    found, length = "unknown", -1
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if path.is_relative_to(place) and len(place) > length:
            found, length = kind, len(place)
    return found


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return asked.stdout.strip() or "no checkout"
