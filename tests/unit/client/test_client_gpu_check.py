"""`cumulus doctor --gpu`: what its jobs measure, and what is made of it."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cumulus_client import share_probe
from cumulus_client.doctor import Finding
from cumulus_client.exceptions import ClientTimeout, CumulusError, InsufficientResources
from cumulus_client.gpu_check import SHARE, check_shares, judge

SHARE_BYTES = 4 << 30
ABSENT = {"absent": "there is none"}


def took(taken_bytes: int) -> dict[str, Any]:
    return {"taken_bytes": taken_bytes, "refused": "no more"}


def partition(tier: str, index: int = 0) -> dict[str, Any]:
    return {"device_id": f"d{index}", "device_index": index, "device_name": "Card", "tier": tier}


def judged(tier: str, opencl: Any = ABSENT, cuda: Any = ABSENT) -> list[Finding]:
    measured = {"share_bytes": SHARE_BYTES, "opencl": opencl, "cuda": cuda}
    return list(judge("one", partition(tier), measured))


@pytest.mark.parametrize("taken", [SHARE_BYTES, SHARE_BYTES - 5])
def test_a_tier_that_held(taken: int) -> None:
    (finding,) = judged("opencl", took(taken))
    assert finding.ok
    assert finding.said == (
        f"device 0: Card, tier opencl: OpenCL held: {taken} bytes of a share of {SHARE_BYTES}"
    )


@pytest.mark.parametrize("tier", ["mig", "mps", "hami"])
def test_a_tier_of_cudas_is_judged_by_cuda(tier: str) -> None:
    (finding,) = judged(tier, cuda=took(SHARE_BYTES + 1))
    assert not finding.ok and f"tier {tier}: CUDA gave {SHARE_BYTES + 1} bytes" in finding.said
    assert finding.advice is not None and "doesn't hold" in finding.advice
    (finding,) = judged(tier)
    assert not finding.ok and "CUDA can't be measured: there is none" in finding.said


def test_what_a_tier_doesnt_promise_is_told_and_no_fault() -> None:
    held, other = judged("opencl", took(SHARE_BYTES), took(2 * SHARE_BYTES))
    assert held.ok and other.ok
    assert other.said.endswith("this tier doesn't hold it")


def test_a_share_that_a_job_cant_have_is_a_fault() -> None:
    (finding,) = judged("opencl", took(SHARE_BYTES // 2))
    assert not finding.ok and "gave only" in finding.said and "no more" in finding.said


def test_advice_alone_is_no_hold() -> None:
    (finding,) = judged("advisory", took(10), took(10))
    assert not finding.ok and "booked, not enforced" in finding.said


class Job:
    def __init__(self, view: dict[str, Any], output: str = "", error: Any = None) -> None:
        self._view, self._output, self._error = view, output, error

    def wait(self, timeout: float | None = None) -> str:
        assert timeout is not None
        if self._error is not None:
            raise self._error
        return "completed"

    def view(self) -> dict[str, Any]:
        return self._view

    def logs(self, follow: bool = True) -> list[str]:
        assert not follow
        return [self._output[:10], self._output[10:]]


class Client:
    def __init__(self, *jobs: Any) -> None:
        self._jobs = list(jobs)
        self.submitted: list[dict[str, Any]] = []

    def submit_script(self, path: Path, **options: Any) -> Job:
        assert path.name == "share_probe.py" and path.is_file()
        self.submitted.append(options)
        job = self._jobs.pop(0)
        if isinstance(job, CumulusError):
            raise job
        assert isinstance(job, Job)
        return job


def worker(*tiers: str, **changes: Any) -> dict[str, Any]:
    devices = [
        {"device_id": f"d{index}", "index": index, "name": "Card", "tier": tier}
        for index, tier in enumerate(tiers)
    ]
    return {"node_id": "n1", "hostname": "one", "usable": True, "devices": devices, **changes}


def view(index: int | None = 0, tier: str = "opencl", **changes: Any) -> dict[str, Any]:
    placed = index is not None
    return {
        "status": "completed",
        "worker": {"node_id": "n1", "hostname": "one"} if placed else None,
        "partition": partition(tier, index or 0) if placed else None,
        "end": {"message": "it ended", "hint": "do this"},
        **changes,
    }


def printed(taken: int) -> str:
    measured = {"share_bytes": SHARE_BYTES, "opencl": took(taken), "cuda": ABSENT}
    return f"a driver's chatter\n{share_probe.MEASURED}{json.dumps(measured)}\nmore\n"


def test_each_device_has_a_job_that_fills_more_than_half_of_it() -> None:
    client = Client(Job(view(1), printed(SHARE_BYTES)), Job(view(0), printed(SHARE_BYTES + 1)))
    findings = list(check_shares(client, [worker("opencl", "mig")]))
    assert [(one.subject, one.ok) for one in findings] == [("one", True), ("one", False)]
    assert [one["gpu_memory"] for one in client.submitted] == [SHARE, 1.0]
    assert all(one["queue_timeout"] < one["duration"] for one in client.submitted)


def test_what_went_wrong_is_named_with_its_device() -> None:
    client = Client(
        InsufficientResources("no room for it"),
        Job(view(None), ""),
        Job(view(2), "no measure"),
        Job(view(3), "", ClientTimeout("it takes too long")),
    )
    found = [one.said for one in check_shares(client, [worker(*["opencl"] * 4)])]
    assert not any(one.ok for one in check_shares(Client(), [])) and not client._jobs
    assert found[0] == "the check's job was refused: no room for it"
    assert found[1] == "device 2: Card: the check's job measured nothing: it ended"
    assert found[2] == "it takes too long"
    assert [
        text.partition(": not checked: no 60% of it was free within 120 s") for text in found[3:]
    ] == [
        (f"device {index}: Card", ": not checked: no 60% of it was free within 120 s", "")
        for index in (0, 1, 3)
    ]


def test_workers_that_take_no_jobs_are_left_out() -> None:
    assert list(check_shares(Client(), [worker("opencl", usable=False)])) == []


class Cuda:
    """As the driver's library through ctypes, with so much memory."""

    def __init__(self, memory_bytes: int, **codes: int) -> None:
        self.left = memory_bytes
        self.codes = codes
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.called.append(name)
            return self.codes.get(name, 0)

        return call

    def cuMemAlloc_v2(self, pointer: Any, size: ctypes.c_size_t) -> int:
        if size.value > self.left:
            return 2
        self.left -= size.value
        return 0


def test_cuda_is_taken_until_it_refuses() -> None:
    cuda = Cuda((1 << 30) + (64 << 10) + 5)
    found = share_probe.measure(lambda: share_probe.cuda_allocator(cuda), SHARE_BYTES, 64 << 10)
    assert found == {"taken_bytes": (1 << 30) + (64 << 10), "refused": "CUDA's error 2"}
    assert cuda.called == ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"]


def test_what_has_no_end_is_left_when_it_is_clearly_too_much() -> None:
    cuda = Cuda(1 << 60)
    found = share_probe.measure(lambda: share_probe.cuda_allocator(cuda), SHARE_BYTES, 64 << 10)
    assert found == {"taken_bytes": SHARE_BYTES + (SHARE_BYTES >> 2), "refused": None}


def test_a_driver_without_a_device_is_absent() -> None:
    cuda = Cuda(0, cuInit=100)
    found = share_probe.measure(lambda: share_probe.cuda_allocator(cuda), SHARE_BYTES, 1)
    assert found == {"absent": "cuInit gave CUDA's error 100"}


def test_the_probe_stands_alone_and_tells_what_isnt_there() -> None:
    done = subprocess.run(
        [sys.executable, "-I", share_probe.__file__],
        env={**os.environ, "CUMULUS_GPU_MEMORY_BYTES": str(1 << 20), "OCL_ICD_VENDORS": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(share_probe.MEASURED)]
    measured = json.loads(line.removeprefix(share_probe.MEASURED))
    assert measured["share_bytes"] == 1 << 20
    assert "CUDA driver" in measured["cuda"]["absent"]
    assert "OpenCL" in measured["opencl"]["absent"] or "pyopencl" in measured["opencl"]["absent"]
