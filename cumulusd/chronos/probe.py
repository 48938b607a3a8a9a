"""Lists this machine's OpenCL devices, and NVIDIA's GPUs, as JSON on stdout. Run as a program.

It stands alone (`python -I probe.py`), because a driver may hang for ever or take the process down.
"""

import ctypes
import json
import os
from typing import Any

_DEVICE_UUID = 0x106A  # cl_khr_device_uuid: CL_DEVICE_UUID_KHR, 16 bytes
_PCI_BUS_INFO = 0x410F  # cl_khr_pci_bus_info: domain, bus, device, function as cl_uint
_NVML = "libnvidia-ml.so.1"
_NVML_TEXT_BYTES = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE, NVML_DEVICE_NAME_V2_BUFFER_SIZE
_NVML_NOT_LOADED = 9  # NVML_ERROR_DRIVER_NOT_LOADED: the library alone is there
_KINDS = ((1 << 2, "gpu"), (1 << 3, "accelerator"), (1 << 1, "cpu"))


def _loader() -> Any:
    """The OpenCL loader that pyopencl itself has in memory."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.rstrip().rpartition(" ")[2]
            if os.path.basename(path).startswith("libOpenCL"):
                return ctypes.CDLL(path)
    return None


def _raw(loader: Any, device: Any, query: int, size: int) -> bytes | None:
    """What clGetDeviceInfo says, for queries that pyopencl doesn't know."""
    if loader is None:
        return None
    buffer = ctypes.create_string_buffer(size)
    written = ctypes.c_size_t()
    status = loader.clGetDeviceInfo(
        ctypes.c_void_p(device.int_ptr),
        ctypes.c_uint(query),
        ctypes.c_size_t(size),
        buffer,
        ctypes.byref(written),
    )
    return buffer.raw if status == 0 and written.value == size else None


def _pci(cl: Any, loader: Any, device: Any) -> str | None:
    raw = _raw(loader, device, _PCI_BUS_INFO, 16)
    if raw is not None:
        domain, bus, slot, function = memoryview(raw).cast("I")
        return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
    try:
        bus, slot = device.pci_bus_id_nv, device.pci_slot_id_nv
        domain = device.pci_domain_id_nv
    except (cl.Error, AttributeError):
        return None
    return f"{domain:04x}:{bus:02x}:{slot >> 3:02x}.{slot & 7:x}"


def _describe(cl: Any, loader: Any, platform: Any, device: Any, ordinal: int) -> dict[str, Any]:
    raw_uuid = None
    if "cl_khr_device_uuid" in device.extensions.split():
        raw_uuid = _raw(loader, device, _DEVICE_UUID, 16)
    kind = next((name for bit, name in _KINDS if device.type & bit), "accelerator")
    return {
        "platform": platform.name.strip("\0 "),
        "name": device.name.strip("\0 "),
        "kind": kind,
        "ordinal": ordinal,
        "memory_bytes": int(device.global_mem_size),
        "uuid": raw_uuid.hex() if raw_uuid and any(raw_uuid) else None,
        "pci": _pci(cl, loader, device),
    }


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Pci(ctypes.Structure):
    """nvmlPciInfo_t."""

    _fields_ = [
        ("busIdLegacy", ctypes.c_char * 16),
        *((name, ctypes.c_uint) for name in ("domain", "bus", "device")),
        *((name, ctypes.c_uint) for name in ("pciDeviceId", "pciSubSystemId")),
        ("busId", ctypes.c_char * 32),
    ]


class NvmlFailed(Exception):
    """NVIDIA's driver is there and doesn't answer: that says nothing of its GPUs."""


def nvidia_gpus(nvml: Any) -> list[dict[str, Any]]:
    """GPUs and their MIG slices, by NVML (docs.nvidia.com/deploy/nvml-api, nvml.h). Raises
    NvmlFailed."""
    count, found = ctypes.c_uint(), []
    # A driver that was replaced while jobs run on it answers with a mismatch (18) until a reboot.
    status = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    if status == _NVML_NOT_LOADED:
        return []
    if status != 0:
        raise NvmlFailed(f"NVML answers with error {status}")
    for number in range(count.value):
        gpu = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(gpu)) != 0:
            continue  # lost: it is none to be used
        where = _Pci()
        nvml.nvmlDeviceGetPciInfo_v3(gpu, ctypes.byref(where))
        pci = f"{where.domain:04x}:{where.bus:02x}:{where.device:02x}.0"
        mode, pending = ctypes.c_uint(), ctypes.c_uint()
        # GPUs that know no slices answer with an error.
        status = nvml.nvmlDeviceGetMigMode(gpu, ctypes.byref(mode), ctypes.byref(pending))
        sliced = status == 0 and mode.value == 1
        found.append({**_nvidia(nvml, gpu), "pci": pci, "sliced": sliced, "slice": False})
        if not sliced:
            continue
        most = ctypes.c_uint()
        nvml.nvmlDeviceGetMaxMigDeviceCount(gpu, ctypes.byref(most))
        for place in range(most.value):
            part = ctypes.c_void_p()
            if nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place, ctypes.byref(part)) == 0:
                found.append({**_nvidia(nvml, part), "pci": pci, "sliced": False, "slice": True})
    return found


def _nvidia(nvml: Any, device: Any) -> dict[str, Any]:
    uuid = ctypes.create_string_buffer(_NVML_TEXT_BYTES)
    name = ctypes.create_string_buffer(_NVML_TEXT_BYTES)
    memory = _Memory()
    nvml.nvmlDeviceGetUUID(device, uuid, _NVML_TEXT_BYTES)
    nvml.nvmlDeviceGetName(device, name, _NVML_TEXT_BYTES)
    nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
    return {
        "name": name.value.decode(errors="replace"),
        "cuda_uuid": uuid.value.decode(errors="replace"),
        "memory_bytes": int(memory.total),
    }


def _opencl(failed: list[str]) -> tuple[list[dict[str, Any]], str | None]:
    """Its devices, or why there are none. `failed` gets what could not be asked."""
    try:
        import pyopencl as cl
    except ImportError as error:
        return [], f"pyopencl can't be imported: {error}"
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        # -1001: the loader found no driver.
        return [], f"no OpenCL driver is installed ({error})"
    loader = _loader()
    devices = []
    for platform in platforms:
        try:
            found = platform.get_devices()
        except cl.Error as error:
            failed.append(f"the platform {platform.name} can't be asked: {error}")
            continue
        for ordinal, device in enumerate(found):
            devices.append(_describe(cl, loader, platform, device, ordinal))
    if not devices:
        return [], "the OpenCL drivers that are installed show no device"
    return devices, None


def main() -> None:
    """Prints {"devices": [...], "nvidia": [...], "failed": [str]}: what there is, and what could
    not be asked; without any device also "reason": why there is none."""
    os.setsid()  # a group of its own, so that helpers a driver starts die with it
    failed: list[str] = []
    devices, reason = _opencl(failed)
    try:
        nvidia = nvidia_gpus(ctypes.CDLL(_NVML))
    except OSError:
        nvidia = []  # no driver of NVIDIA's here
    except NvmlFailed as error:
        nvidia = []
        failed.append(str(error))
    answer: dict[str, Any] = {"devices": devices, "nvidia": nvidia, "failed": failed}
    if reason is not None and not nvidia:
        answer["reason"] = reason
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
