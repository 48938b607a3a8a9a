"""What must hold of the world after every step, and when all is over."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.sim_world import World

#: Of each device.
UNITS = 10_000


def check(world: "World") -> None:
    """What must hold after every step."""
    seen: dict[str, int] = {}
    for node in world.swarm.nodes.values():
        if not node.containers:
            continue
        ledger = world.by_node[node.node_id].ledger
        used: dict[str, int] = {}
        for container in node.containers:
            if (container.job_id, container.attempt) not in ledger.partitions:
                world.violation(f"a share is free while a container of {container.job_id} runs")
            seen[container.job_id] = seen.get(container.job_id, 0) + 1
            service = container.task.service
            used[service.resource] = used.get(service.resource, 0) + service.units
        for resource, units in used.items():
            if units > UNITS:
                world.violation(f"{units} units of {resource} of {node.node_id} are in use")
    for job_id, count in seen.items():
        if count > 1:
            world.violation(f"{count} containers of {job_id} are alive at once")


def check_could_run(world: "World") -> None:
    """A share is held for every service whose container could still start."""
    for service in world.swarm.services.values():
        could = service.replicas > 0 and not service.tasks
        could = could or any(
            task.wanted == "running" if task.container is None else task.container.alive
            for task in service.tasks
            if not task.ended
        )
        ledger = world.by_node[service.node_id].ledger
        key = service.labels["cumulus.job"], int(service.labels["cumulus.attempt"])
        if could and key not in ledger.partitions:
            world.violation(f"a share is free while a container of {key[0]} could start")


def leaks(world: "World") -> list[str]:
    """What is left of jobs, wherever it is."""
    found = [f"service {service.name}" for service in world.swarm.services.values()]
    found += [f"container of {one.job_id}" for one in world.swarm.live_containers()]
    for worker in world.workers:
        found += [f"{worker.node_id}: {what}" for what in worker.leftovers()]
    return found
