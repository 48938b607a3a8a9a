"""The agent's devices: those that vanish, and drivers that take their time."""

import json
import platform
import sys
from collections.abc import Callable

import pytest
import pytest_twisted
from agent_world import DEVICE, DEVICE_ID, CallFailed, World
from twisted.internet import reactor
from twisted.internet.task import deferLater


@pytest_twisted.ensureDeferred
async def test_a_device_that_is_lost_ends_its_jobs_by_name(make: Callable[..., World]) -> None:
    world = await make(discovery_interval_s=0.1).start()
    await world.prepare()
    await world.prepare("job-2")
    runner, late = world.runner(), world.runner("job-2")
    try:
        runner.lock()
        runner.connect()
        world.devices({**DEVICE, "uuid": "cd" * 16, "name": "Another card"})
        await world.until(lambda: (heard := runner.hear()) and b"device_lost" in heard)
        answer = await world.router.call("devices")
        assert [device["name"] for device in answer["devices"]] == ["Another card"]
        assert answer["discovery_error"] == "no longer shown by its driver: Fake card"
        assert answer["fault"] is None  # there is another one
        held = (await world.router.call("partitions"))["partitions"]
        assert {one["state"] for one in held} == {"draining"}
        # One whose runner comes only now is stopped then.
        late.connect()
        await world.until(lambda: (heard := late.hear()) and b"device_lost" in heard)
    finally:
        runner.close()
        late.close()
    for job_id in ("job-1", "job-2"):
        released = await world.router.call("release", job_id=job_id, attempt=1)
        assert released["released"] is True
    # Forgotten by the ledger, not by the words: an operator wants to know. A stale wish for it is
    # told as before.
    await world.until(lambda: "Fake card" not in (world.root / "ledger.json").read_text())
    with pytest.raises(CallFailed, match="doesn't show it now"):
        await world.prepare("job-3")
    assert "Fake card" in (await world.router.call("devices"))["discovery_error"]
    world.devices(DEVICE)
    for _ in range(300):
        if (await world.router.call("devices"))["devices"][0]["device_id"] == DEVICE_ID:
            break
        await deferLater(reactor, 0.02)
    await world.prepare("job-3")


@pytest_twisted.ensureDeferred
async def test_a_device_that_one_look_misses_costs_no_job(make: Callable[..., World]) -> None:
    world = await make(discovery_interval_s=0.2).start()
    await world.prepare()
    runner = world.runner()
    try:
        runner.lock()
        runner.connect()
        # Missing once, then there again: the script counts its own runs.
        runs = world.root / "runs"
        again = f"echo >> {runs}; [ $(wc -l < {runs}) -gt 1 ]"
        code = f"{again} || {{ echo '{{\"devices\": []}}'; exit; }}"
        world.devices(DEVICE, code=code)
        await world.until(lambda: runs.exists() and runs.read_text().count("\n") > 2)
        assert runner.hear() is None
        (held,) = (await world.router.call("partitions"))["partitions"]
        assert held["state"] == "active"
        assert (await world.router.call("devices"))["discovery_error"] is None
    finally:
        runner.close()


@pytest_twisted.ensureDeferred
async def test_a_driver_that_cant_be_asked_loses_no_device(make: Callable[..., World]) -> None:
    """As NVIDIA's, when it was replaced under running jobs, which go on."""
    world = await make(discovery_interval_s=0.1).start()
    known = (await world.router.call("devices"))["devices"]
    await world.prepare()
    runner = world.runner()
    try:
        runner.lock()
        runner.connect()
        runs = world.root / "runs"
        answer = json.dumps({"devices": [], "failed": ["NVML answers with error 18"]})
        world.devices(code=f"echo >> {runs}; echo '{answer}'; exit")
        await world.until(lambda: runs.exists() and runs.read_text().count("\n") > 4)
        told = await world.router.call("devices")
        assert [one["device_id"] for one in told["devices"]] == [known[0]["device_id"]]
        assert told["discovery_error"] == "NVML answers with error 18"
        assert runner.hear() is None
        await world.prepare("job-2")
        # What else is found counts as soon as nothing is missing.
        other = {**DEVICE, "uuid": "cd" * 16}
        answer = json.dumps({"devices": [DEVICE, other], "failed": ["one platform fails"]})
        world.devices(code=f"echo '{answer}'; exit")
        for _ in range(300):
            told = await world.router.call("devices")
            if len(told["devices"]) == 2:
                break
            await deferLater(reactor, 0.02)
        assert told["discovery_error"] == "one platform fails"
    finally:
        runner.close()


@pytest_twisted.ensureDeferred
async def test_a_driver_that_hangs_at_the_start_keeps_no_worker_away(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cumulusd.agent.service.FIRST_LOOK_S", 0.2)
    world = make()
    world.devices(DEVICE, code="exec sleep 600")
    await world.start()
    answer = await world.router.call("devices")
    assert (answer["devices"], answer["discovery_error"]) == (
        [],
        "its drivers have not answered yet",
    )


@pytest.mark.parametrize(
    ("python", "version"),
    [(sys.executable, platform.python_version()), (None, None), ("/no/python", None)],
)
@pytest_twisted.ensureDeferred
async def test_the_jobs_python_is_asked_for_its_version(
    make: Callable[..., World], python: str | None, version: str | None
) -> None:
    world = await make(job_python=python).start()
    assert (await world.router.call("devices"))["python_version"] == version
