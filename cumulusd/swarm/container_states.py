"""Containers, from the Swarm's services and tasks. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from cumulusd.jobs.ports import Container
from cumulusd.swarm import labels
from cumulusd.swarm.answers import NodeInfo, ServiceInfo, TaskInfo

#: A task in one of these has no container that runs, and never will.
_ENDED = frozenset({"complete", "shutdown", "failed", "rejected", "remove", "orphaned"})
#: Not given to a node yet.
_UNASSIGNED = frozenset({"new", "allocated", "pending"})
_UNWANTED = frozenset({"shutdown", "remove"})


def has_ended(task: TaskInfo) -> bool:
    """Nothing of it runs or will start."""
    if task.state in _ENDED:
        return True
    return task.state in _UNASSIGNED and task.desired_state in _UNWANTED


def is_condemned(task: TaskInfo) -> bool:
    """The Swarm has given it up, and its node doesn't say that it ended."""
    return not has_ended(task) and task.desired_state in _UNWANTED


def lost_nodes(tasks: Iterable[TaskInfo], nodes: Iterable[NodeInfo]) -> dict[str, str]:
    """Of these tasks' nodes those that are down, or were removed: id -> that in words."""
    there = {node.node_id: node for node in nodes}
    lost = {}
    for node_id in {task.node_id for task in tasks if task.node_id}:
        node = there.get(node_id)
        if node is None:
            lost[node_id] = f"node {node_id} was removed from the Swarm"
        elif node.state == "down":
            lost[node_id] = f"node {node.hostname} is down"
    return lost


def may_run(service: ServiceInfo, tasks: Iterable[TaskInfo]) -> bool:
    """A task of it runs, may run, or may yet be made."""
    tasks = list(tasks)
    if not tasks:
        return service.replicas != 0
    return not all(has_ended(task) for task in tasks)


def removable(
    services: Sequence[ServiceInfo], tasks: Sequence[TaskInfo]
) -> dict[tuple[str, int], str]:
    """By job id and attempt, the services of which, by one look, nothing runs or will start."""
    of_service = _by_service(tasks)
    return {
        key: service.service_id
        for service in services
        if (key := _key(service.labels)) is not None
        and not may_run(service, of_service.get(service.service_id, ()))
    }


def containers(
    services: Sequence[ServiceInfo], tasks: Sequence[TaskInfo], lost_nodes: Mapping[str, str]
) -> dict[tuple[str, int], Container]:
    """By job id and attempt, from one look. `lost_nodes`: as of the function of that name.

    A task that the Swarm gave up because its node is down counts
    as ended: the Swarm kills it when the node is back. Whether it runs still, the lock on the job's
    folder tells.
    """
    of_service = _by_service(tasks)
    found: dict[tuple[str, int], Container] = {}
    for service in services:
        own = of_service.pop(service.service_id, [])
        if own:
            alive = any(_alive(task, lost_nodes) for task in own)
        else:
            alive = service.replicas != 0
        _add(found, service.labels, own, alive, lost_nodes)
    # What runs on though its service is removed already.
    for own in of_service.values():
        if any(_alive(task, lost_nodes) for task in own):
            _add(found, own[0].labels, own, True, lost_nodes)
    return found


def _by_service(tasks: Iterable[TaskInfo]) -> dict[str, list[TaskInfo]]:
    found: dict[str, list[TaskInfo]] = {}
    for task in tasks:
        found.setdefault(task.service_id, []).append(task)
    return found


def _key(of: Mapping[str, str]) -> tuple[str, int] | None:
    """Job id and attempt; None: somebody else's, under our label."""
    job_id, attempt = of.get(labels.JOB), of.get(labels.ATTEMPT, "")
    return (job_id, int(attempt)) if job_id and attempt.isdecimal() else None


def _alive(task: TaskInfo, lost_nodes: Mapping[str, str]) -> bool:
    return not has_ended(task) and not _is_lost(task, lost_nodes)


def _is_lost(task: TaskInfo, lost_nodes: Mapping[str, str]) -> bool:
    return is_condemned(task) and task.node_id in lost_nodes


def _add(
    found: dict[tuple[str, int], Container],
    of: Mapping[str, str],
    tasks: Sequence[TaskInfo],
    alive: bool,
    lost_nodes: Mapping[str, str],
) -> None:
    key = _key(of)
    if key is None:
        return
    newest = max(tasks, key=lambda task: task.created_at, default=None)
    found[key] = Container(
        job_id=key[0],
        attempt=key[1],
        node_id=None if newest is None else newest.node_id,
        alive=alive,
        exit_code=None if newest is None else newest.exit_code,
        message=_words(newest, alive, lost_nodes),
    )


def _words(task: TaskInfo | None, alive: bool, lost_nodes: Mapping[str, str]) -> str:
    """Swarm's own words where it has any."""
    if task is None:
        return "no task yet" if alive else "stopped"
    if _is_lost(task, lost_nodes):
        said = f" ({task.error})" if task.error else ""
        return f"{lost_nodes[task.node_id or '']}{said}"
    if task.error:
        return task.error
    if task.state in ("running", "complete"):
        return "" if task.state == "running" else "complete"
    return f"{task.state}: {task.message}" if task.message else task.state
