"""What a job gets of its partition: environment variables, and an honest word on enforcement."""

from collections.abc import Mapping

import attrs

from cumulusd.chronos.ledger import UNITS_PER_DEVICE, Device, Partition

TIER_ADVISORY = "advisory"
_NOTE = (
    "booked, not enforced: the share is reserved for this job and its frameworks are told their "
    "limit; code that ignores it can take more {what} memory than its share"
)


@attrs.frozen(kw_only=True)
class Grant:
    """A partition as the job sees it."""

    partition: Partition
    device: Device
    tier: str
    tier_note: str
    environment: Mapping[str, str]


def make_grant(partition: Partition, device: Device) -> Grant:
    """The grant of a partition of that device."""
    fraction = _decimal(partition.units)
    environment = {
        "CUMULUS_PARTITION_ID": partition.partition_id,
        "CUMULUS_DEVICE_INDEX": str(device.index),
        "CUMULUS_GPU_MEMORY_FRACTION": fraction,
        "CUMULUS_GPU_MEMORY_BYTES": str(partition.gpu_memory_bytes),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": fraction,
        "CUPY_GPU_MEMORY_LIMIT": str(partition.gpu_memory_bytes),
    }
    if device.kind == "gpu":
        # Devices are counted in PCI order; CUDA's own default order is by speed.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment["CUDA_VISIBLE_DEVICES"] = str(device.index)
    return Grant(
        partition=partition,
        device=device,
        tier=TIER_ADVISORY,
        tier_note=_NOTE.format(what="GPU" if device.kind == "gpu" else "device"),
        environment=environment,
    )


def _decimal(units: int) -> str:
    """The share as a decimal, exact: 2500 -> "0.25", 10000 -> "1"."""
    whole, rest = divmod(units, UNITS_PER_DEVICE)
    return f"{whole}.{rest:04d}".rstrip("0").rstrip(".")
