"""What a job is told of its share."""

import attrs
import pytest

from cumulusd.chronos.grant import make_grant
from cumulusd.chronos.ledger import Device, Partition

DEVICE = Device(device_id="d", index=2, name="Card", kind="gpu", memory_bytes=1 << 34)
PARTITION = Partition(
    partition_id="p-1",
    job_id="j",
    attempt=1,
    device_id="d",
    units=2500,
    gpu_memory_bytes=1 << 32,
    boot_id="b",
    expires_s=1.0,
)


def test_a_gpu_grant_names_the_card_and_the_limits() -> None:
    assert dict(make_grant(PARTITION, DEVICE).environment) == {
        "CUMULUS_PARTITION_ID": "p-1",
        "CUMULUS_DEVICE_INDEX": "2",
        "CUMULUS_GPU_MEMORY_FRACTION": "0.25",
        "CUMULUS_GPU_MEMORY_BYTES": "4294967296",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "2",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.25",
        "CUPY_GPU_MEMORY_LIMIT": "4294967296",
    }


def test_a_cpu_device_is_no_cuda_device() -> None:
    grant = make_grant(PARTITION, attrs.evolve(DEVICE, kind="cpu"))
    assert not [name for name in grant.environment if name.startswith("CUDA")]


def test_the_tier_says_that_nothing_is_enforced() -> None:
    grant = make_grant(PARTITION, DEVICE)
    assert grant.tier == "advisory"
    assert grant.tier_note.startswith("booked, not enforced: ")


@pytest.mark.parametrize(("units", "text"), [(10_000, "1"), (1, "0.0001"), (3333, "0.3333")])
def test_the_fraction_is_exact(units: int, text: str) -> None:
    grant = make_grant(attrs.evolve(PARTITION, units=units), DEVICE)
    assert grant.environment["CUMULUS_GPU_MEMORY_FRACTION"] == text
