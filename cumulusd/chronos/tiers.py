"""What holds a job to its share, one function for each tier. Pure.

Each gives the environment, mounts and files that put its tier in force for a share, or None where
this worker and this device can't. The CUDA tiers (MIG, MPS, HAMi-core) are written from the sources
that their docstrings cite and were never run on hardware: `cumulus doctor --gpu` is the check.
"""

from collections.abc import Mapping, Set

import attrs

from cumulus_wire.grant import (
    GRANT,
    OPENCL,
    OPENCL_LAYER,
    OPENCL_USAGE_BYTES,
    OPENCL_VERSION,
    USAGE,
    Tier,
)
from cumulusd.chronos.ledger import UNITS_PER_DEVICE, Device, Partition

#: (path on the worker, path in the container, read only)
Mount = tuple[str, str, bool]

MPS_PIPES = "/run/cumulus/mps"
HAMI_LIBRARY = "/run/cumulus/hami/libvgpu.so"
_HAMI_LOCKS = "vgpulock"
_MIB = 1 << 20

#: Each tier in a few words, as they begin its note.
PROMISES: Mapping[Tier, str] = {
    Tier.MIG: "enforced by the GPU (a MIG slice)",
    Tier.MPS: "enforced by CUDA MPS for each process",
    Tier.HAMI: "enforced by HAMi-core in CUDA",
    Tier.OPENCL: "enforced in OpenCL",
    Tier.ADVISORY: "booked, not enforced",
}


@attrs.frozen(kw_only=True)
class Offers:
    """What a worker has to hold jobs to their shares. Paths are the worker's, below its root."""

    tiers: Set[Tier] = frozenset()  #: those that may be used; advisory always may
    mps_pipes: str | None = None  #: CUDA_MPS_PIPE_DIRECTORY of a control daemon that runs
    mps_shared_memory: str | None = None  #: the folder that is /dev/shm to that daemon
    hami_library: str | None = None  #: libvgpu.so


@attrs.frozen(kw_only=True)
class Share:
    """What is to be enforced, and where the agent puts the files for it."""

    partition: Partition
    device: Device
    place: str  #: the attempt's grant folder on the worker, with `grant/` and `usage/` in it
    last_moment_s: float  #: seconds since boot after which nothing of the job may run

    @property
    def mebibytes(self) -> int:
        """Whole MiB of the share."""
        return self.partition.gpu_memory_bytes // _MIB

    @property
    def percent(self) -> int:
        """The share as a whole percentage, at least 1."""
        return max(1, self.partition.units * 100 // UNITS_PER_DEVICE)


@attrs.frozen(kw_only=True)
class Measures:
    """What puts a tier in force."""

    note: str  #: what it holds and what it doesn't
    environment: Mapping[str, str] = attrs.field(factory=dict)
    mounts: tuple[Mount, ...] = ()
    files: Mapping[str, str] = attrs.field(factory=dict)  #: name in `grant/` -> content
    usage: Mapping[str, int] = attrs.field(factory=dict)  #: name in `usage/` -> size in bytes
    usage_folders: tuple[str, ...] = ()  #: names in `usage/`, writable by the job


def mig(share: Share, offers: Offers) -> Measures | None:
    """A whole MIG slice, which the GPU itself keeps apart; it is named by `visible`.

    NVIDIA MIG User Guide, "Device Enumeration" (docs.nvidia.com/datacenter/tesla/mig-user-guide/
    mig-device-names.html): CUDA takes `MIG-<UUID>` in CUDA_VISIBLE_DEVICES and enumerates a single
    instance; nvidia-container-toolkit takes the same in NVIDIA_VISIBLE_DEVICES.
    """
    if not is_mig_slice(share.device) or share.partition.units != UNITS_PER_DEVICE:
        return None
    return Measures(note=f"the job has the slice to itself, {size(share)}")


def mps(share: Share, offers: Offers) -> Measures | None:
    """Limits that a running MPS server holds its clients to.

    NVIDIA MPS, "Environment Variables" (docs.nvidia.com/deploy/mps/
    appendix-tools-and-interface-reference.html): CUDA_MPS_PIPE_DIRECTORY names the control daemon's
    pipes; CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=1G" bounds a client's memory on the device of that
    ordinal among those it sees; CUDA_MPS_ACTIVE_THREAD_PERCENTAGE bounds its share of threads. The
    shared /dev/shm is what NVIDIA's k8s-device-plugin mounts for its MPS clients.
    """
    pipes, shared = offers.mps_pipes, offers.mps_shared_memory
    if pipes is None or shared is None or not _is_cuda(share) or share.mebibytes == 0:
        return None
    return Measures(
        note=f"each process of the job gets at most {share.mebibytes} MiB and {share.percent}% of "
        "the GPU's threads; several processes together, or one that drops the variables, can "
        "take more",
        environment={
            "CUDA_MPS_PIPE_DIRECTORY": MPS_PIPES,
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={share.mebibytes}M",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(share.percent),
        },
        mounts=((pipes, MPS_PIPES, False), (shared, "/dev/shm", False)),
    )


def hami(share: Share, offers: Offers) -> Measures | None:
    """HAMi-core's library between CUDA's runtime and driver, preloaded for every process.

    github.com/Project-HAMi/HAMi-core, README: CUDA_DEVICE_MEMORY_LIMIT ("1024m"), the folder
    /tmp/vgpulock; src/multiprocess/multiprocess_memory_limit.c: a limit of zero, or one that it
    can't read, is no limit; what stands in /overrideEnv (multiprocess_memory_limit.h) wins over a
    process's own variables when the job's shared limits are made.
    """
    library = offers.hami_library
    if library is None or not _is_cuda(share) or share.mebibytes == 0:
        return None
    limits = {
        "CUDA_DEVICE_MEMORY_LIMIT": f"{share.mebibytes}m",
        "CUDA_DEVICE_MEMORY_SHARED_CACHE": "/tmp/cudevshr.cache",
    }
    # Ours stands in the job image's own file, which this one takes the place of.
    preloaded = [OPENCL_LAYER] if Tier.OPENCL in offers.tiers else []
    return Measures(
        note=f"the job's processes get at most {share.mebibytes} MiB together by CUDA; programs "
        "that are statically linked or call the driver themselves aren't held",
        environment=limits,
        mounts=(
            (library, HAMI_LIBRARY, True),
            (f"{share.place}/grant/ld.so.preload", "/etc/ld.so.preload", True),
            (f"{share.place}/grant/hami.env", "/overrideEnv", True),
            (f"{share.place}/usage/{_HAMI_LOCKS}", f"/tmp/{_HAMI_LOCKS}", False),
        ),
        files={
            "ld.so.preload": "".join(f"{path}\n" for path in (*preloaded, HAMI_LIBRARY)),
            "hami.env": "".join(f"{name}={text}\n" for name, text in limits.items()),
        },
        usage_folders=(_HAMI_LOCKS,),
    )


def opencl(share: Share, offers: Offers) -> Measures | None:
    """The OpenCL layer of the job image, told by a file what it enforces: docs/protocol.md."""
    named = _opencl_name(share.device)
    if named is None or share.partition.gpu_memory_bytes <= 0:
        return None
    fields = {
        "version": str(OPENCL_VERSION),
        "quota_bytes": str(share.partition.gpu_memory_bytes),
        # Rounded up: the runner ends the job before, this holds when it can't.
        "expires_boottime_s": str(int(share.last_moment_s) + 1),
        **named,
        "usage_file": f"{USAGE}/{OPENCL}",
    }
    return Measures(
        note=f"all of the job's processes together get {size(share)} of this device, other OpenCL "
        "devices are hidden; it holds against accidents, not against code that is made to get "
        "around it",
        mounts=((f"{share.place}/grant", GRANT, True), (f"{share.place}/usage", USAGE, False)),
        files={OPENCL: "".join(f"{key}={text}\n" for key, text in fields.items())},
        usage={OPENCL: OPENCL_USAGE_BYTES},
    )


def advisory(share: Share) -> Measures:
    """What frameworks are told; it is added to every tier."""
    what = "GPU" if share.device.kind == "gpu" else "device"
    fraction = _decimal(share.partition.units)
    return Measures(
        note=f"the share ({size(share)}) is reserved for this job and its frameworks are told "
        f"their limit; code that ignores it can take more {what} memory than its share",
        environment={
            "CUMULUS_PARTITION_ID": share.partition.partition_id,
            "CUMULUS_DEVICE_INDEX": str(share.device.index),
            "CUMULUS_GPU_MEMORY_FRACTION": fraction,
            "CUMULUS_GPU_MEMORY_BYTES": str(share.partition.gpu_memory_bytes),
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": _of_total(share),
            "CUPY_GPU_MEMORY_LIMIT": str(share.partition.gpu_memory_bytes),
        },
    )


def visible(device: Device) -> dict[str, str]:
    """Variables that show the job its device and no other.

    NVIDIA_VISIBLE_DEVICES is for the container's runtime (nvidia-container-toolkit: a UUID, or
    `void` for none); CUDA_VISIBLE_DEVICES is the CUDA Programming Guide's, which takes a UUID too.
    """
    if device.kind != "gpu":
        return {"NVIDIA_VISIBLE_DEVICES": "void"}
    if device.cuda_uuid is not None:
        return {
            "NVIDIA_VISIBLE_DEVICES": device.cuda_uuid,
            "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": device.cuda_uuid,
        }
    # Devices are counted in PCI order; CUDA's own default order is by speed.
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(device.index)}


def is_mig_slice(device: Device) -> bool:
    """The device is a slice of a GPU, not a GPU."""
    return device.cuda_uuid is not None and device.cuda_uuid.startswith("MIG-")


def size(share: Share) -> str:
    """The share's bytes for people: "4.0 GiB (4294967296 bytes)"."""
    number = share.partition.gpu_memory_bytes
    for unit, scale in (("GiB", 1 << 30), ("MiB", _MIB)):
        if number >= scale:
            return f"{number / scale:.1f} {unit} ({number} bytes)"
    return f"{number} bytes"


def _is_cuda(share: Share) -> bool:
    return share.device.kind == "gpu" and share.device.cuda_uuid is not None


def _opencl_name(device: Device) -> dict[str, str] | None:
    """How the layer finds the device; None where OpenCL doesn't show it, or can't tell it apart."""
    if device.platform is None:
        return None
    if device.uuid is not None:
        return {"device_uuid": device.uuid}
    if device.pci is not None:
        return {"device_pci": device.pci}
    if device.ordinal is None:
        return None
    if not (device.platform.isprintable() and device.name.isprintable()):
        return None
    return {
        "device_platform": device.platform,
        "device_name": device.name,
        "device_ordinal": str(device.ordinal),
    }


def _of_total(share: Share) -> str:
    """The share as a part of all that the device has, which is what JAX takes a fraction of: the
    share's own is one of what the driver's reserve leaves."""
    total_bytes = share.device.total_bytes
    if total_bytes is None:
        return _decimal(share.partition.units)
    return _decimal(max(1, share.partition.gpu_memory_bytes * UNITS_PER_DEVICE // total_bytes))


def _decimal(units: int) -> str:
    """The share as a decimal, exact: 2500 -> "0.25", 10000 -> "1"."""
    whole, rest = divmod(units, UNITS_PER_DEVICE)
    return f"{whole}.{rest:04d}".rstrip("0").rstrip(".")
