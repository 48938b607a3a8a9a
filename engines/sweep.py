"""Removes all of a cluster, by its tag: what is still there of it, whatever ended before.

Every step may be repeated, and is bounded. The order matters: processes first, since they hold the
rest.
"""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from engines import host, network
from engines.commands import run
from engines.engine import MARK
from engines.layout import Layout, NodeLayout, runtime_of

__all__ = ["MARKER", "cgroups_of_node", "leftovers", "sweep", "sweep_dead"]

#: In a cluster's folder: only a folder with it is ever removed. Its text is the tag.
MARKER = ".cumulus-engines"
GONE_TIMEOUT_S = 20.0
_CGROUPS = Path("/sys/fs/cgroup")


def processes_of(tag: str) -> list[int]:
    """Processes marked with the tag, and those in the cgroups of its containers."""
    mark = f"{MARK}={tag}\0".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            environ = Path(f"/proc/{name}/environ").read_bytes()
            cgroups = Path(f"/proc/{name}/cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or a kernel's own
        if mark in environ + b"\0" or f"/{tag}-n" in cgroups:
            found.append(int(name))
    return found


def mounts_under(folder: Path) -> list[str]:
    """Mount points at or under it, the deepest first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point == str(folder) or point.startswith(f"{folder}/"):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def cgroups_of(tag: str) -> list[Path]:
    """Folders of the tag's cgroups in every hierarchy, the deepest first."""
    return _cgroups(f"{tag}-n*")


def cgroups_of_node(layout: Layout, node: NodeLayout) -> list[Path]:
    """The same of one node."""
    return _cgroups(layout.cgroup(node).lstrip("/"))


def _cgroups(pattern: str) -> list[Path]:
    found: list[Path] = []
    for top in [*_CGROUPS.glob(pattern), *_CGROUPS.glob(f"*/{pattern}")]:
        if top.is_symlink() or top.parent.is_symlink():
            continue
        found += [Path(folder) for folder, _, _ in os.walk(top)]
    return sorted(found, key=lambda path: len(str(path)), reverse=True)


def leftovers(tag: str, base: Path | None = None) -> list[str]:
    """What there still is of the cluster, in words; empty when it is gone."""
    found = [f"process {pid}: {_command(pid)}" for pid in processes_of(tag)]
    found += [f"network namespace {name}" for name in network.namespaces_of(tag)]
    found += [f"link {name}" for name in network.links_of(tag)]
    found += [f"rule {' '.join(words)} ({table})" for table, words in network.rules_of(tag)]
    found += [f"cgroup {path}" for path in cgroups_of(tag)]
    for folder in (runtime_of(tag), base):
        if folder is not None:
            found += [f"mount {point}" for point in mounts_under(folder)]
            found += [f"folder {folder}"] * folder.exists()
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        return raw.replace(b"\0", b" ").decode(errors="replace")[:200]
    return "ended"


def sweep(tag: str, base: Path) -> None:
    """Removes everything but the runtime folder, which says that the cluster is being removed."""
    _end_processes(tag)
    for folder in (base, runtime_of(tag)):
        for point in mounts_under(folder):
            run("umount", "-l", point)
    network.remove_rules(tag)
    for name in network.namespaces_of(tag):
        run("ip", "netns", "delete", name)
    for name in network.links_of(tag):
        # Deleting one end of a cable, or a namespace a moment ago, may have taken it along.
        run("ip", "link", "delete", name, ok=(0, 1))
    _remove_cgroups(tag)
    _remove_folder(tag, base)


def sweep_dead() -> list[str]:
    """Removes clusters whose guardians were killed along with their wardens: their tags."""
    swept = []
    with host.alone():
        for tag in host.known_tags():
            if host.is_alive(tag):
                continue
            base_file = runtime_of(tag) / "base"
            base = Path(base_file.read_text()) if base_file.exists() else runtime_of(tag)
            sweep(tag, base)
            forget(tag)
            swept.append(tag)
        host.give_back()
    return swept


def forget(tag: str) -> None:
    """The last step: the runtime folder goes, and with it the cluster."""
    shutil.rmtree(runtime_of(tag))


def _end_processes(tag: str) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while pids := processes_of(tag):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            words = ", ".join(f"{pid} ({_command(pid)})" for pid in pids)
            raise RuntimeError(f"processes of {tag} live on after SIGKILL: {words}")
        time.sleep(0.02)


def _remove_cgroups(tag: str) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while folders := cgroups_of(tag):
        for folder in folders:
            # Busy while the kernel still buries the last process: the next round has it.
            with contextlib.suppress(OSError):
                folder.rmdir()
        if time.monotonic() > deadline:
            raise RuntimeError(f"cgroups of {tag} can't be removed: {folders}")
        time.sleep(0.02)


def _remove_folder(tag: str, base: Path) -> None:
    if not base.exists() or base == runtime_of(tag):
        return
    if not os.listdir(base):  # killed before anything was in it
        base.rmdir()
        return
    marker = base / MARKER
    if not marker.exists() or marker.read_text().strip() != tag:
        raise RuntimeError(f"{base} is not removed: it has no {MARKER} of {tag}")
    for entry in base.iterdir():  # the marker last, so that a kill midway leaves it removable
        if entry == marker:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    shutil.rmtree(base)
