"""Asks the OpenCL layer whether it is in force, through the image's own loader, and tries it.

Only ever in a process of its own, be it as a program, `python -I layer_probe.py ANSWER`: a driver
may hang or crash. ANSWER becomes a file: the line `in force`, or why the share isn't enforced here.
Every job waits for it: it imports as little as it can.
"""

import ctypes
import os
import sys

LOADER = "libOpenCL.so.1"
#: images/job/opencl_layer/report.h
CUMULUS_REPORT = 0x43554D55
REPORT_BYTES = 2048
DEVICE_TYPE_ALL = 0xFFFFFFFF
DEVICE_GLOBAL_MEM_SIZE = 0x101F
MEM_READ_WRITE = 1
#: CL_MEM_OBJECT_ALLOCATION_FAILURE: over the quota.
REFUSED = -4


class NotInForce(Exception):
    """The message says why."""


def main(path: str) -> None:
    answer = "in force\n"
    try:
        prove()
    except NotInForce as error:
        answer = str(error)
    draft = f"{path}.new"
    with open(draft, "w", encoding="utf-8", errors="replace") as file:
        file.write(answer)
    os.rename(draft, path)


def prove() -> None:
    """Raises NotInForce."""
    process = ctypes.CDLL(None)
    if not hasattr(process, "clInitLayer"):
        raise NotInForce(
            "the OpenCL layer isn't loaded into this container's processes (/etc/ld.so.preload)"
        )
    # As a job could, before its first call: it must make no difference.
    process.unsetenv(b"OPENCL_LAYERS")
    try:
        loader = ctypes.CDLL(LOADER)
    except OSError as error:
        raise NotInForce(f"the image has no OpenCL loader: {error}") from None
    quota_bytes = ask(loader)
    device, context = open_device(loader)
    reported = ctypes.c_uint64()
    status = loader.clGetDeviceInfo(
        device, DEVICE_GLOBAL_MEM_SIZE, ctypes.c_size_t(8), ctypes.byref(reported), None
    )
    if status != 0 or reported.value > quota_bytes:
        raise NotInForce(
            f"the device reports {reported.value} bytes where the share has {quota_bytes} "
            f"(status {status})"
        )
    # The layer tells of a refusal on stderr; of this one nobody needs to know.
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    status = make_buffer(loader, context, quota_bytes + 1)
    os.dup2(stderr, 2)
    if status != REFUSED:
        raise NotInForce(
            f"a buffer of one byte more than the share of {quota_bytes} bytes wasn't refused "
            f"(status {status})"
        )
    if (status := make_buffer(loader, context, 1)) != 0:
        raise NotInForce(f"not even a buffer of one byte can be made (status {status})")
    loader.clReleaseContext(context)


def ask(loader: ctypes.CDLL) -> int:
    """The quota that the layer enforces for calls through that loader."""
    text = ctypes.create_string_buffer(REPORT_BYTES)
    status = loader.clGetPlatformInfo(
        None, CUMULUS_REPORT, ctypes.c_size_t(REPORT_BYTES), text, None
    )
    if status != 0:
        raise NotInForce(
            f"calls through {LOADER} don't go through the OpenCL layer (status {status}); is a "
            "grant bound into the container, and an OpenCL driver there?"
        )
    report = dict(line.split("=", 1) for line in text.value.decode().splitlines())
    if report["refused"]:
        raise NotInForce(report["refused"])
    return int(report["quota_bytes"])


def open_device(loader: ctypes.CDLL) -> "tuple[ctypes.c_void_p, ctypes.c_void_p]":
    """The job's one device, and a context on it."""
    platform, count, status = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_int()
    devices = (ctypes.c_void_p * 2)()
    if loader.clGetPlatformIDs(1, ctypes.byref(platform), ctypes.byref(count)) != 0:
        raise NotInForce("no OpenCL platform is there")
    found = loader.clGetDeviceIDs(
        platform, ctypes.c_uint64(DEVICE_TYPE_ALL), 2, devices, ctypes.byref(count)
    )
    if found != 0 or count.value != 1:
        raise NotInForce(f"{count.value} OpenCL devices are in sight instead of one")
    loader.clCreateContext.restype = ctypes.c_void_p
    context = loader.clCreateContext(None, 1, devices, None, None, ctypes.byref(status))
    if context is None:
        raise NotInForce(f"no OpenCL context can be made (status {status.value})")
    return ctypes.c_void_p(devices[0]), ctypes.c_void_p(context)


def make_buffer(loader: ctypes.CDLL, context: ctypes.c_void_p, size: int) -> int:
    """Makes a buffer and lets it go; the status."""
    status = ctypes.c_int()
    loader.clCreateBuffer.restype = ctypes.c_void_p
    buffer = loader.clCreateBuffer(
        context,
        ctypes.c_uint64(MEM_READ_WRITE),
        ctypes.c_size_t(size),
        None,
        ctypes.byref(status),
    )
    if buffer is not None:
        loader.clReleaseMemObject(ctypes.c_void_p(buffer))
    return status.value


if __name__ == "__main__":
    main(sys.argv[1])
