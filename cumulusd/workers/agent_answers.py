"""What agents answer, as the daemon's values. Pure."""

from collections.abc import Mapping
from typing import Any

from cumulusd.jobs.model import Grant
from cumulusd.jobs.ports import Backend, Device, Holding


def optional_text(value: Any) -> str | None:
    """None stays None."""
    return None if value is None else str(value)


def holding_of(node_id: str, entry: Mapping[str, Any]) -> Holding:
    """Of what an agent says that it holds."""
    index = entry.get("device_index")
    return Holding(
        node_id=node_id,
        job_id=str(entry["job_id"]),
        attempt=int(entry["attempt"]),
        device_index=None if index is None else int(index),
        units=int(entry["units"]),
    )


def backend_of(value: Mapping[str, Any]) -> Backend:
    """Of `chronos` in an answer."""
    return Backend(
        name=str(value.get("backend", "builtin")), fault=optional_text(value.get("fault"))
    )


def devices_of(entries: Any) -> tuple[Device, ...]:
    """Of an agent's list."""
    return tuple(
        Device(
            device_id=str(entry["device_id"]),
            index=int(entry["index"]),
            name=str(entry["name"]),
            kind=str(entry["kind"]),
            memory_bytes=int(entry["memory_bytes"]),
            units_total=int(entry["units_total"]),
            units_free=int(entry["units_free"]),
            tier=str(entry["tier"]),
            tier_note=str(entry.get("tier_note", "")),
        )
        for entry in entries
    )


def grant_of(value: Mapping[str, Any]) -> Grant:
    """Of an answer to `prepare`. Raises KeyError, TypeError, ValueError."""
    return Grant(
        partition_id=str(value["partition_id"]),
        device_id=str(value["device_id"]),
        device_name=str(value["device_name"]),
        device_index=int(value["device_index"]),
        units=int(value["units"]),
        gpu_memory_bytes=int(value["gpu_memory_bytes"]),
        tier=str(value["tier"]),
        tier_note=str(value["tier_note"]),
        folder=str(value["folder"]),
        environment={str(key): str(text) for key, text in value["environment"].items()},
        mounts=tuple((str(a), str(b), bool(read_only)) for a, b, read_only in value["mounts"]),
        lifetime_s=None if value.get("lifetime_s") is None else float(value["lifetime_s"]),
    )
