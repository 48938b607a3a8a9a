"""A job's service: what is sent to which version, and what is refused."""

import json
from typing import Any

import attrs
import pytest

from cumulusd.errors import InvalidArgument
from cumulusd.jobs.model import UNITS_PER_DEVICE, Grant, units_for_fraction
from cumulusd.jobs.ports import ContainerSpec
from cumulusd.swarm.answers import ApiVersion
from cumulusd.swarm.service_spec import (
    JobSettings,
    job_service,
    missing_guarantees,
    reserved_units,
)

ROOT = "/var/lib/cumulus"
FOLDER = f"{ROOT}/jobs/job_1"
ENVIRONMENTS = f"{ROOT}/owners/abc/env"
SETTINGS = JobSettings(instance_id="uuid", worker_root=ROOT, environment={"A": "ours", "B": "b"})
SPEC = ContainerSpec(
    job_id="job_1",
    attempt=2,
    node_id="node1",
    grant=Grant(
        partition_id="p1",
        device_id="d3",
        device_name="GPU",
        device_index=3,
        units=2500,
        gpu_memory_bytes=1,
        tier="advisory",
        tier_note="",
        folder=FOLDER,
        environment={"A": "the grant's"},
        mounts=((FOLDER, FOLDER, False), (ENVIRONMENTS, ENVIRONMENTS, False)),
    ),
    cpu_cores=1.5,
    memory_bytes=1 << 30,
    stop_grace_s=5.0,
)
IMAGE = "sha256:" + "a" * 64


def payload(
    spec: ContainerSpec = SPEC, settings: JobSettings = SETTINGS, api: ApiVersion = (1, 41)
) -> Any:
    made = job_service(spec, settings, image=IMAGE, api=api)
    return json.loads(json.dumps(made.payload))


def with_grant(**changes: Any) -> ContainerSpec:
    return attrs.evolve(SPEC, grant=attrs.evolve(SPEC.grant, **changes))


def test_the_whole_of_it() -> None:
    task = {
        "ContainerSpec": {
            "Image": IMAGE,
            "Command": [
                "python3",
                "-u",
                "/usr/local/lib/cumulus/cumulus_runner/__main__.py",
                FOLDER,
            ],
            "Args": None,
            "Env": ["A=the grant's", "B=b", f"CUMULUS_IMAGE={IMAGE}"],
            "User": "1000:1000",
            "StopGracePeriod": 7_000_000_000,
            "Labels": {
                "cumulus.instance": "uuid",
                "cumulus.job": "job_1",
                "cumulus.attempt": "2",
            },
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": path,
                    "Target": path,
                    "ReadOnly": False,
                    "BindOptions": {"Propagation": "rprivate"},
                }
                for path in (FOLDER, ENVIRONMENTS)
            ]
            + [
                {
                    "Type": "tmpfs",
                    "Source": None,
                    "Target": path,
                    "ReadOnly": False,
                    "TmpfsOptions": {"Mode": 0o1777, "SizeBytes": size},
                }
                for path, size in (("/tmp", 256 << 20), ("/dev/shm", 1 << 30))
            ],
            "ReadOnly": True,
            "Init": True,
            "CapabilityDrop": ["ALL"],
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        },
        "Resources": {
            "Limits": {"NanoCPUs": 1_500_000_000, "MemoryBytes": 1 << 30, "Pids": 4096},
            "Reservations": {
                "GenericResources": [
                    {"DiscreteResourceSpec": {"Kind": "cumulus_gpu3", "Value": 2499}}
                ]
            },
        },
        "RestartPolicy": {"Condition": "none", "Delay": 0, "MaxAttempts": 0, "Window": 0},
        "Placement": {"Constraints": ["node.id==node1"]},
        "LogDriver": {
            "Name": "json-file",
            "Options": {
                "mode": "non-blocking",
                "max-buffer-size": "4m",
                "max-size": "4096k",
                "max-file": "1",
            },
        },
    }
    found = payload()
    found["TaskTemplate"]["ContainerSpec"]["Env"].sort()
    assert found == {
        "Name": "cumulus-job-job_1-2",
        "Labels": task["ContainerSpec"]["Labels"],
        "TaskTemplate": task,
        "Mode": {"replicated": {"Replicas": 1}},
    }


@pytest.mark.parametrize(
    ("api", "honoured", "missing"),
    [
        ((1, 41), set(), ["no_new_privileges", "oom_score"]),
        ((1, 43), set(), ["no_new_privileges", "oom_score"]),
        ((1, 44), {"Privileges"}, ["oom_score"]),
        ((1, 46), {"Privileges", "OomScoreAdj"}, []),
        ((1, 52), {"Privileges", "OomScoreAdj"}, []),
    ],
)
def test_options_are_sent_only_to_versions_that_honour_them(
    api: ApiVersion, honoured: set[str], missing: list[str]
) -> None:
    container = payload(api=api)["TaskTemplate"]["ContainerSpec"]
    assert set(container) & {"Privileges", "OomScoreAdj"} == honoured
    if "Privileges" in honoured:
        assert container["Privileges"] == {"NoNewPrivileges": True}
    warnings = job_service(SPEC, SETTINGS, image=IMAGE, api=api).warnings
    assert [warning.partition(":")[0] for warning in warnings] == missing
    assert warnings == missing_guarantees(api)


def test_jobs_that_ask_for_no_bounds_get_the_configured_ones() -> None:
    free = attrs.evolve(SPEC, cpu_cores=None, memory_bytes=None)
    limits = payload(free)["TaskTemplate"]["Resources"]["Limits"]
    assert limits == {"Pids": 4096}
    bounded = attrs.evolve(SETTINGS, cpu_cores=0.25, memory_bytes=5, pids=7)
    limits = payload(free, bounded)["TaskTemplate"]["Resources"]["Limits"]
    assert limits == {"NanoCPUs": 250_000_000, "MemoryBytes": 5, "Pids": 7}


@pytest.mark.parametrize(
    "source",
    ["/", "/etc", "/var/run/docker.sock", ROOT, f"{ROOT}/../x", f"{ROOT}x/y", "relative", ""],
)
def test_a_grant_can_mount_only_what_is_below_the_workers_root(source: str) -> None:
    with pytest.raises(InvalidArgument, match="outside") as caught:
        payload(with_grant(mounts=((source, f"{ROOT}/x", True),)))
    assert caught.value.job_id == "job_1" and caught.value.hint
    with pytest.raises(InvalidArgument, match="outside"):
        payload(with_grant(folder=source, mounts=()))


def test_read_only_mounts_and_a_folder_that_is_always_writable() -> None:
    spec = with_grant(mounts=((f"{ROOT}/ca.pem", "/etc/ca.pem", True), (FOLDER, FOLDER, True)))
    mounts = payload(spec)["TaskTemplate"]["ContainerSpec"]["Mounts"]
    binds = [(one["Target"], one["ReadOnly"]) for one in mounts if one["Type"] == "bind"]
    assert binds == [("/etc/ca.pem", True), (FOLDER, False)]


def test_shared_memory_of_the_workers_takes_the_place_of_the_jobs_own() -> None:
    spec = with_grant(mounts=((f"{ROOT}/mps/shm", "/dev/shm", False),))
    mounts = payload(spec)["TaskTemplate"]["ContainerSpec"]["Mounts"]
    targets = [one["Target"] for one in mounts]
    assert sorted(targets) == sorted([FOLDER, "/dev/shm", "/tmp"])
    (shared,) = (one for one in mounts if one["Target"] == "/dev/shm")
    assert (shared["Type"], shared["Source"]) == ("bind", f"{ROOT}/mps/shm")


def test_a_name_that_swarm_would_refuse_is_refused_here() -> None:
    with pytest.raises(InvalidArgument, match="63"):
        payload(attrs.evolve(SPEC, job_id="j" * 60))


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.6, 0.4], [0.25] * 4, [0.1] * 10])
def test_to_the_swarm_a_device_is_never_full(shares: list[float]) -> None:
    """Else its constraint enforcer ends a job whenever anything of the node changes."""
    units = [units_for_fraction(share) for share in shares]
    assert sum(units) == UNITS_PER_DEVICE
    assert sum(reserved_units(each) for each in units) < UNITS_PER_DEVICE
    assert reserved_units(1) == 1
