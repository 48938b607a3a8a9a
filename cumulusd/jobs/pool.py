"""What the pool could ever take, and which of its workers can take no job now. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cumulusd.errors import CumulusError, InsufficientResources, NoWorkers
from cumulusd.jobs import waits
from cumulusd.jobs.model import JobSpec
from cumulusd.jobs.ports import AgentView, Node

NO_WORKERS = "No GPU workers available"


def fits_somewhere(spec: JobSpec, nodes: Iterable[Node], agents: Mapping[str, AgentView]) -> bool:
    """Whether a device that is there is large enough, busy or not: usually the first is."""
    return any(
        device.units_total >= spec.units
        for node in nodes
        if node.usable and (agent := agents.get(node.node_id)) is not None
        for device in agent.devices
    )


def could_ever_fit(
    spec: JobSpec,
    nodes: Sequence[Node],
    agents: Mapping[str, AgentView],
    *,
    overdue: Collection[str] = (),
) -> CumulusError | None:
    """None when the job may wait for a place, else why there is none for it however long it waits.

    A usable worker whose agent is away may have what it needs, except those in `overdue` (node ids
    whose agent has been away too long). The errors are NoWorkers and InsufficientResources.
    """
    usable = in_order(node for node in nodes if node.usable)
    if not usable:
        return NoWorkers(
            NO_WORKERS,
            details={
                "workers": [node_dict(node, "its platform state") for node in in_order(nodes)]
            },
            hint="Enrol a GPU worker, or activate one that is drained or down.",
        )
    present = [node for node in usable if node.node_id in agents]
    devices = [(node, device) for node in present for device in agents[node.node_id].devices]
    if any(device.units_total >= spec.units for _, device in devices):
        return None
    away = [node for node in usable if node.node_id not in agents]
    if any(node.node_id not in overdue for node in away):
        return None
    if not devices:
        workers = [node_dict(node, no_device(agents[node.node_id])) for node in present]
        workers += [node_dict(node, "its agent is away") for node in away]
        why = "; ".join(f"{each['hostname']}: {each['why']}" for each in workers)
        return NoWorkers(
            NO_WORKERS,
            details={"workers": workers, "why": why},
            hint=f"Look at the agents of these workers ({why}).",
        )
    node, largest = max(devices, key=lambda each: each[1].units_total)
    return InsufficientResources(
        f"The job asks for {waits.share(spec.units)}, but the largest device of the pool, "
        f"{largest.name} on {node.hostname}, has {waits.share(largest.units_total)}",
        details={
            "units": spec.units,
            "gpu_memory": spec.gpu_memory,
            "largest": {
                "node_id": node.node_id,
                "hostname": node.hostname,
                "device_id": largest.device_id,
                "device_name": largest.name,
                "units_total": largest.units_total,
            },
            "devices": len(devices),
        },
        hint="Ask for a smaller gpu_memory.",
    )


def in_order(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: (node.hostname, node.node_id))


def no_device(agent: AgentView) -> str:
    said = f" ({agent.discovery_error})" if agent.discovery_error else ""
    return f"no device was found on it{said}"


def unfit_workers(nodes: Sequence[Node], agents: Mapping[str, AgentView]) -> list[tuple[Node, str]]:
    """The workers of the pool that can take no job now, and why, in a few words."""
    found = []
    for node in in_order(node for node in nodes if node.is_worker):
        agent = agents.get(node.node_id)
        if node.state != "ready":
            found.append((node, f"its node is {node.state}"))
        elif node.availability != "active":
            words = {"drain": "drained", "pause": "paused"}
            found.append((node, words.get(node.availability, node.availability)))
        elif agent is None:
            found.append((node, "its agent is away"))
        elif not agent.devices:
            found.append((node, no_device(agent)))
    return found


def node_dict(node: Node, why: str) -> dict[str, Any]:
    return {
        "node_id": node.node_id,
        "hostname": node.hostname,
        "state": node.state,
        "availability": node.availability,
        "enrolled": node.is_worker,
        "why": why,
    }
