"""The runner runs nothing where the layer is to be in force and can't be shown to be."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opencl_layer_kit import MIB, REPOSITORY, Layer

from cumulus_wire.journal import Kind
from tests.unit.runner.runner_kit import JobFolder

QUOTA = 64 * MIB
JobMaker = Callable[..., JobFolder]


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[JobMaker]:
    """Makes the folder of a job that prints `ran`."""
    made: list[JobFolder] = []

    def make(**orders: Any) -> JobFolder:
        made.append(JobFolder(tmp_path / f"job{len(made)}", **orders).script("print('ran')"))
        return made[-1]

    yield make
    for job in made:
        job.close()


def preloaded(layer: Layer, **more: str) -> dict[str, Any]:
    return {"opencl_layer": True, "environment": {**layer.environment(), **more}}


def not_enforced(job: JobFolder) -> str:
    """The message of a job that ended so, before its code."""
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("failed", "partition_failed"), end
    assert "Nothing of the code was run" in end["hint"]
    assert b"ran" not in job.output(Kind.STDOUT)
    assert [status["phase"] for status in job.jsons(Kind.STATUS)] == ["setup"]
    return str(end["message"])


def test_with_the_layer_in_force_the_job_runs(layer: Layer, new_job: JobMaker) -> None:
    layer.share(QUOTA)
    # What the job does to its variables makes no difference.
    job = new_job(**preloaded(layer, OPENCL_LAYERS="", OCL_ICD_VENDORS="/nowhere"))
    end = job.run()
    assert end["outcome"] == "completed", (end, job.output(Kind.SETUP))
    assert job.output(Kind.STDOUT) == b"ran\n"
    assert job.output(Kind.SETUP) == b""


def test_without_the_layer_nothing_runs(layer: Layer, new_job: JobMaker) -> None:
    layer.share(QUOTA)
    message = not_enforced(new_job(opencl_layer=True))
    assert message == (
        "the job's share of the device isn't enforced on this worker: the OpenCL layer isn't "
        "loaded into this container's processes (/etc/ld.so.preload)"
    )


def test_without_a_grant_nothing_runs(layer: Layer, new_job: JobMaker) -> None:
    assert "don't go through the OpenCL layer" in not_enforced(new_job(**preloaded(layer)))


def test_with_damaged_accounts_or_another_device_nothing_runs(
    layer: Layer, new_job: JobMaker
) -> None:
    layer.share(QUOTA)
    layer.usage.write_bytes(b"damaged")
    assert "the usage file is of another size" in not_enforced(new_job(**preloaded(layer)))
    layer.write({**layer.lines(QUOTA), "device_name": "another"})
    assert "no OpenCL driver in this container shows the granted device" in not_enforced(
        new_job(**preloaded(layer))
    )


#: Preloaded, it stands for a driver: it does so when the loader looks for drivers.
BAD_DRIVER = """
#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
DIR *opendir(const char *name)
{
    if (strcmp(name, "/etc/OpenCL/vendors") == 0) {
        if (getenv("HANGS") == NULL)
            abort();
        for (;;)
            pause();
    }
    return ((DIR *(*)(const char *))dlsym(RTLD_NEXT, "opendir"))(name);
}
"""
#: The runner, with little patience.
HURRIED = """
import sys
from cumulus_runner import enforcement
from cumulus_runner.beginning import begin
from cumulus_runner.command import main
enforcement.TIMEOUT_S = 1.0
sys.exit(main(begin(sys.argv[1:], may_divide=False)))
"""


def test_a_driver_that_crashes_or_hangs_ends_the_attempt(
    layer: Layer, new_job: JobMaker, tmp_path: Path
) -> None:
    layer.share(QUOTA)
    driver = tmp_path / "driver.so"
    compiler = ["gcc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-x", "c", "-o", str(driver), "-"]
    subprocess.run(compiler, input=BAD_DRIVER, text=True, check=True, timeout=60)
    both = f"{layer.library}:{driver}"
    crashing = new_job(**preloaded(layer, LD_PRELOAD=both))
    assert "an OpenCL driver crashed the test (signal 6)" in not_enforced(crashing)
    hanging = new_job(**preloaded(layer, LD_PRELOAD=both, HANGS="1"))
    subprocess.run(
        [sys.executable, "-c", HURRIED, str(hanging.path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
        timeout=60,
    )
    end = hanging.exit()
    assert (end["outcome"], end["reason"]) == ("failed", "partition_failed"), end
    assert "gave no answer within 1 s" in end["message"]
    assert hanging.output(Kind.STDOUT) == b""


def test_orders_that_say_nothing_of_it_are_taken(layer: Layer, new_job: JobMaker) -> None:
    assert new_job().run()["outcome"] == "completed"
    wrong = new_job(opencl_layer="yes").run()
    assert "opencl_layer is neither true nor false" in wrong["message"]
