"""Runs code under the layer: each in a process of its own, preloaded as the job image does it."""

import json
import os
import subprocess
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cumulus_wire.grant import OPENCL_USAGE_BYTES

REPOSITORY = Path(__file__).parents[3]
JOB_PYTHON = REPOSITORY / ".venv-job/bin/python"
MIB = 1 << 20
TIMEOUT_S = 100
#: What all code that is run can use.
PRELUDE = '''
import ctypes, json, os, signal, subprocess, sys, time
import pyopencl as cl
REPORT = 0x43554D55
MIB = 1 << 20
RW = cl.mem_flags.READ_WRITE
kept = []

def answer(**values):
    print("\\n" + json.dumps(values), flush=True)

def context():
    return cl.Context(cl.get_platforms()[0].get_devices())

def code_of(function, *arguments):
    """0, or the OpenCL error with which the call is refused."""
    try:
        kept.append(function(*arguments))
        return 0
    except cl.Error as error:
        return error.code

def fill(ctx, size):
    """Buffers of that size until one is refused: (bytes, the error)."""
    total = 0
    while not (code := code_of(cl.Buffer, ctx, RW, size)):
        total += size
    return total, code

def fill_to_the_byte(ctx):
    """All that can be had, in ever smaller buffers."""
    total = 0
    for bits in range(30, -1, -1):
        total += fill(ctx, 1 << bits)[0]
    return total

def loader():
    """The OpenCL loader that pyopencl uses."""
    with open("/proc/self/maps") as maps:
        paths = [line.rstrip().rpartition(" ")[2] for line in maps]
    return ctypes.CDLL(next(path for path in paths if "/libOpenCL" in path))

def report(library=None):
    text = ctypes.create_string_buffer(2048)
    code = (library or loader()).clGetPlatformInfo(
        None, ctypes.c_uint(REPORT), ctypes.c_size_t(2048), text, None
    )
    if code != 0:
        return {"code": code}
    return dict(line.split("=", 1) for line in text.value.decode().splitlines())

def used():
    return int(report()["used_bytes"])

def image(ctx, form, shape, **more):
    return cl.create_image(ctx, RW, form, shape=shape, **more)

def a_size(number):
    return ctypes.c_size_t(number)

def made(function, *arguments):
    """Of a C function that makes an object: [is it there, the error]."""
    function.restype = ctypes.c_void_p
    code = ctypes.c_int(1)
    there = function(*arguments, ctypes.byref(code))
    return [bool(there), code.value]
'''


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def answer(self) -> dict[str, Any]:
        """What it called `answer` with last."""
        assert self.returncode == 0, f"it left with {self.returncode}: {self.stdout}{self.stderr}"
        found = json.loads(self.stdout.splitlines()[-1])
        assert isinstance(found, dict)
        return found


class Layer:
    """The library, and the files that it goes by."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "libcumulus_opencl.so"
        self.grant = folder / "grant"
        self.usage = folder / "usage"

    def clear(self) -> None:
        self.grant.unlink(missing_ok=True)
        self.usage.unlink(missing_ok=True)

    def lines(self, quota_bytes: int, lifetime_s: float = 3600.0) -> dict[str, str]:
        """A sound grant for this machine's PoCL."""
        return {
            "version": "1",
            "quota_bytes": str(quota_bytes),
            "expires_boottime_s": str(int(time.clock_gettime(time.CLOCK_BOOTTIME) + lifetime_s)),
            **pocl_device(),
            "usage_file": str(self.usage),
        }

    def write(self, lines: Mapping[str, str]) -> None:
        """That grant, and blank accounts."""
        self.grant.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        self.usage.write_bytes(bytes(OPENCL_USAGE_BYTES))

    def share(self, quota_bytes: int) -> None:
        """A sound grant of that many bytes."""
        self.write(self.lines(quota_bytes))

    def environment(self, **more: str) -> dict[str, str]:
        home = os.environ.get("TMPDIR", "/tmp")
        return {"PATH": os.environ["PATH"], "HOME": home, "LD_PRELOAD": str(self.library), **more}

    def start(self, code: str, **environment: str) -> "subprocess.Popen[str]":
        """Begins that code; `PRELUDE` stands before it."""
        return subprocess.Popen(
            [JOB_PYTHON, "-c", PRELUDE + textwrap.dedent(code)],
            env=self.environment(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, **environment: str) -> Ended:
        """Runs that code to its end."""
        with self.start(code, **environment) as process:
            return finish(process)


def finish(process: "subprocess.Popen[str]") -> Ended:
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    except BaseException:
        process.kill()
        raise
    return Ended(process.returncode, stdout, stderr)


_device: dict[str, str] = {}


def pocl_device() -> dict[str, str]:
    """How a grant names this machine's PoCL device (its first one)."""
    if not _device:
        found = subprocess.run(
            [
                JOB_PYTHON,
                "-c",
                "import pyopencl as cl\n"
                "for p in cl.get_platforms():\n"
                "    if p.name.startswith('Portable'):\n"
                "        print(p.name, p.get_devices()[0].name, sep='\\n')",
            ],
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("TMPDIR", "/tmp")},
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_S,
        )
        platform, name = found.stdout.splitlines()[:2]
        _device.update(
            device_platform=platform.strip(), device_name=name.strip(), device_ordinal="0"
        )
    return _device
