"""Who has which share of a worker's devices, as its agent last said."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Share:
    """One partition, when it was heard of."""

    partition_id: str
    job_id: str
    device_id: str
    units: int
    gpu_memory_bytes: int
    state: str  #: "active" or "draining"
    ends_s: float | None  #: on the daemon's clock

    def told(self, now_s: float) -> dict[str, Any]:
        """The same, with what is left of its time."""
        left = None if self.ends_s is None else max(0.0, self.ends_s - now_s)
        return {
            "partition_id": self.partition_id,
            "job_id": self.job_id,
            "device_id": self.device_id,
            "units": self.units,
            "gpu_memory_bytes": self.gpu_memory_bytes,
            "state": self.state,
            "remaining_s": left,
        }


def shares(devices: Iterable[Mapping[str, Any]], now_s: float) -> tuple[Share, ...]:
    """Of the devices in an agent's answer. An agent of an earlier version tells none.

    Raises KeyError, TypeError, ValueError for what is malformed."""
    return tuple(
        Share(
            partition_id=str(one["partition_id"]),
            job_id=str(one["job_id"]),
            device_id=str(device["device_id"]),
            units=int(one["units"]),
            gpu_memory_bytes=int(one["gpu_memory_bytes"]),
            state=str(one["state"]),
            ends_s=_moment(one.get("remaining_s"), now_s),
        )
        for device in devices
        for one in device.get("partitions", ())
    )


def _moment(remaining_s: Any, now_s: float) -> float | None:
    if remaining_s is None or not math.isfinite(remaining_s):
        return None
    return now_s + float(remaining_s)
