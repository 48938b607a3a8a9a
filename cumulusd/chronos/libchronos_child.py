"""Calls libchronos for the agent. Run as a program, never imported by the agent.

It stands alone (`python -I libchronos_child.py LIBRARY LOCKS`), because the library prints to
stdout, tells its reasons on stderr, and may hang or crash. Requests come on descriptor 0, answers
go to 3, as JSON lines, in order; the library's own words go nowhere (1) and into the file that is
descriptor 2.

It makes one handle and destroys none: two handles overcommit, and use after destroy crashes. It
never forks: a fork's exit would delete the locks of what its parent holds.
"""

import ctypes
import json
import os
import re
import resource
import signal
import socket
import sys
from typing import Any

MAX_DEVICES = 64
MAX_PARTITIONS = 4096
MAX_REASON_BYTES = 4096
MAX_STDERR_BYTES = 1 << 20
#: How often a share is made a permille smaller because the library refuses it: for a lock that was
#: made just now, or for its rounding of a device's bytes to floats.
MAX_REFUSALS = 3
_MAX_SECONDS = (1 << 31) - 1
_PR_SET_PDEATHSIG = 1
#: Before 1.1 a lock is a share's, and shuts out all others of its size; since then a partition's.
_LOCK = re.compile(r"gpu_(\d+)_(\d+)\.lock|partition_\w+\.lock")
_ANSWERS = 3


class Info(ctypes.Structure):
    """ChronosPartitionInfo of chronos_c.h. Its device is always 0: it isn't read."""

    _fields_ = [
        ("id", ctypes.c_char * 64),
        ("device", ctypes.c_int),
        ("fraction", ctypes.c_float),
        ("seconds", ctypes.c_int),
        ("remaining", ctypes.c_int),
        ("user", ctypes.c_char * 256),
        ("pid", ctypes.c_int),
        ("active", ctypes.c_int),
    ]


class Refused(Exception):
    """The library said no; the message says why."""


class Locks:
    """The library's lock files, which survive whoever made them."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._host = socket.gethostname()

    def sweep(self) -> None:
        """Removes stale locks, before this process has made any: what bears its number is of
        another that had it, as happens where a container starts anew."""
        for match in self._matches():
            self._removed(match[0], gone=os.getpid())

    def taken(self, device: int) -> set[int]:
        """The permilles that are locked on that device, stale locks removed."""
        return {
            int(match[2])
            for match in self._matches()
            if match[1] is not None and int(match[1]) == device and not self._removed(match[0])
        }

    def _matches(self) -> list[re.Match[str]]:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []  # not made yet
        return [match for match in map(_LOCK.fullmatch, names) if match is not None]

    def _removed(self, name: str, gone: int | None = None) -> bool:
        """Only what is provably of a process of this machine that is gone, as `gone` is."""
        path = os.path.join(self._folder, name)
        try:
            with open(path, "rb") as file:
                text = file.read(4096).decode(errors="replace")
        except FileNotFoundError:
            return True
        except OSError:
            return False
        said = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        pid = said.get("pid", "")
        if said.get("host") != self._host or not pid.isdigit():
            return False
        if int(pid) != gone and not self._is_gone(int(pid)):
            return False
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    @staticmethod
    def _is_gone(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            pass
        return False


class Library:
    """One handle of the library."""

    def __init__(self, path: str, locks: Locks) -> None:
        """Raises OSError when it isn't there, AttributeError when it is something else."""
        self._locks = locks
        library = ctypes.CDLL(path)
        handle, text = ctypes.c_void_p, ctypes.c_char_p
        for name, answer, arguments in (
            ("partitioner_create", handle, []),
            (
                "create_partition",
                ctypes.c_int,
                [
                    *(handle, ctypes.c_int, ctypes.c_float, ctypes.c_int),
                    *(text, text, ctypes.c_size_t),
                ],
            ),
            ("release_partition", ctypes.c_int, [handle, text]),
            (
                "list_partitions",
                ctypes.c_int,
                [handle, ctypes.POINTER(Info), ctypes.POINTER(ctypes.c_size_t)],
            ),
            ("get_available_percentage", ctypes.c_float, [handle, ctypes.c_int]),
            ("get_last_error", text, []),
        ):
            function = getattr(library, f"chronos_{name}")
            function.restype, function.argtypes = answer, arguments
        self._library = library
        locks.sweep()
        self._handle = library.chronos_partitioner_create()
        if not self._handle:
            raise Refused(self._reason())
        # Without a device the handle is valid, and every create fails.
        self.devices = 0
        while self.devices < MAX_DEVICES and self._available(self.devices) >= 0:
            self.devices += 1

    def create(self, device: int, permille: int, seconds: int) -> dict[str, Any]:
        """Books the largest free share that isn't larger. Raises Refused."""
        if not 0 <= device < self.devices:
            raise Refused(f"libchronos sees {self.devices} device(s), none with index {device}")
        refusals = 0
        reason = ""
        while permille > 0 and refusals < MAX_REFUSALS:
            if permille in self._locks.taken(device):
                reason = reason or f"every share down from {permille} permille is locked"
                permille -= 1
                continue
            name = ctypes.create_string_buffer(64)
            fraction = ctypes.c_float(permille / 1000)
            seconds = min(max(1, seconds), _MAX_SECONDS)
            # For its own user: what root makes for others, it can't release.
            status = self._library.chronos_create_partition(
                self._handle, device, fraction, seconds, None, name, len(name)
            )
            if status == 0:
                return {"id": name.value.decode(errors="replace"), "permille": permille}
            reason = self._reason() if not refusals else reason
            refusals += 1
            permille -= 1
        raise Refused(reason)

    def release(self, name: str) -> dict[str, Any]:
        """Returns when it isn't held: one that has expired can't be released, and needn't be."""
        if self._library.chronos_release_partition(self._handle, name.encode()) != 0:
            reason = self._reason()
            if name in self.held():
                raise Refused(reason)
        return {}

    def held(self) -> list[str]:
        """The ids of what is booked."""
        entries = (Info * MAX_PARTITIONS)()
        count = ctypes.c_size_t(MAX_PARTITIONS)
        if self._library.chronos_list_partitions(self._handle, entries, ctypes.byref(count)) != 0:
            raise Refused(self._reason())
        found = entries[: min(count.value, MAX_PARTITIONS)]
        return [one.id.decode(errors="replace") for one in found if one.active]

    def _available(self, device: int) -> float:
        return float(self._library.chronos_get_available_percentage(self._handle, device))

    def _reason(self) -> str:
        """What it last said on stderr, since its errors say nothing; else its error."""
        data = os.pread(2, MAX_STDERR_BYTES, 0)[-MAX_REASON_BYTES:]
        said = " ".join(data.decode(errors="replace").split())
        last = self._library.chronos_get_last_error() or b""
        return said or last.decode(errors="replace") or "it gave no reason"


def _hello(path: str, locks: str) -> tuple[Library | None, dict[str, Any]]:
    try:
        library = Library(path, Locks(locks))
    except OSError as error:
        return None, {"ok": False, "missing": True, "why": f"{path} can't be loaded: {error}"}
    except AttributeError as error:
        return None, {"ok": False, "missing": False, "why": f"{path} is no libchronos: {error}"}
    except Refused as error:
        return None, {"ok": False, "missing": False, "why": str(error)}
    return library, {"ok": True, "devices": library.devices}


def _answer(library: Library, request: dict[str, Any]) -> dict[str, Any]:
    os.ftruncate(2, 0)
    try:
        if request["do"] == "create":
            answer = library.create(request["device"], request["permille"], request["seconds"])
        elif request["do"] == "release":
            answer = library.release(request["id"])
        else:
            answer = {"held": library.held()}
    except Refused as error:
        return {"ok": False, "why": str(error)}
    return {"ok": True, **answer}


def _say(answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(_ANSWERS, data) :]


def main() -> None:
    """Serves until descriptor 0 ends, then gives back what is held."""
    library_path, locks = sys.argv[1:]
    os.setsid()
    # Should the agent die, so does this at once: its locks are then provably stale.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_STDERR_BYTES, MAX_STDERR_BYTES))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
    library, hello = _hello(library_path, locks)
    _say(hello)
    if library is None:
        return
    with open(0, "rb", closefd=False) as requests:
        for line in requests:
            _say(_answer(library, json.loads(line)))
    try:
        for name in library.held():
            library.release(name)
    finally:
        # Past the library's own destructors, which wait for its thread.
        os._exit(0)


if __name__ == "__main__":
    main()
