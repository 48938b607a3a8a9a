"""What `cumulus doctor --gpu` runs in a job: it takes the device's memory until it is refused.

It goes to the job as a script, and imports nothing of Cumulus.
"""

import ctypes
import json
import os
from collections.abc import Callable
from typing import Any

#: Begins the line of JSON that it prints.
MEASURED = "cumulus-measured: "
_CUDA_LIBRARY = "libcuda.so.1"
_MIB = 1 << 20
_FIRST_STEP_BYTES = 64 * _MIB
_SMALLEST_CUDA_STEP_BYTES = 64 << 10


class Absent(Exception):
    """There is no such interface here; the message says why."""


class Refused(Exception):
    """No more memory of that size."""


def take_all() -> dict[str, Any]:
    """The share's bytes, and of each interface `{taken_bytes, refused}` or `{absent}`."""
    share_bytes = int(os.environ["CUMULUS_GPU_MEMORY_BYTES"])
    return {
        "share_bytes": share_bytes,
        "opencl": measure(opencl_allocator, share_bytes, 1),
        "cuda": measure(
            lambda: cuda_allocator(load_cuda()), share_bytes, _SMALLEST_CUDA_STEP_BYTES
        ),
    }


def measure(
    open_device: Callable[[], Callable[[int], Any]], share_bytes: int, smallest_bytes: int
) -> dict[str, Any]:
    """Takes ever smaller pieces until none is given, or clearly more than the share was."""
    try:
        allocate = open_device()
    except Absent as error:
        return {"absent": str(error)}
    enough = share_bytes + max(share_bytes // 4, 256 * _MIB)
    taken, step, held, refused = 0, _FIRST_STEP_BYTES, [], None
    while taken < enough and step >= smallest_bytes:
        try:
            held.append(allocate(step))
            taken += step
        except Refused as error:
            refused = str(error)
            step //= 2
    return {"taken_bytes": taken, "refused": refused}


def opencl_allocator() -> Callable[[int], Any]:
    """Takes buffers of the device that OpenCL shows. Raises Absent."""
    try:
        import pyopencl as cl
    except ImportError as error:
        raise Absent(f"pyopencl can't be imported: {error}") from error
    try:
        found = [device for platform in cl.get_platforms() for device in platform.get_devices()]
    except cl.Error as error:
        raise Absent(f"OpenCL shows no device: {error}") from error
    if not found:
        raise Absent("OpenCL shows no device")
    gpus = [device for device in found if device.type & cl.device_type.GPU]
    device = (gpus or found)[0]
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    most = int(device.max_mem_alloc_size)

    def allocate(size_bytes: int) -> Any:
        if size_bytes > most:
            raise Refused(f"one buffer has at most {most} bytes")
        try:
            buffer = cl.Buffer(context, cl.mem_flags.READ_WRITE, size_bytes)
            if gpus:
                # Drivers give the memory when it is used.
                cl.enqueue_fill_buffer(queue, buffer, b"\0", 0, size_bytes)
                queue.finish()
        except (cl.Error, MemoryError) as error:
            raise Refused(str(error)) from error
        return buffer

    return allocate


def load_cuda() -> Any:
    """CUDA's driver. Raises Absent."""
    try:
        return ctypes.CDLL(_CUDA_LIBRARY)
    except OSError as error:
        raise Absent(f"there is no CUDA driver: {error}") from error


def cuda_allocator(cuda: Any) -> Callable[[int], Any]:
    """Takes memory of the first device that CUDA shows. Raises Absent."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    for name, arguments in (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDevicePrimaryCtxRetain", (ctypes.byref(context), device)),
        ("cuCtxSetCurrent", (context,)),
    ):
        code = getattr(cuda, name)(*arguments)
        if code != 0:
            raise Absent(f"{name} gave CUDA's error {code}")

    def allocate(size_bytes: int) -> Any:
        pointer = ctypes.c_uint64()
        code = cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size_bytes))
        if code != 0:
            raise Refused(f"CUDA's error {code}")
        return pointer

    return allocate


if __name__ == "__main__":
    print(MEASURED + json.dumps(take_all()), flush=True)
