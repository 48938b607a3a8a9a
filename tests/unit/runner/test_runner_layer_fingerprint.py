"""What the layer's proof depends on changes its fingerprint; what is a job's own doesn't."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cumulus_runner.layer_fingerprint import MAX_FILE_BYTES, Unknown, fingerprint
from cumulus_wire.grant import OPENCL_LAYER

IMAGE = "sha256:" + "a" * 64
JOB = "/var/lib/cumulus/jobs/job_1"
ENVIRONMENTS = "/var/lib/cumulus/owners/abc/env"
MULTIARCH = getattr(sys.implementation, "_multiarch", "")
MOUNTINFO = f"""\
600 500 0:50 / / ro,relatime - overlay overlay rw,lowerdir=x
601 600 0:51 / /proc rw - proc proc rw
602 600 0:52 / /dev rw - tmpfs tmpfs rw
603 602 0:53 / /dev/pts rw - devpts devpts rw
604 600 8:1 {JOB} {JOB} rw - ext4 /dev/sda1 rw
605 600 8:1 {ENVIRONMENTS} {ENVIRONMENTS} rw - ext4 /dev/sda1 rw
606 600 8:1 /var/lib/cumulus/grants/job_1/grant /run/cumulus/grant ro - ext4 /dev/sda1 rw
607 600 8:1 /var/lib/cumulus/grants/job_1/usage /run/cumulus/usage rw - ext4 /dev/sda1 rw
608 600 8:1 /containers/12ab/hosts /etc/hosts ro - ext4 /dev/sda1 rw
609 600 8:1 /usr/bin/docker-init /sbin/docker-init ro - ext4 /dev/sda1 rw
610 600 8:1 /usr/lib/libdriver.so.1 /usr/lib/libdriver.so.1 ro - ext4 /dev/sda1 rw
611 600 0:60 / /tmp rw - tmpfs tmpfs rw
612 600 8:1 /var/lib/cumulus/mps/pipe /run/cumulus/mps rw - ext4 /dev/sda1 rw
"""
GRANT = "version=1\nquota_bytes=1000\nexpires_boottime_s=77\ndevice_uuid=ab\n"


class Container:
    """A container's file system, as far as it matters; each part can be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.image = IMAGE
        self.folders = (JOB, ENVIRONMENTS)
        self.partition = "p-1"
        self.variables = {
            "PATH": "/usr/bin",
            "HOME": f"{JOB}/scratch",
            "TMPDIR": f"{JOB}/scratch/tmp",
            "CUMULUS_PARTITION_ID": "p-1",
            "RATE": "0.1",
        }
        for path, text in {
            sys.executable: "python",
            "/etc/ld.so.preload": f"{OPENCL_LAYER}\n",
            "/etc/ld.so.cache": "cache",
            "/etc/OpenCL/layers/cumulus.lay": f"{OPENCL_LAYER}\n",
            "/etc/OpenCL/vendors/pocl.icd": "libpocl.so.2\n",
            "/etc/OpenCL/vendors/card.icd": "/usr/lib/libdriver.so.1\n",
            OPENCL_LAYER: "layer",
            "/usr/lib/libdriver.so.1": "driver",
            "/usr/lib/libpocl.so.2": "pocl",
            "/usr/lib/libOpenCL.so.1": "loader",
            "/sbin/docker-init": "init",
            "/proc/self/maps": f"7f00-7f01 r-xp 00000000 00:2f 12    {OPENCL_LAYER}\n",
            "/proc/self/mountinfo": MOUNTINFO,
            "/proc/driver/nvidia/version": "535",
            "/sys/fs/cgroup/memory.max": "max",
            "/run/cumulus/grant/opencl": GRANT,
            "/run/cumulus/usage/opencl": "\0" * 100,
            "/dev/dri/card0": "",
        }.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        file = self.root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def replace(self, path: str) -> None:
        """Another file of the same content, size and time."""
        file = self.root / path[1:]
        before = file.stat()
        other = file.with_name("another")
        other.write_bytes(file.read_bytes())
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.rename(file)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path[1:]).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def mount(self, line: str) -> None:
        self.write("/proc/self/mountinfo", MOUNTINFO + line + "\n")

    def take(self) -> str:
        return fingerprint(
            self.variables,
            image=self.image,
            folders=self.folders,
            partition_id=self.partition,
            root=str(self.root),
        )


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def to_another_job(container: Container) -> None:
    """The same kind of job, in its own container."""
    other = JOB.replace("job_1", "job_2")
    container.folders = (other, ENVIRONMENTS)
    container.partition = "p-2"
    container.variables = {
        name: "p-2" if text == "p-1" else text.replace(JOB, other)
        for name, text in container.variables.items()
    }
    container.edit("/run/cumulus/grant/opencl", "=77", "=99")
    text = MOUNTINFO.replace("job_1", "job_2").replace("12ab", "34cd").replace("0:5", "0:7")
    container.write("/proc/self/mountinfo", text)
    container.replace("/run/cumulus/usage/opencl")
    container.replace("/etc/ld.so.preload")


#: Each is something else in the eyes of the proof.
CHANGES: dict[str, Callable[[Container], object]] = {
    "image": lambda c: setattr(c, "image", "sha256:" + "b" * 64),
    "interpreter": lambda c: c.replace(sys.executable),
    "layer": lambda c: c.replace(OPENCL_LAYER),
    "layer's size": lambda c: c.write(OPENCL_LAYER, "layer two"),
    "layer's time": lambda c: os.utime(c.root / OPENCL_LAYER[1:], ns=(1, 1)),
    "layer gone": lambda c: (c.root / OPENCL_LAYER[1:]).unlink(),
    "loader": lambda c: c.replace("/usr/lib/libOpenCL.so.1"),
    "a loader before it": lambda c: c.write("/usr/local/lib/libOpenCL.so.1", "mine"),
    "layers' list": lambda c: c.write("/etc/OpenCL/layers/other.lay", "/x.so\n"),
    "no layers' list": lambda c: (c.root / "etc/OpenCL/layers/cumulus.lay").unlink(),
    "preloaded more": lambda c: c.write("/etc/ld.so.preload", f"{OPENCL_LAYER}\n/x.so\n"),
    "driver by its path": lambda c: c.replace("/usr/lib/libdriver.so.1"),
    "driver by its name": lambda c: c.replace("/usr/lib/libpocl.so.2"),
    "driver of another name": lambda c: c.write("/etc/OpenCL/vendors/pocl.icd", "libpocl.so.3\n"),
    "another driver": lambda c: c.write("/etc/OpenCL/vendors/new.icd", "libnew.so\n"),
    "a driver less": lambda c: (c.root / "etc/OpenCL/vendors/card.icd").unlink(),
    "loader's cache": lambda c: c.write("/etc/ld.so.cache", "cachE"),
    "kernel driver": lambda c: c.write("/proc/driver/nvidia/version", "545"),
    "kernel driver loaded": lambda c: c.write("/sys/module/amdgpu/version", "6"),
    "memory limit": lambda c: c.write("/sys/fs/cgroup/memory.max", "1000"),
    "variable": lambda c: c.variables.update(RATE="0.2"),
    "variable more": lambda c: c.variables.update(POCL_DEVICES="cpu"),
    "variable less": lambda c: c.variables.pop("RATE"),
    "home elsewhere": lambda c: c.variables.update(HOME="/tmp"),
    "quota": lambda c: c.edit("/run/cumulus/grant/opencl", "=1000", "=1001"),
    "device": lambda c: c.edit("/run/cumulus/grant/opencl", "=ab", "=cd"),
    "no expiry": lambda c: c.edit("/run/cumulus/grant/opencl", "expires_boottime_s=77\n", ""),
    "another file in the grant": lambda c: c.write("/run/cumulus/grant/hami.env", "A=1\n"),
    "accounts' size": lambda c: c.write("/run/cumulus/usage/opencl", "\0"),
    "accounts' mode": lambda c: (c.root / "run/cumulus/usage/opencl").chmod(0o600),
    "no accounts": lambda c: (c.root / "run/cumulus/usage/opencl").unlink(),
    "device node": lambda c: c.write("/dev/dri/card1", ""),
    "device node's mode": lambda c: (c.root / "dev/dri/card0").chmod(0o600),
    "init": lambda c: c.replace("/sbin/docker-init"),
    "library mounted": lambda c: c.mount(
        "700 600 8:1 /usr/lib/x.so /usr/lib/libpocl.so.2 ro - ext4 /dev/sda1 rw"
    ),
    "from elsewhere mounted": lambda c: c.edit(
        "/proc/self/mountinfo", "8:1 /usr/lib/libdriver.so.1", "8:2 /usr/lib/libdriver.so.1"
    ),
    "CUDA's service": lambda c: c.edit("/proc/self/mountinfo", "/mps/pipe", "/mps/other"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_the_proof_depends_on_changes_it(container: Container, what: str) -> None:
    before = container.take()
    assert container.take() == before
    CHANGES[what](container)
    assert container.take() != before


def test_no_two_changes_give_the_same(tmp_path: Path) -> None:
    found = set()
    for number, change in enumerate(CHANGES.values()):
        container = Container(tmp_path / str(number))
        change(container)
        found.add(container.take())
    assert len(found) == len(CHANGES)


def test_another_job_of_the_same_kind_has_the_same(container: Container) -> None:
    before = container.take()
    to_another_job(container)
    container.write("/run/cumulus/grant/proven", f"{before}\n")
    container.write("/dev/pts/0", "")
    assert container.take() == before


@pytest.mark.skipif(not MULTIARCH, reason="this Python names no folder for its machine's libraries")
def test_a_library_in_the_machines_own_folder_is_seen(container: Container) -> None:
    before = container.take()
    container.write(f"/usr/lib/{MULTIARCH}/libpocl.so.2", "pocl")
    assert container.take() != before


#: Where it can't be told what the proof depends on.
UNKNOWN: dict[str, Callable[[Container], object]] = {
    "known by its digest": lambda c: setattr(c, "image", "cumulus-job:latest"),
    "LD_LIBRARY_PATH changes": lambda c: c.variables.update(LD_LIBRARY_PATH="/x"),
    "no grant": lambda c: (c.root / "run/cumulus/grant/opencl").unlink(),
    "isn't in /etc/ld.so.preload": lambda c: c.write("/etc/ld.so.preload", "/x.so\n"),
    "isn't mapped": lambda c: c.edit("/proc/self/maps", OPENCL_LAYER, f"{OPENCL_LAYER}.old"),
    "the folder /usr/local/card is mounted": lambda c: (
        (c.root / "usr/local/card").mkdir(parents=True),
        c.mount("700 600 8:1 /card /usr/local/card ro - ext4 /dev/sda1 rw"),
    ),
    "is over": lambda c: c.write("/etc/ld.so.cache", "x" * (MAX_FILE_BYTES + 1)),
}


@pytest.mark.parametrize("why", UNKNOWN)
def test_where_it_cant_be_told_there_is_none(container: Container, why: str) -> None:
    container.take()
    UNKNOWN[why](container)
    with pytest.raises(Unknown, match=why):
        container.take()
