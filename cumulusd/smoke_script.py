"""What a new worker's first job does: runs in its container, touches the device, says so.

It is sent as text and knows nothing of ours: the standard library of whatever Python is there. It
asks the drivers directly, and takes next to no memory, since its share has hardly any.
"""

from __future__ import annotations

import ctypes
import os
import sys

_BYTES = 4096
_DEVICE_TYPE_ALL = 0xFFFFFFFF
_MEM_READ_WRITE = 1


def touch_cuda() -> str:
    """The device's name, by the NVIDIA driver. Raises OSError, RuntimeError."""
    cuda = ctypes.CDLL("libcuda.so.1")

    def check(what: str, status: int) -> None:
        if status != 0:
            raise RuntimeError(f"{what} gives CUDA's error {status}")

    check("cuInit", cuda.cuInit(0))
    count, device, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    check("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))
    if count.value < 1:
        raise RuntimeError("the driver shows the job no device")
    check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), 0))
    name = ctypes.create_string_buffer(256)
    check("cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))
    check("cuDeviceTotalMem", cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device))
    return f"{name.value.decode(errors='replace')}, {total.value} bytes"


def touch_opencl() -> str | None:
    """The first device's name, after bytes went there and back; None where there is no OpenCL.
    Raises RuntimeError."""
    try:
        opencl = ctypes.CDLL("libOpenCL.so.1")
    except OSError:
        return None
    for function in ("clCreateContext", "clCreateCommandQueue", "clCreateBuffer"):
        getattr(opencl, function).restype = ctypes.c_void_p
    number, status = ctypes.c_uint(), ctypes.c_int()

    def check(what: str, code: int) -> None:
        if code != 0:
            raise RuntimeError(f"{what} gives OpenCL's error {code}")

    # Without a platform the loader gives an error of its own: there is no OpenCL either.
    if opencl.clGetPlatformIDs(0, None, ctypes.byref(number)) != 0 or number.value == 0:
        return None
    platforms = (ctypes.c_void_p * number.value)()
    check("clGetPlatformIDs", opencl.clGetPlatformIDs(number.value, platforms, None))
    devices = (ctypes.c_void_p * 1)()
    for platform in platforms:
        where, kinds = ctypes.c_void_p(platform), ctypes.c_ulong(_DEVICE_TYPE_ALL)
        if opencl.clGetDeviceIDs(where, kinds, 1, devices, ctypes.byref(number)) == 0:
            break
    else:
        return None
    device = ctypes.c_void_p(devices[0])
    name = ctypes.create_string_buffer(256)
    check("clGetDeviceInfo", opencl.clGetDeviceInfo(device, 0x102B, len(name), name, None))
    context = ctypes.c_void_p(
        opencl.clCreateContext(None, 1, devices, None, None, ctypes.byref(status))
    )
    check("clCreateContext", status.value)
    queue = ctypes.c_void_p(
        opencl.clCreateCommandQueue(context, device, ctypes.c_ulong(0), ctypes.byref(status))
    )
    check("clCreateCommandQueue", status.value)
    size, start = ctypes.c_size_t(_BYTES), ctypes.c_size_t(0)
    kind = ctypes.c_ulong(_MEM_READ_WRITE)
    buffer = ctypes.c_void_p(opencl.clCreateBuffer(context, kind, size, None, ctypes.byref(status)))
    check("clCreateBuffer", status.value)
    sent = os.urandom(_BYTES)
    back = ctypes.create_string_buffer(_BYTES)
    blocking = 1
    check(
        "clEnqueueWriteBuffer",
        opencl.clEnqueueWriteBuffer(queue, buffer, blocking, start, size, sent, 0, None, None),
    )
    check(
        "clEnqueueReadBuffer",
        opencl.clEnqueueReadBuffer(queue, buffer, blocking, start, size, back, 0, None, None),
    )
    if back.raw != sent:
        raise RuntimeError("what was written to the device came back as something else")
    return name.value.decode(errors="replace")


def main() -> None:
    """Prints what was found; raises what keeps jobs from the device."""
    print("partition", os.environ["CUMULUS_PARTITION_ID"], "python", sys.version.split()[0])
    if os.environ.get("NVIDIA_VISIBLE_DEVICES", "void") not in ("void", "none", ""):
        print("touched by CUDA:", touch_cuda())
        return
    name = touch_opencl()
    if name is None:
        print("the job image offers no OpenCL, so the device itself was not touched")
    else:
        print("touched by OpenCL:", name)


if __name__ == "__main__":
    main()
