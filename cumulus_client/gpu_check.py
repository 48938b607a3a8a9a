"""`cumulus doctor --gpu`: is a job held to its share? A job on each device tries it out."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack

from cumulus_client._options import Options
from cumulus_client.doctor import Finding
from cumulus_client.exceptions import CumulusError
from cumulus_client.share_probe import MEASURED
from cumulus_wire.grant import Tier

_PROBE = Path(__file__).with_name("share_probe.py")

#: Over half: no two of these jobs fit on one device, so that each device gets one.
SHARE = 0.6
DURATION_S = 300.0
QUEUE_TIMEOUT_S = 120.0
SETUP_TIMEOUT_S = 120.0
RESULT_TIMEOUT_S = 600.0
#: Of its share a job must be able to have so much.
_USABLE = 0.75
_CUDA, _OPENCL = ("cuda", "CUDA"), ("opencl", "OpenCL")
#: What each tier promises to hold.
_HOLDS: Mapping[str, tuple[str, str]] = {
    Tier.MIG: _CUDA,
    Tier.MPS: _CUDA,
    Tier.HAMI: _CUDA,
    Tier.OPENCL: _OPENCL,
}
_ADVICE = "docs/gpu.md says what a worker needs for each tier"


class Job(Protocol):
    """Of a submitted job's handle."""

    def wait(self, timeout: float | None = None) -> str: ...
    def view(self) -> dict[str, Any]: ...
    def logs(self, follow: bool = True) -> Iterable[str]: ...


class Submitting(Protocol):
    """Of the client's."""

    def submit_script(self, path: Path, **options: Unpack[Options]) -> Any: ...


def check_shares(client: Submitting, workers: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """One finding or more for each device of those workers that take jobs. Jobs that wait longer
    than two minutes for a busy device are given up, and their device is named as not checked."""
    devices = {
        (str(worker["node_id"]), str(device["device_id"])): (worker, device)
        for worker in workers
        if worker.get("usable")
        for device in worker.get("devices") or ()
    }
    jobs: list[Job] = []
    for _, device in devices.values():
        try:
            jobs.append(_submit(client, device))
        except CumulusError as error:
            yield Finding(
                "share", False, f"the check's job was refused: {error.message}", error.hint
            )
    for job in jobs:
        try:
            job.wait(timeout=RESULT_TIMEOUT_S)
            view = job.view()
            measured = _measured("".join(job.logs(follow=False)))
        except CumulusError as error:
            yield Finding("share", False, error.message, error.hint)
            continue
        worker, partition = view.get("worker"), view.get("partition")
        if worker is None or partition is None:
            continue  # it never had a device: that one is named below
        devices.pop((str(worker["node_id"]), str(partition["device_id"])), None)
        name = str(worker["hostname"])
        if measured is not None:
            yield from judge(name, partition, measured)
        else:
            end = view.get("end") or {}
            why = end.get("message") or f"it is {view.get('status')}"
            said = f"{_device(partition)}: the check's job measured nothing: {why}"
            yield Finding(name, False, said, end.get("hint"))
    for worker, device in devices.values():
        yield Finding(
            str(worker.get("hostname")),
            False,
            f"device {device.get('index')}: {device.get('name')}: not checked: no {SHARE:.0%} of "
            f"it was free within {QUEUE_TIMEOUT_S:g} s",
            "run the check again when its jobs have ended",
        )


def judge(
    worker: str, partition: Mapping[str, Any], measured: Mapping[str, Any]
) -> Iterator[Finding]:
    """What a job's taking says of the tier that it ran in."""
    tier, device = str(partition["tier"]), _device(partition)
    share_bytes = int(measured["share_bytes"])
    promised = _HOLDS.get(tier)
    if promised is None:
        said = f"{device}: booked, not enforced: nothing holds a job to its share here"
        yield Finding(worker, False, said, _ADVICE)
        return
    for key, called in (promised, *(one for one in (_CUDA, _OPENCL) if one is not promised)):
        found = measured[key]
        begin = f"{device}, tier {tier}: {called}"
        if "absent" in found:
            if key == promised[0]:
                said = f"{begin} can't be measured: {found['absent']}"
                yield Finding(worker, False, said, _ADVICE)
            continue
        taken = int(found["taken_bytes"])
        if taken > share_bytes:
            said = f"{begin} gave {taken} bytes, the share has {share_bytes}"
            if key == promised[0]:
                yield Finding(worker, False, said, "the tier doesn't hold here: " + _ADVICE)
            else:
                yield Finding(worker, True, f"{said}: this tier doesn't hold it")
        elif taken < share_bytes * _USABLE:
            said = (
                f"{begin} gave only {taken} bytes of a share of {share_bytes}: {found['refused']}"
            )
            yield Finding(worker, False, said, "is something else using the device?")
        else:
            yield Finding(worker, True, f"{begin} held: {taken} bytes of a share of {share_bytes}")


def _submit(client: Submitting, device: Mapping[str, Any]) -> Job:
    # A slice is held as a whole, or not at all.
    share = 1.0 if device.get("tier") == Tier.MIG else SHARE
    job: Job = client.submit_script(
        _PROBE,
        gpu_memory=share,
        duration=DURATION_S,
        queue_timeout=QUEUE_TIMEOUT_S,
        setup_timeout=SETUP_TIMEOUT_S,
        name="cumulus doctor --gpu",
    )
    return job


def _measured(output: str) -> Mapping[str, Any] | None:
    """What the probe printed, among what drivers may print; None when it didn't."""
    for line in output.splitlines():
        if line.startswith(MEASURED):
            measured: Mapping[str, Any] = json.loads(line.removeprefix(MEASURED))
            return measured
    return None


def _device(partition: Mapping[str, Any]) -> str:
    return f"device {partition['device_index']}: {partition['device_name']}"
