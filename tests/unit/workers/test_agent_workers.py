"""The agents as the core sees them: met when they come, asked again when they can't answer."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock

from cumulus_wire import uris
from cumulusd.errors import CumulusError, InternalError, TooMany, Unavailable
from cumulusd.identity import Principal, Role
from cumulusd.jobs.model import JobRecord, JobSpec, Phase, Placement
from cumulusd.jobs.ports import Disagreement, Holding, Node
from cumulusd.views import worker_views
from cumulusd.workers.workers import AgentWorkers, Timeouts

AGENT = Principal(name="agent", owner="agent", role=Role.AGENT, node_id="n1")
DEVICE = {
    "device_id": "d0",
    "index": 0,
    "name": "GPU",
    "kind": "gpu",
    "memory_bytes": 1,
    "units_total": 10_000,
    "units_free": 10_000,
    "tier": "advisory",
}
GRANT: dict[str, Any] = {
    "partition_id": "p",
    "device_id": "d0",
    "device_name": "GPU",
    "device_index": 0,
    "units": 5_000,
    "gpu_memory_bytes": 1,
    "tier": "advisory",
    "tier_note": "booked",
    "folder": "/jobs/j",
    "environment": {},
    "mounts": [],
}
PARTITION = {
    "partition_id": "p",
    "job_id": "a",
    "units": 5_000,
    "gpu_memory_bytes": 1,
    "state": "draining",
    "remaining_s": None,
}


@pytest_twisted.ensureDeferred
async def test_an_agent_that_cannot_tell_its_devices_is_asked_again() -> None:
    problems: list[CumulusError] = [
        Unavailable("no answer"),
        InternalError("the agent failed at devices"),
        TooMany("256 calls are under way"),
    ]

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        if problems:
            raise problems.pop(0)
        return {"hostname": "one", "devices": [DEVICE]}

    clock = Clock()
    workers = AgentWorkers(call, clock, environment={})
    for verb in uris.AGENT_VERBS:
        workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, True)
    clock.pump([1.0] * 3)
    assert [device.device_id for device in workers.agents()["n1"].devices] == ["d0"]
    await workers.stop()
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_worker_that_rests_is_asked_as_often_as_any_from_its_next_job_on() -> None:
    asked: list[float] = []
    clock = Clock()
    free = 10_000

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        devices = [{**DEVICE, "units_free": free}]
        if uri.endswith("prepare"):
            return {"devices": devices, "grant": GRANT}
        asked.append(clock.seconds())
        return {"hostname": "one", "devices": devices}

    times = Timeouts(refresh_s=10.0, refresh_idle_s=30.0, refresh_idle_max_s=120.0)
    workers = AgentWorkers(call, clock, environment={}, timeouts=times)
    for verb in uris.AGENT_VERBS:
        workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, True)
    clock.pump([1.0] * 600)
    rests_s = asked[-1] - asked[-2]
    assert rests_s == 120.0
    asked.clear()
    free = 5_000
    spec = JobSpec(package_sha256="ab" * 32, package_size_bytes=0, gpu_memory=0.5, duration_s=60.0)
    job = JobRecord(job_id="j", owner="ann", spec=spec, phase=Phase.PREPARING, created_at=1.0)
    await workers.prepare(job, Placement(node_id="n1", hostname="one", device_id="d0"))
    begun_s = clock.seconds()
    clock.pump([1.0] * 30)
    assert [at - begun_s for at in asked] == [10.0, 20.0, 30.0]
    await workers.stop()
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_folder_of_no_known_attempt_can_be_released() -> None:
    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        entry = {"job_id": "a", "attempt": 0}
        held = {"job_id": "b", "attempt": 2, "device_index": 1, "units": 5}
        return {"journals": [entry]} if uri.endswith("journals") else {"partitions": [held]}

    workers = AgentWorkers(call, Clock(), environment={})
    inventory = await workers.inventory("n1")
    assert inventory.jobs == {("a", 1), ("b", 2)}, "agents refuse attempt 0"
    assert inventory.holdings == (
        Holding(node_id="n1", job_id="b", attempt=2, device_index=1, units=5),
    )
    await workers.stop()


@pytest_twisted.ensureDeferred
async def test_a_large_package_has_longer_to_come() -> None:
    asked: list[float] = []

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        asked.append(timeout_s)
        raise Unavailable("not now")

    workers = AgentWorkers(call, Clock(), environment={}, timeouts=Timeouts(prepare_s=10.0))
    for size_bytes in (0, 1 << 30):
        spec = JobSpec(
            package_sha256="ab" * 32,
            package_size_bytes=size_bytes,
            gpu_memory=0.5,
            duration_s=60.0,
        )
        job = JobRecord(job_id="j", owner="ann", spec=spec, phase=Phase.PREPARING, created_at=1.0)
        with pytest.raises(Unavailable):
            await workers.prepare(job, Placement(node_id="n1", hostname="one", device_id="d0"))
    assert asked == [10.0, 10.0 + 1024.0]
    await workers.stop()


@pytest_twisted.ensureDeferred
async def test_a_jobs_own_variables_loosen_nothing_and_the_operators_hold() -> None:
    asked: list[Mapping[str, Any]] = []

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        asked.append(kwargs)
        raise Unavailable("not now")

    workers = AgentWorkers(call, Clock(), environment={"LD_LIBRARY_PATH": "/ours", "A": "ours"})
    # As a job that was taken before such names were refused.
    spec = JobSpec(
        package_sha256="ab" * 32,
        package_size_bytes=1,
        gpu_memory=0.5,
        duration_s=60.0,
        environment={"LD_PRELOAD": "/x.so", "CUDA_VISIBLE_DEVICES": "0", "A": "its"},
    )
    submitted = JobRecord(job_id="j", owner="ann", spec=spec, phase=Phase.PREPARING, created_at=1.0)
    with pytest.raises(Unavailable):
        await workers.prepare(submitted, Placement(node_id="n1", hostname="one", device_id="d0"))
    assert asked[0]["environment"] == {"LD_LIBRARY_PATH": "/ours", "A": "its"}
    await workers.stop()


@pytest_twisted.ensureDeferred
async def test_what_must_not_be_seen_goes_apart_from_the_environment() -> None:
    asked: list[Mapping[str, Any]] = []

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        asked.append(kwargs)
        raise Unavailable("not now")

    async def secrets(job_id: str) -> Mapping[str, str]:
        return {"TOKEN": f"of {job_id}", "LD_PRELOAD": "/x.so", "PROXY": "its"}

    set_by_the_job: list[set[str]] = []

    def hidden(names: Iterable[str]) -> Mapping[str, str]:
        set_by_the_job.append(set(names))
        return {"KEY": "ours", "TOKEN": "ours", "OWN": "ours"}

    workers = AgentWorkers(
        call,
        Clock(),
        environment={"PROXY": "ours", "A": "ours"},
        secrets=secrets,
        hidden_environment=hidden,
    )
    spec = JobSpec(
        package_sha256="ab" * 32,
        package_size_bytes=1,
        gpu_memory=0.5,
        duration_s=60.0,
        environment={"OWN": "its"},
    )
    place = Placement(node_id="n1", hostname="one", device_id="d0")
    for names in ((), ("LD_PRELOAD", "PROXY", "TOKEN")):
        record = JobRecord(
            job_id="j",
            owner="ann",
            spec=attrs.evolve(spec, secret_names=names),
            phase=Phase.PREPARING,
            created_at=1.0,
        )
        with pytest.raises(Unavailable):
            await workers.prepare(record, place)
    assert set_by_the_job[0] == {"PROXY", "A", "OWN"}
    assert set_by_the_job[1] == {"PROXY", "A", "OWN", "LD_PRELOAD", "TOKEN"}
    assert asked[0]["secrets"] == {"KEY": "ours", "TOKEN": "ours"}
    assert asked[0]["environment"] == {"PROXY": "ours", "A": "ours", "OWN": "its"}
    assert asked[1]["secrets"] == {"KEY": "ours", "TOKEN": "of j", "PROXY": "its"}
    assert asked[1]["environment"] == {"A": "ours", "OWN": "its"}
    await workers.stop()
    # An agent of an earlier version knows no secrets: without any it isn't sent the word.
    plain = AgentWorkers(call, Clock(), environment={})
    with pytest.raises(Unavailable):
        await plain.prepare(attrs.evolve(record, spec=spec), place)
    assert "secrets" not in asked[2]
    await plain.stop()


@pytest_twisted.ensureDeferred
async def test_what_a_later_look_finds_is_learnt() -> None:
    answers: list[dict[str, Any]] = [
        {"hostname": "one", "devices": [], "discovery_error": "the driver crashed"},
        {"hostname": "one", "devices": [DEVICE], "discovery_error": None},
    ]

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    clock = Clock()
    workers = AgentWorkers(call, clock, environment={})
    changes: list[str] = []
    workers.watch(changes.append)
    for verb in uris.AGENT_VERBS:
        workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, True)
    clock.advance(0)
    assert workers.agents()["n1"].discovery_error == "the driver crashed"
    clock.advance(30.0)
    assert [device.device_id for device in workers.agents()["n1"].devices] == ["d0"]
    assert changes == ["n1", "n1"]
    clock.advance(30.0)
    assert changes == ["n1", "n1"], "no change is no news"
    workers.registration_changed(uris.agent_procedure("n1", "prepare"), AGENT, False)
    assert workers.agents() == {}
    await workers.stop()
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_other_devices_in_an_answer_make_it_ask_why() -> None:
    answers: dict[str, dict[str, Any]] = {
        "devices": {"hostname": "one", "devices": [DEVICE], "discovery_error": None},
        "release": {"released": True, "devices": []},
    }

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        return answers[uri.rpartition(".")[2]]

    workers = AgentWorkers(call, Clock(), environment={})
    for verb in uris.AGENT_VERBS:
        workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, True)
    answers["devices"] = {"hostname": "one", "devices": [], "discovery_error": "it is gone"}
    assert (await workers.release("n1", "job-1", 1)).done
    assert workers.agents()["n1"].discovery_error == "it is gone"
    await workers.stop()


@pytest_twisted.ensureDeferred
async def test_a_worker_with_a_fault_is_asked_more_often() -> None:
    answer: dict[str, Any] = {"hostname": "one", "devices": [DEVICE], "fault": "its disk is full"}
    answer["chronos"] = {"backend": "libchronos", "fault": "it books slowly"}

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        return answer

    clock = Clock()
    workers = AgentWorkers(call, clock, environment={})
    changes: list[str] = []
    workers.watch(changes.append)
    for verb in uris.AGENT_VERBS:
        workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, True)
    clock.advance(0)
    assert workers.agents()["n1"].fault == "its disk is full"
    node = Node(node_id="n1", hostname="one", state="ready", availability="active", is_worker=True)
    (view,) = worker_views([node], workers.agents())
    assert (view["usable"], view["fault"]) == (False, "its disk is full")
    assert view["chronos"] == {"backend": "libchronos", "fault": "it books slowly"}
    answer["fault"] = None
    clock.advance(5.0)
    assert workers.agents()["n1"].fault is None
    assert changes == ["n1", "n1"]
    differ = [Disagreement(node_id=node_id, message=node_id) for node_id in ("n2", "n1")]
    (view,) = worker_views([node], workers.agents(), differ)
    assert (view["usable"], view["fault"]) == (True, None)
    assert view["disagreements"] == ["n1"]
    await workers.stop()


@pytest_twisted.ensureDeferred
async def test_a_verb_that_agents_may_lack_makes_none_present_or_away() -> None:
    asked: list[str] = []

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        asked.append(uri)
        return {"hostname": "one", "devices": [DEVICE]}

    clock = Clock()
    workers = AgentWorkers(call, clock, environment={})
    for verb in uris.AGENT_VERBS:
        workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, True)
    assert "n1" in workers.agents() and len(asked) == 1
    extra = set(uris.ALL_AGENT_VERBS) - set(uris.AGENT_VERBS)
    assert extra
    for there in (True, False):
        for verb in extra:
            workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, there)
        assert "n1" in workers.agents() and len(asked) == 1
    await workers.stop()


@pytest_twisted.ensureDeferred
async def test_an_agent_that_has_nothing_to_tell_is_asked_less_often() -> None:
    told: dict[str, Any] = {"hostname": "one", "devices": [DEVICE]}
    clock, asked = Clock(), list[float]()

    async def call(uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        asked.append(clock.seconds())
        return told

    def asked_in(seconds: int) -> int:
        asked.clear()
        clock.pump([1.0] * seconds)
        return len(asked)

    workers = AgentWorkers(call, clock, environment={})
    for verb in uris.AGENT_VERBS:
        workers.registration_changed(uris.agent_procedure("n1", verb), AGENT, True)
    asked_in(200)
    assert asked_in(600) == 5
    told["fault"] = "its disk is full"
    asked_in(40)
    assert asked_in(300) == 60, "one with a fault is asked often"
    told["fault"] = None
    asked_in(20)
    for busy in ({"units_free": 5_000}, {"partitions": [PARTITION]}):
        told["devices"] = [{**DEVICE, **busy}]
        asked_in(60)
        assert asked_in(300) == 30, busy
    await workers.stop()
    assert not clock.getDelayedCalls()
