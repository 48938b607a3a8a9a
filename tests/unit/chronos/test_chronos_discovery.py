"""Discovery on this machine's drivers, and with probes that hang, crash and lie."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from cumulusd.chronos.devices import ProbeAnswerInvalid, Selection, read_answer
from cumulusd.chronos.discovery import PROBE, Discovery, DiscoveryFailed
from tests.unit.chronos.bad_drivers import BadDriver

CPU_TOO = Selection(count_cpu_devices=True)


def answer(*devices: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"devices": devices, **more}).encode()


def entry(name: str = "Card", **more: Any) -> dict[str, Any]:
    return {
        "platform": "P",
        "name": name,
        "kind": "gpu",
        "ordinal": 0,
        "memory_bytes": 1000,
        "uuid": None,
        "pci": None,
        **more,
    }


def probe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fake_probe.py"
    path.write_text("import os, sys, time, signal, json\nos.setsid()\n" + text)
    return path


def test_identity_is_uuid_then_pci_then_what_it_is_called() -> None:
    found = read_answer(
        answer(
            entry(uuid="ab" * 16, pci="0000:01:00.0"),
            entry(pci="0000:02:00.0"),
            entry(ordinal=0),
            entry(ordinal=1),
        ),
        Selection(),
    )
    ids = list(found.devices)
    assert ids[:2] == ["uuid-" + "ab" * 16, "pci-0000:02:00.0"]
    assert all(one.startswith("name-") for one in ids[2:])
    assert len(set(ids)) == 4


def test_devices_are_numbered_gpus_first_in_pci_order() -> None:
    found = read_answer(
        answer(
            entry("cpu", kind="cpu"),
            entry("late", pci="0000:81:00.0"),
            entry("early", pci="0000:01:00.0"),
        ),
        CPU_TOO,
    )
    assert [(one.index, one.name) for one in found.devices.values()] == [
        (0, "early"),
        (1, "late"),
        (2, "cpu"),
    ]


def test_a_card_that_two_drivers_show_is_one_device() -> None:
    found = read_answer(
        answer(
            entry(uuid="ab" * 16, pci="0000:01:00.0"),
            entry(platform="other", uuid="cd" * 16, pci="0000:01:00.0"),
        ),
        Selection(),
    )
    assert list(found.devices) == ["uuid-" + "ab" * 16]


def test_a_device_keeps_the_names_that_grants_need() -> None:
    found = read_answer(
        answer(
            entry("twin", kind="cpu"),
            entry("other", kind="cpu", ordinal=1),
            entry("twin", kind="cpu", ordinal=2),
            entry("card", platform="NVIDIA CUDA", uuid="8932f937d72c4106c12f20bd9faed9f6"),
            entry("slice", platform="NVIDIA CUDA", uuid="ab" * 16, cuda_uuid="MIG-x"),
            entry("amd", platform="rusticl", uuid="cd" * 16, pci="0000:02:00.0"),
        ),
        CPU_TOO,
    )
    named = {one.name: one for one in found.devices.values() if one.name != "twin"}
    assert named["card"].cuda_uuid == "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
    assert named["slice"].cuda_uuid == "MIG-x"
    assert (named["amd"].cuda_uuid, named["amd"].pci) == (None, "0000:02:00.0")
    # Among its own kind, not among the platform's devices.
    twins = [one.ordinal for one in found.devices.values() if one.name == "twin"]
    assert (twins, named["other"].ordinal) == ([0, 1], 0)


def test_what_could_not_be_asked_is_told_beside_what_was_found() -> None:
    found = read_answer(answer(entry(), failed=["a fails", "b fails"]), Selection())
    assert (len(found.devices), found.failed, found.reason) == (1, "a fails; b fails", None)
    assert read_answer(answer(entry()), Selection()).failed is None


def test_a_gpu_keeps_a_reserve_for_its_driver_and_a_cpu_doesnt() -> None:
    found = read_answer(answer(entry(), entry("c", kind="cpu")), CPU_TOO)
    assert [one.memory_bytes for one in found.devices.values()] == [950, 1000]


def test_cpu_devices_count_only_when_told_to_and_the_reason_says_so() -> None:
    found = read_answer(answer(entry("PoCL", kind="cpu")), Selection())
    assert not found.devices
    assert found.reason is not None
    assert "count_cpu_devices" in found.reason


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"null", answer({}), answer(entry(memory_bytes=-1)), answer(entry(kind=3))],
)
def test_nonsense_is_told_from_an_answer(data: bytes) -> None:
    with pytest.raises(ProbeAnswerInvalid):
        read_answer(data, CPU_TOO)


def opencl_here() -> str | None:
    """Why there is no OpenCL device to look at; None when there is one."""
    ran = subprocess.run([sys.executable, "-I", PROBE], capture_output=True, timeout=60)
    if ran.returncode != 0:
        return ran.stderr.decode(errors="replace")
    value = json.loads(ran.stdout)
    return None if value["devices"] else str(value["reason"])


@pytest_twisted.ensureDeferred
async def test_the_real_drivers_give_the_same_devices_twice() -> None:
    why = opencl_here()
    if why is not None:
        pytest.skip(f"no OpenCL device on this machine: {why}")
    discovery = Discovery(reactor, selection=CPU_TOO, timeout_s=60)
    first, second = await discovery.look(), await discovery.look()
    assert first.devices
    assert list(first.devices) == list(second.devices)
    assert all(one.memory_bytes > 0 for one in first.devices.values())


@pytest_twisted.ensureDeferred
async def test_without_drivers_there_is_a_reason(tmp_path: Path) -> None:
    environment = {**os.environ, "OCL_ICD_VENDORS": str(tmp_path), "OCL_ICD_FILENAMES": ""}
    found = await Discovery(reactor, selection=CPU_TOO, environment=environment).look()
    assert not found.devices
    assert found.reason is not None
    assert "OpenCL" in found.reason


@pytest_twisted.ensureDeferred
async def test_a_hanging_driver_is_killed_with_what_it_started(tmp_path: Path) -> None:
    marker = tmp_path / "child"
    fake = probe(
        tmp_path,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        f"open({str(marker)!r}, 'w').write(str(child)) if child else None\n"
        "time.sleep(600)\n",
    )
    began = time.monotonic()
    with pytest.raises(DiscoveryFailed, match=r"no answer within 0\.5 s"):
        await Discovery(reactor, selection=CPU_TOO, timeout_s=0.5, probe=fake).look()
    assert time.monotonic() - began < 10
    child = Path(f"/proc/{marker.read_text()}/stat")
    for _ in range(100):
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        await deferLater(reactor, 0.05)
    pytest.fail("the probe's child lives")


@pytest_twisted.ensureDeferred
async def test_a_crash_is_told_with_the_drivers_words(tmp_path: Path) -> None:
    fake = probe(tmp_path, "print('ICD exploded', file=sys.stderr, flush=True)\nos.abort()\n")
    with pytest.raises(DiscoveryFailed, match=r"crashed.*ICD exploded"):
        await Discovery(reactor, selection=CPU_TOO, probe=fake).look()


@pytest_twisted.ensureDeferred
async def test_endless_output_is_cut_off(tmp_path: Path) -> None:
    fake = probe(tmp_path, "while True: print('x' * 65536)\n")
    with pytest.raises(DiscoveryFailed, match="more than"):
        await Discovery(reactor, selection=CPU_TOO, timeout_s=30, probe=fake).look()


@pytest_twisted.ensureDeferred
async def test_an_interpreter_that_isnt_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "no-python")
    with pytest.raises(DiscoveryFailed):
        await Discovery(reactor, selection=CPU_TOO, python=missing, timeout_s=5).look()


@pytest_twisted.ensureDeferred
async def test_cancelling_kills_the_probe(tmp_path: Path) -> None:
    fake = probe(tmp_path, "time.sleep(600)\n")
    looking = Deferred.fromCoroutine(Discovery(reactor, selection=CPU_TOO, probe=fake).look())
    await deferLater(reactor, 0.1)
    looking.cancel()
    with pytest.raises(CancelledError):
        await looking


@pytest_twisted.ensureDeferred
async def test_real_drivers_that_hang_and_crash_are_told_from_each_other(tmp_path: Path) -> None:
    """The loader's own way into a library, not a fake probe."""
    driver = BadDriver(tmp_path / "drivers", alone=True)
    environment = {**os.environ, **driver.environment}
    patient = Discovery(reactor, selection=CPU_TOO, environment=environment)
    hasty = Discovery(reactor, selection=CPU_TOO, environment=environment, timeout_s=3)
    driver.order("crash")
    with pytest.raises(DiscoveryFailed, match=r"crashed.*the driver is broken"):
        await patient.look()
    driver.order("hang")
    with pytest.raises(DiscoveryFailed, match="no answer within 3 s"):
        await hasty.look()
    driver.order("")
    assert not (await patient.look()).devices
