"""What services reserve of devices against what ledgers hold."""

from typing import Any

import pytest

from cumulusd.jobs.ports import Holding
from cumulusd.swarm.agreement import device_units, disagreements
from cumulusd.swarm.answers import ServiceInfo, TaskInfo

OURS = {"cumulus.instance": "i", "cumulus.job": "job_1", "cumulus.attempt": "1"}


def service(labels: dict[str, str] | None = None, number: int = 1, **units: int) -> ServiceInfo:
    generic = [{"DiscreteResourceSpec": {"Kind": k, "Value": v}} for k, v in units.items()]
    return ServiceInfo.read(
        {
            "ID": f"s{number}",
            "Version": {"Index": 1},
            "Spec": {
                "Name": f"n{number}",
                "Labels": OURS if labels is None else labels,
                "Mode": {"Replicated": {"Replicas": 1}},
                "TaskTemplate": {
                    "Resources": {"Reservations": {"GenericResources": generic}} if generic else {}
                },
            },
        }
    )


def task(state: str = "running", node: str | None = "n1", of: int = 1) -> TaskInfo:
    return TaskInfo.read(
        {
            "ID": f"t{of}",
            "ServiceID": f"s{of}",
            "NodeID": node,
            "DesiredState": "running",
            "Status": {"State": state},
        }
    )


def holding(units: int = 5000, index: int | None = 0, **changes: Any) -> Holding:
    values: dict[str, Any] = {
        "node_id": "n1",
        "job_id": "job_1",
        "attempt": 1,
        "device_index": index,
        "units": units,
        "runs": True,
    }
    return Holding(**(values | changes))


def told(
    services: list[ServiceInfo], tasks: list[TaskInfo], *holdings: Holding
) -> list[tuple[str, str]]:
    found = disagreements(services, tasks, {"n1": holdings}, instance_id="i", prefix="cumulus_gpu")
    return [(one.node_id, one.message) for one in found]


def test_units_are_read_of_our_resource_only() -> None:
    assert device_units(service(cumulus_gpu0=5, cumulus_gpu12=7, ssd=3), "cumulus_gpu") == {
        0: 5,
        12: 7,
    }
    assert device_units(service(), "cumulus_gpu") == {}
    named = ServiceInfo.read(
        {
            "ID": "s",
            "Version": {"Index": 1},
            "Spec": {
                "Name": "n",
                "TaskTemplate": {
                    "Resources": {
                        "Reservations": {
                            "GenericResources": [
                                {"NamedResourceSpec": {"Kind": "cumulus_gpu0", "Value": "x"}}
                            ]
                        }
                    }
                },
            },
        }
    )
    assert device_units(named, "cumulus_gpu") == {}


@pytest.mark.parametrize(("share", "reserved"), [(5000, 4999), (10_000, 9999), (2, 1), (1, 1)])
def test_one_unit_less_than_the_share_is_what_is_to_be_reserved(share: int, reserved: int) -> None:
    assert told([service(cumulus_gpu0=reserved)], [task()], holding(share)) == []
    assert told([service(cumulus_gpu0=reserved)], [task()], holding(share, index=None)) == []
    ((_, why),) = told([service(cumulus_gpu0=reserved + 7)], [task()], holding(share))
    assert f"{reserved + 7} of device 0" in why and f"{share} of device 0" in why
    ((_, why),) = told([service(cumulus_gpu1=reserved)], [task()], holding(share))
    assert "of device 1" in why


def test_a_reservation_without_a_partition_is_named() -> None:
    ((node_id, why),) = told([service(cumulus_gpu0=4999)], [task()])
    assert node_id == "n1"
    assert "attempt 1 of job job_1" in why and "no partition" in why
    other = holding(attempt=2, runs=False)
    assert len(told([service(cumulus_gpu0=4999)], [task()], other)) == 1


def test_a_partition_whose_container_should_run_wants_its_reservation() -> None:
    ((_, why),) = told([], [], holding())
    assert "ledger holds 5000 units, the Swarm reserves none" in why
    assert told([], [], holding(runs=False)) == []
    assert len(told([service(cumulus_gpu0=4999)], [task("complete")], holding())) == 1


def test_what_others_reserve_is_summed_by_device() -> None:
    services = [
        service({}, 1, cumulus_gpu0=5),
        service({**OURS, "cumulus.instance": "other"}, 2, cumulus_gpu0=6, cumulus_gpu1=1),
        service({}, 3),
    ]
    tasks = [task(of=1), task(of=1), task(of=2), task(of=3)]
    assert [why for _, why in told(services, tasks)] == [
        "services that aren't this daemon's reserve 16 units of device 0, of which the ledger "
        "knows nothing",
        "services that aren't this daemon's reserve 1 units of device 1, of which the ledger "
        "knows nothing",
    ]


def test_only_living_tasks_on_nodes_that_were_asked_hold_anything() -> None:
    services = [service(cumulus_gpu0=4999)]
    for one in (task("failed"), task("pending", node=None), task(node="n2")):
        assert told(services, [one]) == []
