"""What the Swarm's services reserve of devices, against what the agents' ledgers hold. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from cumulusd.jobs.ports import Disagreement, Holding
from cumulusd.swarm import labels
from cumulusd.swarm.answers import ServiceInfo, TaskInfo
from cumulusd.swarm.container_states import has_ended
from cumulusd.swarm.service_spec import reserved_units


def device_units(service: ServiceInfo, prefix: str) -> dict[int, int]:
    """Device index -> units that each task of the service reserves. `prefix`: of the resource."""
    resources = (service.spec.get("TaskTemplate") or {}).get("Resources") or {}
    entries = (resources.get("Reservations") or {}).get("GenericResources") or ()
    found: dict[int, int] = {}
    for entry in entries:
        discrete = entry.get("DiscreteResourceSpec") or {}
        kind = str(discrete.get("Kind") or "")
        index = kind.removeprefix(prefix)
        if kind.startswith(prefix) and index.isdecimal():
            found[int(index)] = found.get(int(index), 0) + int(discrete.get("Value") or 0)
    return found


def disagreements(
    services: Iterable[ServiceInfo],
    tasks: Iterable[TaskInfo],
    held: Mapping[str, Sequence[Holding]],
    *,
    instance_id: str,
    prefix: str,
) -> list[Disagreement]:
    """Of those nodes that are in `held`. `services`, `tasks`: all of the Swarm's."""
    holdings = {
        (node_id, one.job_id, one.attempt): one for node_id, all_ in held.items() for one in all_
    }
    places: dict[str, list[str]] = {}
    for task in tasks:
        if task.node_id is not None and task.node_id in held and not has_ended(task):
            places.setdefault(task.service_id, []).append(task.node_id)
    found: list[Disagreement] = []
    foreign: dict[tuple[str, int], int] = {}
    reserved: set[tuple[str, str, int]] = set()
    for service in services:
        units = device_units(service, prefix)
        whose = _attempt_of(service, instance_id)
        for node_id in places.get(service.service_id, ()) if units else ():
            if whose is None:
                for index, count in units.items():
                    foreign[node_id, index] = foreign.get((node_id, index), 0) + count
                continue
            key = (node_id, *whose)
            reserved.add(key)
            why = _difference(units, holdings.get(key))
            if why is not None:
                found.append(_told(node_id, *whose, why))
    for (node_id, index), count in sorted(foreign.items()):
        found.append(
            Disagreement(
                node_id=node_id,
                message=f"services that aren't this daemon's reserve {count} units of device "
                f"{index}, of which the ledger knows nothing",
            )
        )
    for key, one in holdings.items():
        if one.runs and key not in reserved:
            found.append(
                _told(*key, f"the ledger holds {one.units} units, the Swarm reserves none")
            )
    return found


def _attempt_of(service: ServiceInfo, instance_id: str) -> tuple[str, int] | None:
    """Of which job's attempt it is; None: of none of ours."""
    job_id, attempt = service.labels.get(labels.JOB), service.labels.get(labels.ATTEMPT, "")
    if service.labels.get(labels.INSTANCE) != instance_id or not job_id or not attempt.isdecimal():
        return None
    return job_id, int(attempt)


def _difference(units: Mapping[int, int], holding: Holding | None) -> str | None:
    there = ", ".join(f"{count} of device {index}" for index, count in sorted(units.items()))
    if holding is None:
        return f"the Swarm reserves units ({there}), the ledger holds no partition for it"
    index = next(iter(units)) if holding.device_index is None else holding.device_index
    if dict(units) == {index: reserved_units(holding.units)}:
        return None
    return (
        f"the Swarm reserves units ({there}), the ledger holds {holding.units} of device {index}, "
        f"for which {reserved_units(holding.units)} are to be reserved"
    )


def _told(node_id: str, job_id: str, attempt: int, why: str) -> Disagreement:
    return Disagreement(node_id=node_id, message=f"attempt {attempt} of job {job_id}: {why}")
