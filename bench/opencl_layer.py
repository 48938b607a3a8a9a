"""What the OpenCL layer adds to a call: `script/bench opencl_layer`.

The same program (opencl_layer.c) on this machine's PoCL, by turns without the layer and with it
preloaded as in the job image. A row's cost is the median of the differences between neighbours, so
that what the machine does beside it falls on both.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.parts.errors import BenchError
from bench.parts.run import Run, paired
from bench.table import Peer, Row, at_most, measured
from cumulus_wire.grant import OPENCL_USAGE_BYTES

ROOT = Path(__file__).parents[1]
PAIRS = 12
ROUNDS = 3
TIMEOUT_S = 120.0
QUOTA_BYTES = 1 << 30
#: What it may cost at most.
GOALS_NS = {"create + release a buffer": 1000.0, "enqueue": 200.0}


def rows(run: Run) -> Iterator[Row]:
    """The rows."""
    pairs = 3 if run.quick else PAIRS
    program, library = build(run.folder)
    write_grant(run.folder)
    having, without = paired(
        lambda: run_once(program, library),
        lambda: run_once(program, None),
        rounds=pairs,
        until=run.until(1.0),
    )
    peer = Peer(name="without the layer", command=f"{program.name} {ROUNDS} on PoCL, no LD_PRELOAD")
    for column, (what, goal_ns) in enumerate(GOALS_NS.items()):
        ours = [pair[column] for pair in having]
        theirs = [pair[column] for pair in without]
        yield measured(f"OpenCL layer: {what}", "ns", ours, peer, theirs)
        added = [b - a for a, b in zip(theirs, ours, strict=True)]
        yield measured(f"OpenCL layer: {what}, added", "ns", added, goals=[at_most(goal_ns)])


def build(folder: Path) -> tuple[Path, Path]:
    """The program, and the layer with its grant in that folder."""
    library, program = folder / "libcumulus_opencl.so", folder / "opencl_layer"
    command = ["make", "--silent", f"--directory={ROOT}/images/job/opencl_layer"]
    places = [f"OUT={folder}", f"GRANT_PATH={folder}/grant", f"LAYER_PATH={library}"]
    subprocess.run([*command, *places], check=True, timeout=TIMEOUT_S)
    source = ROOT / "bench/opencl_layer.c"
    loader = "-l:libOpenCL.so.1"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", program, source, loader], check=True, timeout=TIMEOUT_S)
    return program, library


def write_grant(folder: Path) -> None:
    """For this machine's PoCL, and long enough."""
    named = subprocess.run(
        [ROOT / ".venv-job/bin/python", "-c", _NAME],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    ).stdout.splitlines()
    expires_s = int(time.clock_gettime(time.CLOCK_BOOTTIME)) + 3600
    (folder / "grant").write_text(
        f"version=1\nquota_bytes={QUOTA_BYTES}\nexpires_boottime_s={expires_s}\n"
        f"device_platform={named[0]}\ndevice_name={named[1]}\ndevice_ordinal=0\n"
        f"usage_file={folder}/usage\n"
    )
    (folder / "usage").write_bytes(bytes(OPENCL_USAGE_BYTES))


_NAME = """
import pyopencl as cl
platform = cl.get_platforms()[0]
print(platform.name.strip(), platform.get_devices()[0].name.strip(), sep="\\n")
"""


def run_once(program: Path, library: Path | None) -> tuple[float, float]:
    """Nanoseconds for a buffer and for an enqueue: the medians of some rounds."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp")}
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    done = subprocess.run(
        [program, str(ROUNDS)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    rounds = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    created, enqueued, device_bytes = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    if (device_bytes == QUOTA_BYTES) != (library is not None):
        raise BenchError(f"the device shows {device_bytes:g} bytes: {done.stderr}")
    return created, enqueued
