"""The main job, end to end: a function with a requirement from PyPI and a real OpenCL kernel.

    python examples/demo.py --server http://127.0.0.1:50051

The job's lines appear while it runs, and `[cumulus]` lines tell worker, partition and share. The
last line on stdout is one JSON object with `job_id`, `status` and `result`.
"""

import argparse
import json
import os
import sys

from cumulus_client import CumulusClient


def sum_of_squares(count: int, rounds: int) -> dict:
    """Runs on the worker: squares on the device, and the same sum on the host to check it."""
    import time

    import humanize  # installed for this job; the submitting machine need not have it
    import numpy
    import pyopencl

    context = pyopencl.create_some_context(interactive=False)
    device = context.devices[0]
    queue = pyopencl.CommandQueue(context)
    print(f"device: {device.name.strip()}", flush=True)

    program = pyopencl.Program(
        context,
        """
        __kernel void square(__global const float *x, __global float *y) {
            int i = get_global_id(0);
            y[i] = x[i] * x[i];
        }
        """,
    ).build()
    square = pyopencl.Kernel(program, "square")

    total = 0.0
    for number in range(1, rounds + 1):
        x = numpy.random.default_rng(number).random(count, dtype=numpy.float32)
        flags = pyopencl.mem_flags
        source = pyopencl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=x)
        target = pyopencl.Buffer(context, flags.WRITE_ONLY, x.nbytes)
        square(queue, x.shape, None, source, target)
        y = numpy.empty_like(x)
        pyopencl.enqueue_copy(queue, y, target).wait()
        if not numpy.allclose(y, x * x):
            raise RuntimeError("the device and the host disagree")
        total += float(y.sum(dtype=numpy.float64))
        print(f"round {number} of {rounds}: {humanize.intcomma(count)} squares", flush=True)
        time.sleep(0.5)  # so that one sees that lines come while it runs

    return {
        "job_id": os.environ["CUMULUS_JOB_ID"],
        "partition_id": os.environ["CUMULUS_PARTITION_ID"],
        "device": device.name.strip(),
        "squares": humanize.intcomma(count * rounds),
        "mean": total / (count * rounds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the demo job on a Cumulus daemon.")
    parser.add_argument(
        "--server",
        default=os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051"),
        help="the daemon's URL (default: CUMULUS_SERVER_URL, else this machine)",
    )
    parser.add_argument("--rounds", type=int, default=6, help="half a second each (default: 6)")
    arguments = parser.parse_args()

    with CumulusClient(arguments.server, api_key=os.environ.get("CUMULUS_API_KEY")) as client:
        result = client.run(
            sum_of_squares,
            gpu_memory=0.25,
            duration=300,
            requirements=["humanize"],
            count=1_000_000,
            rounds=arguments.rounds,
        )
        status = client.get_job_status(result["job_id"])["status"]
    sys.stderr.flush()
    print(json.dumps({"job_id": result["job_id"], "status": status, "result": result}), flush=True)
    return 0 if status == "completed" else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # the client has cancelled the job and said so
