"""Adds two vectors with an OpenCL kernel, on a quarter of a worker's device.

    python examples/opencl_kernel.py [SERVER_URL]

pyopencl and numpy are needed on the worker only: they are installed there as requirements.
"""

import os
import sys

from cumulus_client import CumulusClient, gpu

client = CumulusClient(
    sys.argv[1]
    if len(sys.argv) > 1
    else os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051"),
    os.environ.get("CUMULUS_API_KEY"),
)

KERNEL = """
__kernel void add(__global const float *a, __global const float *b, __global float *sum) {
    int i = get_global_id(0);
    sum[i] = a[i] + b[i];
}
"""


@gpu(client, memory=0.25, duration=300, requirements=["pyopencl", "numpy"])
def add_vectors(length: int) -> dict[str, object]:
    """Adds 0, 1, 2, ... to itself on the device; says where and how far off it was."""
    import numpy
    import pyopencl

    context = pyopencl.create_some_context(interactive=False)
    queue = pyopencl.CommandQueue(context)
    device = context.devices[0]
    print(f"{device.name}: {device.global_mem_size >> 20} MiB")
    a = numpy.arange(length, dtype=numpy.float32)
    flags = pyopencl.mem_flags
    source = pyopencl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=a)
    target = pyopencl.Buffer(context, flags.WRITE_ONLY, a.nbytes)
    program = pyopencl.Program(context, KERNEL).build()
    program.add(queue, a.shape, None, source, source, target)
    total = numpy.empty_like(a)
    pyopencl.enqueue_copy(queue, total, target)
    queue.finish()
    return {
        "device": device.name,
        "length": length,
        "largest_error": float(numpy.abs(total - 2 * a).max()),
    }


if __name__ == "__main__":
    with client:
        print(add_vectors(1_000_000))
