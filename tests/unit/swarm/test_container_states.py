"""What Swarm says of services and tasks, as containers: facts.md's end states."""

from typing import Any

import pytest
from agent_pool import node

from cumulusd.swarm.answers import ServiceInfo, TaskInfo
from cumulusd.swarm.container_states import containers, lost_nodes

LABELS = {"cumulus.instance": "i", "cumulus.job": "job_1", "cumulus.attempt": "1"}


def service(number: int = 1, replicas: int = 1, **labels: str) -> ServiceInfo:
    return ServiceInfo.read(
        {
            "ID": f"s{number}",
            "Version": {"Index": 1},
            "Spec": {
                "Name": f"n{number}",
                "Labels": {**LABELS, **{f"cumulus.{k}": v for k, v in labels.items()}},
                "Mode": {"Replicated": {"Replicas": replicas}},
            },
        }
    )


def task(state: str, desired: str = "running", **status: Any) -> TaskInfo:
    container = status.pop("container", {})
    return TaskInfo.read(
        {
            "ID": "t1",
            "ServiceID": status.pop("of", "s1"),
            "NodeID": status.pop("node", "n1"),
            "DesiredState": desired,
            "CreatedAt": status.pop("at", "2026-01-01T00:00:00Z"),
            "Spec": {"ContainerSpec": {"Labels": LABELS}},
            "Status": {
                "State": state,
                "Message": status.pop("message", ""),
                "ContainerStatus": container,
                **status,
            },
        }
    )


def ended(code: int) -> dict[str, Any]:
    return {"ContainerID": "c", "ExitCode": code}


@pytest.mark.parametrize(
    ("one", "alive", "exit_code", "message"),
    [
        (task("new", node=None), True, None, "new"),
        (
            task("pending", node=None, Err="no suitable node (insufficient resources on 1 node)"),
            True,
            None,
            "no suitable node (insufficient resources on 1 node)",
        ),
        (task("pending", "shutdown", node=None), False, None, "pending"),
        (task("preparing", message="preparing"), True, None, "preparing: preparing"),
        (task("preparing", "remove"), True, None, "preparing"),
        (task("running", container={"ContainerID": "c", "ExitCode": 0}), True, None, ""),
        (task("running", "remove", container=ended(-1)), True, None, ""),
        (task("running", "shutdown", container=ended(-1)), True, None, ""),
        (task("complete", "shutdown", container=ended(0)), False, 0, "complete"),
        (
            task("failed", "shutdown", container=ended(3), Err="task: non-zero exit (3)"),
            False,
            3,
            "task: non-zero exit (3)",
        ),
        (
            task("rejected", "shutdown", container={"ContainerID": ""}, Err="No such image: x"),
            False,
            None,
            "No such image: x",
        ),
        (task("shutdown", "shutdown", container=ended(143)), False, 143, "shutdown"),
        (task("orphaned", "shutdown", message="gone"), False, None, "orphaned: gone"),
    ],
)
def test_a_tasks_state_is_the_containers(
    one: TaskInfo, alive: bool, exit_code: int | None, message: str
) -> None:
    found = containers([service()], [one], {})["job_1", 1]
    assert (found.alive, found.exit_code, found.message) == (alive, exit_code, message)


def test_a_service_without_a_task_may_yet_start_unless_it_is_scaled_to_0() -> None:
    assert containers([service()], [], {})["job_1", 1].alive
    stopped = containers([service(replicas=0)], [], {})["job_1", 1]
    assert (stopped.alive, stopped.message) == (False, "stopped")


def test_on_a_node_that_is_down_it_is_lost_once_the_swarm_gave_it_up() -> None:
    lost = {"n1": "node worker1 is down"}
    assert containers([service()], [task("running")], lost)["job_1", 1].alive
    given_up = containers([service()], [task("running", "shutdown")], lost)["job_1", 1]
    assert (given_up.alive, given_up.message) == (False, "node worker1 is down")
    assert containers([service()], [task("running", "shutdown")], {"n2": "node other is down"})[
        "job_1", 1
    ].alive


def test_lost_are_nodes_that_are_down_or_were_removed() -> None:
    nodes = [node("n1", "one", "down"), node("n2", "two"), node("n3", "three", "down")]
    tasks = [task("running", node=each) for each in ("n1", "n2", "n9", None)]
    assert lost_nodes(tasks, nodes) == {
        "n1": f"node {nodes[0].hostname} is down",
        "n9": "node n9 was removed from the Swarm",
    }


def test_any_task_that_runs_keeps_it_alive_and_the_newest_speaks() -> None:
    tasks = [
        task("running", "shutdown", at="2026-01-01T00:00:00Z"),
        task("failed", "shutdown", at="2026-01-02T00:00:00Z", Err="newer"),
    ]
    for order in (tasks, tasks[::-1]):
        found = containers([service()], order, {})["job_1", 1]
        assert (found.alive, found.message) == (True, "newer")


def test_a_removed_services_task_is_seen_only_while_it_runs() -> None:
    assert containers([], [task("running", "remove")], {})["job_1", 1].alive
    assert containers([], [task("failed", "remove")], {}) == {}


def test_every_attempt_is_shown() -> None:
    services = [service(1, attempt="2"), service(2, replicas=0, attempt="10")]
    for order in (services, services[::-1]):
        found = containers(order, [task("running")], {})
        assert set(found) == {("job_1", 2), ("job_1", 10)}


def test_what_has_our_label_and_no_job_is_left_alone() -> None:
    assert containers([service(attempt="x"), service(job="")], [task("running")], {}) == {}
