"""Who has which share of a worker's devices, as its agent last said."""

from typing import Any

import pytest
import pytest_twisted
from test_agent_workers import AGENT, DEVICE
from twisted.internet.task import Clock

from cumulus_wire import uris
from cumulusd.workers.shares import shares
from cumulusd.workers.workers import AgentWorkers

HELD = {
    "partition_id": "p1",
    "job_id": "j1",
    "attempt": 1,
    "device_id": "d0",
    "device_index": 0,
    "units": 2500,
    "gpu_memory_bytes": 25,
    "state": "active",
    "remaining_s": 100.0,
}


def test_time_runs_for_them_and_ends_at_nothing() -> None:
    (share,) = shares([{**DEVICE, "partitions": [HELD]}], 10.0)
    assert share.told(10.0)["remaining_s"] == 100.0
    assert share.told(40.0)["remaining_s"] == 70.0
    assert share.told(1000.0)["remaining_s"] == 0.0
    assert share.told(10.0)["device_id"] == "d0" and share.told(10.0)["job_id"] == "j1"


@pytest.mark.parametrize("left", [None, float("inf"), float("nan")], ids=["none", "inf", "nan"])
def test_time_that_is_not_known_is_not_told(left: Any) -> None:
    (share,) = shares([{**DEVICE, "partitions": [{**HELD, "remaining_s": left}]}], 10.0)
    assert share.told(20.0)["remaining_s"] is None


def test_an_agent_of_before_tells_none() -> None:
    assert shares([DEVICE], 10.0) == ()


@pytest_twisted.ensureDeferred
async def test_they_come_with_the_devices_and_go_with_the_agent() -> None:
    held = [HELD]

    async def call(uri: str, kwargs: Any, timeout_s: float) -> dict[str, Any]:
        devices = [{**DEVICE, "partitions": list(held)}]
        return {"hostname": "one", "released": True, "kept": None, "devices": devices}

    clock = Clock()
    workers = AgentWorkers(call, clock, environment={})
    for verb in uris.AGENT_VERBS:
        workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, True)
    assert [one["partition_id"] for one in workers.partitions("n1")] == ["p1"]
    clock.advance(5.0)
    assert workers.partitions("n1")[0]["remaining_s"] == 95.0
    held.clear()
    await workers.release("n1", "j1", 1)
    assert workers.partitions("n1") == []
    held.append(HELD)
    await workers.release("n1", "j1", 1)
    workers.registration_changed(uris.agent_procedure("n1", "devices"), AGENT, False)
    assert workers.partitions("n1") == [] and workers.partitions("n2") == []
    await workers.stop()
