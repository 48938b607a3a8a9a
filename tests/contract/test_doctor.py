"""`cumulusd doctor` on a Swarm, by a fake engine at the wire."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor

from cumulusd.config import Config, load_config
from cumulusd.doctor import manager, workers
from cumulusd.doctor.examination import examine
from cumulusd.doctor.finding import Finding
from cumulusd.doctor.swarm_look import Look, look
from cumulusd.swarm import labels
from cumulusd.swarm.answers import NodeInfo, TaskInfo
from cumulusd.swarm.engine import Engine
from tests.contract.fake_engine import FakeEngine, Fault
from tests.e2e.harness import free_port

URL = "ws://127.0.0.1:1"
IMAGES = ("job:1", "agent:1")


async def seen(client: Engine, ahead_s: float = 0.0) -> Look:
    return await look(client, IMAGES, lambda: time.time() + ahead_s)


def of(subject: str, found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(one.verdict, one.said) for one in found if one.subject == subject]


@pytest_twisted.ensureDeferred
async def test_a_sound_manager(fake: FakeEngine, client: Engine) -> None:
    fake.swarm.add_image("agent:1", digests=("registry/agent@sha256:ab",))
    found = list(manager.examine(await seen(client)))
    assert {one.verdict for one in found} == {"ok"}, found
    ((_, said),) = of("engine", found)
    assert "API 1.41 is spoken" in said
    assert [one.subject for one in found] == [
        *("engine", "manager", "quorum", "clock", "image", "image")
    ]
    assert "as registry/agent@sha256:ab" in of("image", found)[1][1]


@pytest_twisted.ensureDeferred
async def test_an_image_that_the_manager_lacks(fake: FakeEngine, client: Engine) -> None:
    found = list(manager.examine(await seen(client)))
    assert [verdict for verdict, _ in of("image", found)] == ["ok", "fault"]
    assert of("image", found)[1][1].startswith("agent:1 is not on the manager")


@pytest_twisted.ensureDeferred
async def test_an_engine_that_is_no_manager(fake: FakeEngine, client: Engine) -> None:
    fake.is_manager = False
    found = list(manager.examine(await seen(client)))
    assert [verdict for verdict, _ in of("manager", found)] == ["fault"]
    assert of("engine", found)[0][0] == "ok" and of("image", found)[0][0] == "ok"


@pytest_twisted.ensureDeferred
async def test_a_swarm_without_quorum(fake: FakeEngine, client: Engine) -> None:
    words = "rpc error: code = Unknown desc = The swarm does not have a leader."
    fake.faults = [Fault("GET /v1.41/nodes", "answer", 503, words)] * 3
    ((verdict, said),) = of("quorum", list(manager.examine(await seen(client))))
    assert verdict == "fault" and "does not have a leader" in said


@pytest.mark.parametrize(
    ("ahead_s", "verdict"), [(0.0, "ok"), (-30.0, "warning"), (3600.0, "fault")]
)
@pytest_twisted.ensureDeferred
async def test_clocks_apart(fake: FakeEngine, client: Engine, ahead_s: float, verdict: str) -> None:
    fake.clock_ahead_s = ahead_s
    ((found, said),) = of("clock", list(manager.examine(await seen(client))))
    assert found == verdict
    assert verdict == "ok" or ("ahead of" if ahead_s > 0 else "behind") in said


def node(hostname: str, **changes: Any) -> NodeInfo:
    whole = NodeInfo(
        node_id=f"id-{hostname}",
        hostname=hostname,
        state="ready",
        availability="active",
        role="worker",
        labels={labels.WORKER: "true", labels.INSTANCE: "ours"},
        version=1,
        message="",
        spec={},
    )
    return attrs.evolve(whole, **changes)


def task(hostname: str, **changes: Any) -> TaskInfo:
    whole = TaskInfo(
        task_id="t",
        service_id="s",
        node_id=f"id-{hostname}",
        state="running",
        desired_state="running",
        message="started",
        error="",
        exit_code=None,
        created_at="2026-01-02T03:04:05.000000006Z",
        labels={labels.AGENT: f"id-{hostname}"},
        had_container=True,
    )
    return attrs.evolve(whole, **changes)


@pytest.mark.parametrize(
    ("reachable", "verdict", "words"),
    [
        (["reachable"], "ok", "one manager"),
        (["reachable"] * 2, "warning", "survive the loss of 0, as 1 would"),
        (["reachable"] * 3, "ok", "1 may be lost"),
        (["reachable", "reachable", "unreachable"], "warning", "2 of 3 managers"),
    ],
    ids=["one", "two", "three", "one-away"],
)
def test_quorum(reachable: list[str], verdict: str, words: str) -> None:
    managers = [node(f"m{at}", reachability=each) for at, each in enumerate(reachable)]
    (found,) = manager.quorum(managers)
    assert found.verdict == verdict and words in found.said


def examined(
    *, agents: dict[str, bool] | None = None, worker: NodeInfo | None = None, **told: Any
) -> list[Finding]:
    seen = Look(name="x", nodes=[worker or node("gpu")], **told)
    wanted = workers.Wanted(
        job_image="job:1",
        advertise_url=URL,
        instance_id=None if agents is None else "ours",
        agents=agents,
    )
    return list(workers.examine(seen, wanted))


def test_an_agent_that_is_connected() -> None:
    first, image = examined(agents={"id-gpu": True}, agent_tasks=[task("gpu")])
    assert first.verdict == "ok" and f"{URL} is reached from there" in first.said
    assert image.verdict == "not known" and "job:1" in image.said


def test_an_agent_that_runs_and_is_not_connected() -> None:
    first, *_ = examined(agents={"id-gpu": False}, agent_tasks=[task("gpu")])
    assert first.verdict == "fault" and "is not connected" in first.said
    assert (
        first.advice is not None and URL in first.advice and "docker service logs s" in first.advice
    )


def test_an_agent_whose_image_is_missing() -> None:
    rejected = task("gpu", state="rejected", error="No such image: agent:1", had_container=False)
    first, *_ = examined(agents={"id-gpu": False}, agent_tasks=[rejected])
    assert first.verdict == "fault" and "No such image: agent:1" in first.said
    assert first.advice is not None and "load or pull" in first.advice


def test_a_stopped_daemon_can_not_tell() -> None:
    first, *_ = examined(agent_tasks=[task("gpu")])
    assert first.verdict == "not known" and "Only a running daemon" in first.said
    first, *_ = examined()
    assert first.verdict == "not known" and "no agent was started" in first.said


def test_a_jobs_image_is_known_by_its_tasks() -> None:
    ran = task("gpu", image="job:1", labels={}, state="complete")
    assert examined(job_tasks=[ran])[1].verdict == "ok"
    later = attrs.evolve(
        ran,
        created_at="2026-02-02T03:04:05Z",
        state="rejected",
        had_container=False,
        error="No such image: job:1",
    )
    lacking = examined(job_tasks=[ran, later])[1]
    assert lacking.verdict == "fault" and "it lacks job:1" in lacking.said
    elsewhere = attrs.evolve(ran, node_id="id-other")
    assert examined(job_tasks=[elsewhere])[1].verdict == "not known"
    other_image = attrs.evolve(ran, image="job:0")
    assert examined(job_tasks=[other_image])[1].verdict == "not known"


def test_a_worker_whose_clock_is_behind_what_it_was_told() -> None:
    from cumulusd.swarm.answers import SwarmInfo

    info = SwarmInfo(
        name="m",
        engine_version="1",
        is_manager=True,
        node_id="m",
        error="",
        time="2026-01-02T03:10:00Z",
    )
    behind = task("gpu", status_at="2026-01-02T03:03:05Z")
    *_, last = examined(agent_tasks=[behind], info=info)
    assert last.verdict == "warning" and "at least 60 s behind" in last.said
    ahead = task("gpu", status_at="2026-01-02T03:11:00Z")
    *_, last = examined(agent_tasks=[ahead], info=info)
    assert last.verdict == "warning" and "at least 60 s ahead of" in last.said
    fine = task("gpu", status_at="2026-01-02T03:05:00Z")
    assert len(examined(agent_tasks=[fine], info=info)) == 2


def test_nodes_that_take_no_jobs() -> None:
    (down,) = examined(worker=node("gpu", state="down", message="heartbeat failure"))
    assert down.verdict == "fault" and "down: heartbeat failure" in down.said
    first, *_ = examined(worker=node("gpu", availability="drain"))
    assert first.verdict == "warning" and "drain" in first.said
    (none,) = examined(worker=node("gpu", labels={}))
    assert none.verdict == "warning" and "no node of the Swarm is enrolled" in none.said
    foreign = node("gpu", labels={labels.WORKER: "true", labels.INSTANCE: "theirs"})
    assert examined(worker=foreign, agents={}) == []


def config_of(tmp_path: Path) -> Config:
    path = tmp_path / "cumulusd.yaml"
    path.write_text(
        f"""\
listen: ["tcp:{free_port()}:interface=127.0.0.1"]
platform:
  type: swarm
  swarm:
    endpoint: unix://{tmp_path}/engine.sock
    advertise_url: {URL}
    agent_image: agent:1
jobs: {{image: "job:1"}}
"""
    )
    return load_config(path, {})


async def whole(tmp_path: Path, probe: bool = False) -> list[Finding]:
    found: list[Finding] = []
    await examine(config_of(tmp_path), reactor, found.append, probe=probe)
    return found


@pytest_twisted.ensureDeferred
async def test_everything_of_a_stopped_daemon(fake: FakeEngine, tmp_path: Path) -> None:
    fake.swarm.add_image("agent:1")
    worker = list(fake.swarm.nodes.values())[1]
    worker["Spec"]["Labels"] = {labels.WORKER: "true"}
    found = await whole(tmp_path)
    assert [one for one in found if one.verdict == "fault"] == []
    assert of("daemon", found) == [("ok", "none runs with this configuration")]
    assert of("worker1", found)[0][0] == "not known"
    assert [verdict for verdict, _ in of("advertise_url", found)] == [
        *("warning", "warning", "not known")
    ]


@pytest_twisted.ensureDeferred
async def test_a_probe_tries_the_job_image_and_leaves_nothing(
    fake: FakeEngine, tmp_path: Path
) -> None:
    """Once it is there, once the image is only on the manager."""
    fake.swarm.add_image("agent:1")
    worker = list(fake.swarm.nodes.values())[1]
    worker["Spec"]["Labels"] = {labels.WORKER: "true"}
    found = await whole(tmp_path, probe=True)
    assert of("worker1", found)[1:] == [("ok", "it has job:1: a container was made of it, and ran")]
    assert fake.swarm.services == {}
    fake.swarm.lacking = {"job:1", fake.swarm.images["job:1"]["Id"]}
    found = await whole(tmp_path, probe=True)
    ((verdict, said),) = of("worker1", found)[1:]
    assert verdict == "fault" and "No such image" in said
    assert fake.swarm.services == {}


@pytest_twisted.ensureDeferred
async def test_without_an_engine_the_rest_is_looked_at(tmp_path: Path) -> None:
    found = await whole(tmp_path)
    ((verdict, said),) = of("engine", found)
    assert verdict == "fault" and "can't be reached" in said and "engine.sock" in said
    for subject in ("manager", "clock", "image", "workers"):
        assert of(subject, found)[0][0] == "not known", subject
    assert of("disk", found) and of("tokens", found) and of("listener", found)


@pytest_twisted.ensureDeferred
async def test_a_check_that_breaks_keeps_no_other_from_its_turn(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Config) -> Any:
        raise RuntimeError("oh")

    monkeypatch.setattr("cumulusd.doctor.machine.disk", broken)
    found = await whole(tmp_path)
    ((verdict, said),) = of("disk", found)
    assert verdict == "fault" and "this check itself failed: RuntimeError: oh" in said
    assert of("tokens", found) and of("engine", found)
