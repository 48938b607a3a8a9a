"""Lists this machine's OpenCL devices as JSON on stdout. Run as a program, never imported.

It stands alone (`python -I probe.py`), because a driver may hang for ever or take the process down.
"""

import ctypes
import json
import os
import sys
from typing import Any

_DEVICE_UUID = 0x106A  # cl_khr_device_uuid: CL_DEVICE_UUID_KHR, 16 bytes
_PCI_BUS_INFO = 0x410F  # cl_khr_pci_bus_info: domain, bus, device, function as cl_uint
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


def main() -> None:
    """Prints {"devices": [...]} or {"devices": [], "reason": why there are none}."""
    os.setsid()  # a group of its own, so that helpers a driver starts die with it
    try:
        import pyopencl as cl
    except ImportError as error:
        print(json.dumps({"devices": [], "reason": f"pyopencl can't be imported: {error}"}))
        return
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        # -1001: the loader found no driver.
        print(json.dumps({"devices": [], "reason": f"no OpenCL driver is installed ({error})"}))
        return
    loader = _loader()
    devices = []
    for platform in platforms:
        try:
            found = platform.get_devices()
        except cl.Error as error:
            print(f"platform {platform.name}: {error}", file=sys.stderr)
            continue
        for ordinal, device in enumerate(found):
            devices.append(_describe(cl, loader, platform, device, ordinal))
    answer: dict[str, Any] = {"devices": devices}
    if not devices:
        answer["reason"] = "the OpenCL drivers that are installed show no device"
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
