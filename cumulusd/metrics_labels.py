"""Names of workers and devices as label values: clean, unique, and bounded in number. Pure."""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from cumulusd.jobs.ports import AgentView, Node

#: So many workers have series of their own; the rest are summed up in one.
MAX_WORKERS = 200
#: The same of the devices of one worker.
MAX_DEVICES = 16
MAX_LABEL_CHARS = 64
#: The label of those that have none of their own.
OTHERS = "(others)"


@attrs.frozen(kw_only=True)
class DeviceShare:
    """One device's booking, or the sum of several."""

    worker: str  #: its label
    device: str  #: its index, or `OTHERS`
    units_total: int
    units_free: int
    memory_bytes: int  #: what the shares divide
    memory_bytes_in_use: int  #: of them, booked


def clean(text: str) -> str:
    """`text` without what breaks lines or screens, and not too long."""
    shown = "".join(each if each.isprintable() else "?" for each in text[:MAX_LABEL_CHARS])
    return shown.encode(errors="replace").decode()


def worker_names(nodes: Iterable[Node], agents: Mapping[str, AgentView]) -> dict[str, str]:
    """Node id -> host name of all workers; the platform's word counts more than the agent's."""
    names = {node_id: agent.hostname for node_id, agent in agents.items()}
    return {**names, **{node.node_id: node.hostname for node in nodes if node.is_worker}}


def worker_labels(names: Mapping[str, str], limit: int = MAX_WORKERS) -> dict[str, str]:
    """Node id -> label. No two workers share one, except `OTHERS`: those over `limit`, the same
    ones each time. `names`: as `worker_names` gives them."""
    labels: dict[str, str] = {}
    taken = {OTHERS, ""}
    for node_id, name in sorted(names.items(), key=lambda item: (item[1], item[0])):
        if len(labels) >= limit:
            labels[node_id] = OTHERS
            continue
        label = clean(name)
        if label in taken:
            label = f"{label[:40]} {clean(node_id)[:20]}"
        while label in taken:
            label = f"{label[:50]} {len(labels)}"
        taken.add(label)
        labels[node_id] = label
    return labels


def device_shares(
    agents: Mapping[str, AgentView], labels: Mapping[str, str]
) -> Sequence[DeviceShare]:
    """The bookings of all devices: a worker's own by device, those of `OTHERS` as one sum."""
    sums: dict[tuple[str, str], DeviceShare] = {}
    for node_id, agent in agents.items():
        label = labels[node_id]
        for place, device in enumerate(sorted(agent.devices, key=lambda one: one.index)):
            # An index is the agent's word: two of the same are one series.
            own = label != OTHERS and place < MAX_DEVICES and 0 <= device.index < 1_000_000
            key = (label, str(device.index) if own else OTHERS)
            booked = max(0, device.units_total - device.units_free)
            in_use_bytes = device.memory_bytes * booked // max(1, device.units_total)
            before = sums.get(key) or DeviceShare(
                worker=key[0],
                device=key[1],
                units_total=0,
                units_free=0,
                memory_bytes=0,
                memory_bytes_in_use=0,
            )
            sums[key] = DeviceShare(
                worker=key[0],
                device=key[1],
                units_total=before.units_total + device.units_total,
                units_free=before.units_free + device.units_free,
                memory_bytes=before.memory_bytes + device.memory_bytes,
                memory_bytes_in_use=before.memory_bytes_in_use + in_use_bytes,
            )
    return list(sums.values())
