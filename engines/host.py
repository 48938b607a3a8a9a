"""Changes to the machine that clusters share: the first makes them, the last takes them back.

Forwarding of packets is switched on, /var/lib/cumulus is made where it is absent, and `ip` mounts
/run/netns. What was changed stands in a record; the lock keeps makers and removers apart.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from engines.commands import ToolError, run
from engines.layout import RUNTIME, TAG, WORKER_ROOT

__all__ = ["alone", "claim", "give_back", "is_alive", "known_tags", "prepare"]

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_NAMESPACES = Path("/run/netns")
_RECORD = RUNTIME / "host.json"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One maker or remover of clusters at a time, on this machine."""
    descriptor = _locked()
    try:
        yield
        _leave_nothing()
    finally:
        os.close(descriptor)


def _locked() -> int:
    while True:
        RUNTIME.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(RUNTIME / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # the folder was removed in between
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # The last one before us may have removed the file that was waited for.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(RUNTIME / "lock")):
                return descriptor
        os.close(descriptor)


def _leave_nothing() -> None:
    """Removes the folder when nothing but the lock is in it."""
    if os.listdir(RUNTIME) == ["lock"]:
        (RUNTIME / "lock").unlink()
        with contextlib.suppress(OSError):  # somebody came in: it is theirs now
            RUNTIME.rmdir()


def claim(tag: str) -> int:
    """Takes the cluster's lock for this process and those that inherit it: its descriptor.

    Under `alone`: a folder without a holder of its lock counts as left over.
    """
    folder = RUNTIME / tag
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for `is_alive` elsewhere, at most
    return descriptor


def is_alive(tag: str) -> bool:
    """Does somebody hold the cluster's lock? The kernel frees it when its holders are gone."""
    try:
        descriptor = os.open(RUNTIME / tag / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def known_tags() -> list[str]:
    """Tags of all clusters that are there, or left something."""
    try:
        return sorted(name for name in os.listdir(RUNTIME) if TAG.fullmatch(name))
    except FileNotFoundError:
        return []


def prepare() -> None:
    """Makes the shared changes, under `alone`."""
    record = {"made_by": "cumulus engines", **_read()}
    if _FORWARDING.read_text().strip() == "0":
        record["ip_forward"] = "0"
    if not WORKER_ROOT.exists():
        record["worker_root"] = "absent"
    if not os.path.ismount(_NAMESPACES):
        record["namespaces"] = "absent"
    fresh = _RECORD.with_suffix(".new")  # before the changes: a kill in between loses none
    fresh.write_text(json.dumps(record))
    fresh.replace(_RECORD)
    if "ip_forward" in record:
        _FORWARDING.write_text("1")
    WORKER_ROOT.mkdir(mode=0o755, exist_ok=True)


def give_back() -> None:
    """Takes them back when no cluster is left, under `alone`."""
    record = _read()
    if not record or known_tags():
        return
    # A Docker that the user started meanwhile relies on forwarding by now.
    if "ip_forward" in record and not Path("/sys/class/net/docker0").exists():
        _FORWARDING.write_text(record["ip_forward"])
    if "worker_root" in record and WORKER_ROOT.is_dir() and not os.listdir(WORKER_ROOT):
        WORKER_ROOT.rmdir()
    if "namespaces" in record and _NAMESPACES.is_dir() and not os.listdir(_NAMESPACES):
        # `ip netns add` mounts it. In use by somebody now: it is theirs.
        with contextlib.suppress(ToolError, OSError):
            run("umount", str(_NAMESPACES))
            _NAMESPACES.rmdir()
    _RECORD.unlink(missing_ok=True)


def _read() -> dict[str, str]:
    try:
        return dict(json.loads(_RECORD.read_text()))
    except FileNotFoundError:
        return {}
