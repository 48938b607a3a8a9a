"""However many workers there are and however they are called, the series stay few and sound."""

import itertools

from prometheus_client.parser import text_string_to_metric_families

from cumulus_wire.codes import WaitReason
from cumulusd.jobs.model import Grant, JobRecord, JobSpec, Phase, Placement, Wait
from cumulusd.jobs.ports import AgentView, Device, Disagreement, Node
from cumulusd.metrics import Metrics
from cumulusd.metrics_labels import MAX_DEVICES, MAX_WORKERS, OTHERS, worker_labels
from cumulusd.metrics_snapshot import MetricsSnapshot, jobs_share, pool_share, worker_state

HOSTILE = (
    "gpu",
    "gpu",
    "",
    "(others)",
    'a"b\\c',
    "line\nbreak 1",
    "x" * 5000,
    "\udcff\x00\x1b[31m",
    "ü" * 70,
    'gpu"} 1\ncumulus_part_ok{part="store',
)


def node(node_id: str, hostname: str, **changes: str) -> Node:
    values = {"state": "ready", "availability": "active", **changes}
    return Node(node_id=node_id, hostname=hostname, is_worker=True, **values)


def device(index: int) -> Device:
    return Device(
        device_id=f"d{index}",
        index=index,
        name="Card",
        kind="gpu",
        memory_bytes=1000,
        units_total=10_000,
        units_free=7_500,
        tier="mig",
    )


def agent(node_id: str, hostname: str, devices: int = 2, **changes: str) -> AgentView:
    return AgentView(
        node_id=node_id,
        hostname=hostname,
        devices=tuple(device(index) for index in range(devices)),
        **changes,
    )


def pool(count: int) -> tuple[list[Node], dict[str, AgentView]]:
    names = [HOSTILE[i] if i < len(HOSTILE) else f"gpu-{i}" for i in range(count)]
    nodes = [node(f"n{i}", name) for i, name in enumerate(names)]
    return nodes, {one.node_id: agent(one.node_id, "what the agent says") for one in nodes}


def test_2000_workers_with_hostile_names_make_a_bounded_and_sound_page() -> None:
    nodes, agents = pool(2000)
    told = [Disagreement(node_id=f"n{i}", message="x") for i in range(2000)]
    text = Metrics(lambda: MetricsSnapshot(pool=pool_share(nodes, agents, told))).text()
    assert len(text) < 400_000
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    series = [
        (sample.name, *sorted(sample.labels.items()))
        for family in families.values()
        for sample in family.samples
    ]
    assert len(series) == len(set(series)), "a series is there twice: Prometheus refuses the page"
    units = families["cumulus_device_units"].samples
    workers = {sample.labels["worker"] for sample in units}
    assert len(workers) == MAX_WORKERS + 1 and OTHERS in workers
    assert all(len(worker) <= 70 and worker.isprintable() for worker in workers)
    # Nothing is left out of the sums.
    assert sum(sample.value for sample in units) == 2000 * 2 * 10_000
    in_use = families["cumulus_device_memory_in_use_bytes"].samples
    assert sum(sample.value for sample in in_use) == 2000 * 2 * 250
    disagreements = families["cumulus_share_disagreements"].samples
    assert sum(sample.value for sample in disagreements) == 2000
    (without,) = families["cumulus_workers_without_series"].samples
    assert without.value == 2000 - MAX_WORKERS
    assert families["cumulus_part_ok"].samples == []


def test_labels_differ_and_stay_whatever_the_order() -> None:
    names = {f"n{i}": name for i, name in enumerate(HOSTILE)}
    labels = worker_labels(names)
    assert len(set(labels.values())) == len(names)
    assert OTHERS not in labels.values() and "" not in labels.values()
    assert sorted(label for label in labels.values() if label.startswith("gpu"))[0] == "gpu"
    assert worker_labels(dict(reversed(names.items()))) == labels


def test_an_agent_with_any_number_of_devices_has_few_series() -> None:
    agents = {"n": agent("n", "gpu", devices=500)}
    share = pool_share([node("n", "gpu")], agents, ())
    assert len(share.devices) == MAX_DEVICES + 1
    assert sum(one.units_total for one in share.devices) == 500 * 10_000


def test_an_agent_that_tells_an_index_twice_makes_one_series() -> None:
    twice = AgentView(node_id="n", hostname="gpu", devices=(device(0), device(0), device(10**30)))
    (one, rest) = pool_share([node("n", "gpu")], {"n": twice}, ()).devices
    assert (one.device, one.units_total) == ("0", 20_000)
    assert (rest.device, rest.units_total) == (OTHERS, 10_000)


def test_the_states_of_workers() -> None:
    there = agent("n", "gpu")
    states = {
        worker_state(node("n", "gpu"), there): "ready",
        worker_state(node("n", "gpu"), agent("n", "gpu", fault="disk full")): "faulty",
        worker_state(node("n", "gpu"), None): "agent_away",
        worker_state(node("n", "gpu", availability="drain"), there): "drained",
        worker_state(node("n", "gpu", availability="pause"), there): "paused",
        worker_state(node("n", "gpu", state="down"), there): "down",
    }
    assert all(found == wanted for found, wanted in states.items()) and len(states) == 6
    manager = Node(node_id="m", hostname="m", state="ready", availability="active", is_worker=False)
    share = pool_share([manager, node("n", "gpu")], {"n": there}, ())
    assert share.by_state["ready"] == 1 and sum(share.by_state.values()) == 1


_ids = itertools.count()


def job(phase: Phase, tier: str | None = None, reason: WaitReason | None = None) -> JobRecord:
    spec = JobSpec(package_sha256="0", package_size_bytes=1, gpu_memory=0.5, duration_s=1.0)
    grant = None
    if tier is not None:
        grant = Grant(
            partition_id="p",
            device_id="d",
            device_name="Card",
            device_index=0,
            units=5000,
            gpu_memory_bytes=1,
            tier=tier,
            tier_note="",
            folder="/f",
        )
    return JobRecord(
        job_id=f"j{next(_ids)}",
        owner="ann",
        spec=spec,
        phase=phase,
        created_at=100.0,
        placement=Placement(node_id="n", hostname="gpu", device_id="d") if grant else None,
        grant=grant,
        wait=None if reason is None else Wait(reason=reason, message=""),
    )


def test_jobs_by_why_they_wait_and_partitions_by_tier() -> None:
    share = jobs_share(
        [
            job(Phase.QUEUED, reason=WaitReason.NO_FREE_SHARE),
            job(Phase.LAUNCHING, "mig", WaitReason.LAUNCHING),
            job(Phase.RUNNING, "mig"),
            job(Phase.RUNNING, "a tier of a later version"),
        ],
        1,
        103.0,
        lambda record: (
            WaitReason.BEHIND_OTHERS
            if record.phase is Phase.QUEUED
            else record.wait and record.wait.reason
        ),
    )
    assert share.waiting[WaitReason.BEHIND_OTHERS.value] == 1, "as it is now, not as last told"
    assert share.waiting[WaitReason.LAUNCHING.value] == 1
    assert share.waiting[WaitReason.NO_FREE_SHARE.value] == 0
    assert set(share.waiting) == {reason.value for reason in WaitReason}
    assert share.partitions["mig"] == 2 and share.partitions[OTHERS] == 1
    assert share.partitions["hami"] == 0
    assert share.oldest_wait_s == 3.0
    assert jobs_share([], 0, 103.0, lambda record: None).oldest_wait_s == 0.0
