"""What the proof of the OpenCL layer depends on, as one fingerprint, taken without the driver.

Equal fingerprints on one worker mean that the proof would go the same way: it is by the image's
digest (its root is read-only), by what is mounted into it, by the libraries, by the process's whole
environment, by the grant, by devices and their kernel drivers. What is a job's own in it, and never
the driver's concern, stands as a word: its folder, its partition's id, its grant's expiry.
"""

from __future__ import annotations

import os
import resource
import stat
import sys

from cumulus_runner.light_sha256 import sha256
from cumulus_wire.grant import GRANT, OPENCL, OPENCL_LAYER, PROVEN, USAGE
from cumulus_wire.light_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Changes with what is taken in, and with what the proof shows.
VERSION = 1
MAX_FILE_BYTES = 1 << 20
_PRELOAD = "/etc/ld.so.preload"
_OPENCL_FOLDERS = ("/etc/OpenCL/layers", "/etc/OpenCL/vendors")
_LOADER = "libOpenCL.so.1"
_MULTIARCH = getattr(sys.implementation, "_multiarch", "")
#: Where libraries are that are named without a path.
_LIBRARY_FOLDERS = (
    "/usr/local/lib",
    *(f"{place}/{_MULTIARCH}" for place in ("/usr/local/lib", "/lib", "/usr/lib") if _MULTIARCH),
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
#: Kernel drivers say here which they are.
_KERNEL_DRIVERS = (
    "/proc/driver/nvidia/version",
    *(
        f"/sys/module/{name}/{what}"
        for name in ("nvidia", "nvidia_uvm", "amdgpu", "i915", "xe")
        for what in ("version", "srcversion")
    ),
)
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max")
#: Mounts that say nothing: made for each container, or looked at by what is in them.
_OWN_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", _PRELOAD, "/overrideEnv")
_OWN_FOLDERS = ("/proc", "/sys", "/dev", "/tmp", "/run/cumulus")
#: Below /dev: made for each container, or no devices.
_NO_DEVICES = ("pts", "shm", "mqueue", "fd")


class Unknown(Exception):
    """It can't be told what the proof depends on; the message says why."""


def fingerprint(
    variables: Mapping[str, str],
    *,
    image: str,
    folders: tuple[str, ...],
    partition_id: str | None,
    root: str = "",
) -> str:
    """64 hexadecimal digits. Raises Unknown, OSError.

    `variables`: the environment of the code's processes, without its secrets. `image`: what the
    container is made of. `folders`: the job's own, which are mounted into it. `root`: where the
    file system begins, for tests.
    """
    if "sha256:" not in image:
        raise Unknown("the container's image isn't known by its digest")
    look, kernel = _Look(root), os.uname()
    parts: list[object] = [
        VERSION,
        image,
        [sys.executable, sys.version, look.identity(sys.executable)],
        [kernel.sysname, kernel.release, kernel.version, kernel.machine],
        [os.getuid(), os.getgid(), sorted(os.getgroups())],
        [
            resource.getrlimit(limit)
            for limit in (
                resource.RLIMIT_AS,
                resource.RLIMIT_DATA,
                resource.RLIMIT_MEMLOCK,
                resource.RLIMIT_NOFILE,
                resource.RLIMIT_NPROC,
                resource.RLIMIT_STACK,
            )
        ],
        _environment(variables, folders, partition_id),
        look.grant(),
        look.preloaded(),
        look.opencl(),
        look.digest("/etc/ld.so.cache"),
        look.mounts(folders),
        look.devices(),
        [look.text(path) for path in (*_KERNEL_DRIVERS, *_LIMITS)],
    ]
    return _digest(dumps(parts, compact=True).encode())


def _digest(data: bytes) -> str:
    digest = sha256(len(data))
    digest.update(data)
    return digest.hexdigest()


def _environment(
    variables: Mapping[str, str], folders: tuple[str, ...], partition_id: str | None
) -> list[list[str]]:
    """All of it: who knows what a driver reads."""
    for name in variables:
        if name.startswith("LD_"):
            raise Unknown(f"{name} changes what processes load")
    return [
        [name, "<partition>" if text == partition_id else _without(folders, text)]
        for name, text in sorted(variables.items())
    ]


def _without(folders: tuple[str, ...], text: str) -> str:
    """The text, if it is a path in one of them as a path that any job may have."""
    for number, folder in enumerate(folders):
        if _is_in(folder, text):
            return f"<{number}>{text[len(folder) :]}"
    return text


def _is_in(folder: str, path: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


class _Look:
    """Reads the container's files, bounded; what isn't there is told as such."""

    def __init__(self, root: str) -> None:
        self._root = root

    def identity(self, path: str) -> list[int] | None:
        """Of what the path leads to; None: nothing is there. It says no device's number: an image's
        files have another in each container."""
        try:
            found = os.stat(self._root + path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode]

    def text(self, path: str) -> str | None:
        """A file's content. Raises Unknown for one that is too large."""
        data = self._read(path)
        return None if data is None else data.decode("latin-1")

    def digest(self, path: str) -> str | None:
        """The same of a larger file, in short."""
        data = self._read(path)
        return None if data is None else _digest(data)

    def _read(self, path: str) -> bytes | None:
        try:
            with open(self._root + path, "rb", buffering=0) as file:
                data = b""
                while len(data) <= MAX_FILE_BYTES and (part := file.read(MAX_FILE_BYTES)):
                    data += part
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(data) > MAX_FILE_BYTES:
            raise Unknown(f"{path} is over {MAX_FILE_BYTES} bytes")
        return data

    def names(self, path: str) -> list[str]:
        """What is in the folder."""
        try:
            return sorted(os.listdir(self._root + path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def grant(self) -> list[object]:
        """What the layer is to enforce, and that its accounts are there."""
        text = self.text(f"{GRANT}/{OPENCL}")
        if text is None:
            raise Unknown("there is no grant")
        lines = [
            "expires_boottime_s" if line.startswith("expires_boottime_s=") else line
            for line in text.splitlines()
        ]
        others = [
            [name, self.text(f"{GRANT}/{name}")]
            for name in self.names(GRANT)
            if name not in (OPENCL, PROVEN)
        ]
        accounts = self.identity(f"{USAGE}/{OPENCL}")
        return [lines, others, None if accounts is None else [accounts[1], accounts[4]]]

    def preloaded(self) -> list[object]:
        """What every process is brought. Raises Unknown where this one has no layer."""
        text = self.text(_PRELOAD) or ""
        paths = text.replace(":", " ").split()
        if OPENCL_LAYER not in paths:
            raise Unknown("the OpenCL layer isn't in /etc/ld.so.preload")
        # The code's processes are started as this one was: it is in them if it is in this one.
        mapped = self.text("/proc/self/maps") or ""
        if not any(line.endswith(f" {OPENCL_LAYER}") for line in mapped.splitlines()):
            raise Unknown("the OpenCL layer isn't mapped into this process")
        return [text, [self.identity(path) for path in paths]]

    def opencl(self) -> list[object]:
        """Loader, layers, drivers."""
        named = []
        for folder in _OPENCL_FOLDERS:
            for name in self.names(folder):
                text = self.text(f"{folder}/{name}")
                libraries = [] if text is None else text.split()
                named.append([folder, name, text, [self.library(path) for path in libraries]])
        return [self.library(_LOADER), named]

    def library(self, name: str) -> list[object]:
        """Each file that the name can stand for."""
        if name.startswith("/"):
            return [name, self.identity(name)]
        return [[place, self.identity(f"{place}/{name}")] for place in _LIBRARY_FOLDERS]

    def mounts(self, folders: tuple[str, ...]) -> list[object]:
        """What isn't the image's. Raises Unknown for a folder that can hold anything."""
        found: list[object] = []
        for line in (self.text("/proc/self/mountinfo") or "").splitlines():
            # proc_pid_mountinfo(5): id, parent, device, root, mount point
            fields = line.split(" ")
            device, inside, point = fields[2], fields[3], _unescaped(fields[4])
            if point == "/" or point in _OWN_FILES:
                continue
            if any(_is_in(folder, point) for folder in folders):
                continue
            if any(_is_in(folder, point) for folder in _OWN_FOLDERS):
                if _is_in("/run/cumulus", point) and not _is_in(GRANT, point):
                    # The grant's other parts, such as the pipes of CUDA's service.
                    found.append([point, None if _is_in(USAGE, point) else [device, inside]])
                continue
            identity = self.identity(point)
            if identity is None or stat.S_ISDIR(identity[4]):
                raise Unknown(f"the folder {point} is mounted into the container")
            found.append([point, device, inside, identity])
        return sorted(found, key=str)

    def devices(self) -> list[object]:
        """The nodes of devices, and who may use them."""
        return [list(one) for one in self._nodes("/dev", 2)]

    def _nodes(self, folder: str, levels: int) -> Iterator[tuple[str, int, int, int, int]]:
        for name in self.names(folder):
            path = f"{folder}/{name}"
            if folder == "/dev" and name in _NO_DEVICES:
                continue
            found = os.lstat(self._root + path)
            if stat.S_ISDIR(found.st_mode) and levels > 1:
                yield from self._nodes(path, levels - 1)
            elif not stat.S_ISLNK(found.st_mode):
                yield path, found.st_rdev, found.st_mode, found.st_uid, found.st_gid


def _unescaped(path: str) -> str:
    """A path as mountinfo has it."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
