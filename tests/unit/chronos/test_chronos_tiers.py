"""Each tier to its exact variables, mounts and files. The CUDA tiers run on no hardware here."""

import attrs
import pytest

from cumulus_wire.grant import OPENCL_LAYER, OPENCL_USAGE_BYTES, Tier
from cumulusd.chronos.grant import Grant, best_tier, make_grant
from cumulusd.chronos.ledger import Device, Ledger, Partition, dump, load
from cumulusd.chronos.tiers import PROMISES, Offers

UUID = "8932f937d72c4106c12f20bd9faed9f6"
GPU = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
SLICE = "MIG-4f2a2b0c-aaaa-5555-bbbb-cccccccccccc"
CARD = Device(
    device_id=f"uuid-{UUID}",
    index=1,
    name="Card",
    kind="gpu",
    memory_bytes=16 << 30,
    uuid=UUID,
    pci="0000:01:00.0",
    platform="NVIDIA CUDA",
    ordinal=0,
    cuda_uuid=GPU,
)
POCL = Device(
    device_id="name-x",
    index=0,
    name="pthread-Some CPU",
    kind="cpu",
    memory_bytes=4 << 30,
    platform="Portable Computing Language",
    ordinal=1,
)
PARTITION = Partition(
    partition_id="p-1",
    job_id="j",
    attempt=1,
    device_id="d",
    units=2599,
    gpu_memory_bytes=(4 << 30) + 5,
    boot_id="b",
    expires_s=1.0,
)
PLACE = "/var/lib/cumulus/grants/j"
ROOT = "/var/lib/cumulus"
ALL = frozenset(Tier)
EVERYTHING = Offers(
    tiers=ALL,
    mps_pipes=f"{ROOT}/mps/pipe",
    mps_shared_memory=f"{ROOT}/mps/shm",
    hami_library=f"{ROOT}/hami/libvgpu.so",
)
ADVICE = {
    "CUMULUS_PARTITION_ID",
    "CUMULUS_DEVICE_INDEX",
    "CUMULUS_GPU_MEMORY_FRACTION",
    "CUMULUS_GPU_MEMORY_BYTES",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "CUPY_GPU_MEMORY_LIMIT",
}
VISIBLE = {
    "NVIDIA_VISIBLE_DEVICES": GPU,
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_VISIBLE_DEVICES": GPU,
}
OPENCL_MOUNTS = (
    (f"{PLACE}/grant", "/run/cumulus/grant", True),
    (f"{PLACE}/usage", "/run/cumulus/usage", False),
)


def grant(
    *tiers: Tier,
    device: Device = CARD,
    partition: Partition = PARTITION,
    offers: Offers = EVERYTHING,
) -> Grant:
    chosen = attrs.evolve(offers, tiers=frozenset(tiers))
    return make_grant(partition, device, chosen, PLACE, 1234.5)


def beside_advice(made: Grant) -> dict[str, str]:
    assert set(made.environment) >= ADVICE, "frameworks are always told"
    return {name: text for name, text in made.environment.items() if name not in ADVICE}


def test_mig_names_the_slice_and_needs_nothing_else() -> None:
    sliced = attrs.evolve(CARD, cuda_uuid=SLICE)
    made = grant(*Tier, device=sliced, partition=attrs.evolve(PARTITION, units=10_000))
    assert made.tier is Tier.MIG and not made.opencl
    assert beside_advice(made) == {
        **VISIBLE,
        "NVIDIA_VISIBLE_DEVICES": SLICE,
        "CUDA_VISIBLE_DEVICES": SLICE,
    }
    assert (made.mounts, made.files, made.usage) == ((), {}, {})
    assert made.tier_note.startswith("enforced by the GPU (a MIG slice): ")


def test_a_part_of_a_slice_is_held_by_the_next_tier() -> None:
    made = grant(Tier.MIG, Tier.MPS, device=attrs.evolve(CARD, cuda_uuid=SLICE))
    assert made.tier is Tier.MPS
    assert made.environment["NVIDIA_VISIBLE_DEVICES"] == SLICE
    assert grant(Tier.MIG).tier is Tier.ADVISORY, "a whole GPU is no slice"


def test_mps_has_its_pipes_and_limits() -> None:
    made = grant(Tier.MPS)
    assert made.tier is Tier.MPS
    assert beside_advice(made) == {
        **VISIBLE,
        "CUDA_MPS_PIPE_DIRECTORY": "/run/cumulus/mps",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=4096M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
    }
    assert made.mounts == (
        (f"{ROOT}/mps/pipe", "/run/cumulus/mps", False),
        (f"{ROOT}/mps/shm", "/dev/shm", False),
    )
    assert "4096 MiB" in made.tier_note and "25%" in made.tier_note


def test_the_smallest_share_has_a_thread_percentage() -> None:
    made = grant(Tier.MPS, partition=attrs.evolve(PARTITION, units=1))
    assert made.environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "1"


def test_hami_is_preloaded_with_limits_that_the_job_cant_change() -> None:
    made = grant(Tier.HAMI)
    assert made.tier is Tier.HAMI
    limits = {
        "CUDA_DEVICE_MEMORY_LIMIT": "4096m",
        "CUDA_DEVICE_MEMORY_SHARED_CACHE": "/tmp/cudevshr.cache",
    }
    assert beside_advice(made) == {**VISIBLE, **limits}
    assert made.mounts == (
        (f"{ROOT}/hami/libvgpu.so", "/run/cumulus/hami/libvgpu.so", True),
        (f"{PLACE}/grant/ld.so.preload", "/etc/ld.so.preload", True),
        (f"{PLACE}/grant/hami.env", "/overrideEnv", True),
        (f"{PLACE}/usage/vgpulock", "/tmp/vgpulock", False),
    )
    assert made.files == {
        "ld.so.preload": "/run/cumulus/hami/libvgpu.so\n",
        "hami.env": "".join(f"{name}={text}\n" for name, text in limits.items()),
    }
    assert made.usage_folders == ("vgpulock",)


@pytest.mark.parametrize("tier", [Tier.MPS, Tier.HAMI])
def test_a_limit_that_would_read_as_none_is_never_given(tier: Tier) -> None:
    tiny = attrs.evolve(PARTITION, gpu_memory_bytes=(1 << 20) - 1)
    assert grant(tier, partition=tiny).tier is Tier.ADVISORY
    assert grant(tier, partition=attrs.evolve(tiny, gpu_memory_bytes=1 << 20)).tier is tier


def test_opencl_is_told_by_a_file_that_isnt_in_the_jobs_hands() -> None:
    made = grant(Tier.OPENCL, device=POCL)
    assert made.tier is Tier.OPENCL and made.opencl
    assert made.files == {
        "opencl": "version=1\n"
        f"quota_bytes={(4 << 30) + 5}\n"
        "expires_boottime_s=1235\n"
        "device_platform=Portable Computing Language\n"
        "device_name=pthread-Some CPU\n"
        "device_ordinal=1\n"
        "usage_file=/run/cumulus/usage/opencl\n"
    }
    assert made.usage == {"opencl": OPENCL_USAGE_BYTES}
    assert made.mounts == OPENCL_MOUNTS
    assert beside_advice(made) == {"NVIDIA_VISIBLE_DEVICES": "void"}
    assert made.tier_note.startswith("enforced in OpenCL: ")
    assert f"({(4 << 30) + 5} bytes)" in made.tier_note and "accidents" in made.tier_note


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, f"device_uuid={UUID}\n"),
        ({"uuid": None}, "device_pci=0000:01:00.0\n"),
        (
            {"uuid": None, "pci": None},
            "device_platform=NVIDIA CUDA\ndevice_name=Card\ndevice_ordinal=0\n",
        ),
    ],
)
def test_opencl_names_the_device_by_the_best_it_has(changes: dict[str, None], named: str) -> None:
    text = grant(Tier.OPENCL, device=attrs.evolve(CARD, **changes)).files["opencl"]
    assert named in text
    assert text.count("device_") == named.count("device_")


@pytest.mark.parametrize(
    "changes", [{"platform": None}, {"ordinal": None}, {"name": "a\nquota_bytes=1"}]
)
def test_a_device_that_cant_be_named_has_no_opencl_tier(changes: dict[str, str | None]) -> None:
    assert grant(Tier.OPENCL, device=attrs.evolve(POCL, **changes)).tier is Tier.ADVISORY


@pytest.mark.parametrize("tier", [Tier.MPS, Tier.HAMI])
def test_a_tier_of_cudas_has_the_opencl_layer_beside_it(tier: Tier) -> None:
    made = grant(tier, Tier.OPENCL)
    assert made.tier is tier and made.opencl
    assert made.tier_note.startswith(PROMISES[tier])
    assert f". {PROMISES[Tier.OPENCL]}: " in made.tier_note
    assert set(OPENCL_MOUNTS) <= set(made.mounts)
    if tier is Tier.HAMI:
        assert made.files["ld.so.preload"] == f"{OPENCL_LAYER}\n/run/cumulus/hami/libvgpu.so\n"
    assert len({target for _, target, _ in made.mounts}) == len(made.mounts)


def test_jax_has_a_fraction_of_all_that_the_device_has() -> None:
    reserved = attrs.evolve(CARD, total_bytes=20 << 30)  # of which 16 GiB are for shares
    quarter = attrs.evolve(PARTITION, units=2500, gpu_memory_bytes=4 << 30)
    assert (
        grant(device=reserved, partition=quarter).environment.items()
        >= {
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2",
            "CUMULUS_GPU_MEMORY_FRACTION": "0.25",
        }.items()
    )
    tiny = attrs.evolve(PARTITION, units=1, gpu_memory_bytes=1)
    assert (
        grant(device=reserved, partition=tiny).environment["XLA_PYTHON_CLIENT_MEM_FRACTION"]
        == "0.0001"
    )


def test_the_strongest_comes_first_and_only_what_is_allowed() -> None:
    assert grant(*Tier).tier is Tier.MPS
    nothing = Offers()
    assert grant(*Tier, offers=nothing).tier is Tier.OPENCL
    assert grant(Tier.MIG, Tier.MPS, Tier.HAMI, offers=nothing).tier is Tier.ADVISORY
    assert grant().tier is Tier.ADVISORY
    assert grant(*Tier, device=POCL).tier is Tier.OPENCL


def test_a_tier_of_cudas_is_for_gpus_that_cuda_knows() -> None:
    other = attrs.evolve(CARD, cuda_uuid=None, platform="rusticl")
    assert grant(Tier.MPS, Tier.HAMI, device=other).tier is Tier.ADVISORY


def test_the_opencl_layer_alone_on_a_card_of_cudas_says_what_it_leaves_open() -> None:
    made = grant(Tier.OPENCL)
    assert made.tier is Tier.OPENCL
    assert made.tier_note.startswith("enforced in OpenCL, not in CUDA: ")
    assert best_tier(CARD, Offers(tiers=ALL)) == (Tier.OPENCL, "enforced in OpenCL, not in CUDA")


def test_a_device_tells_its_best_tier_in_a_few_words() -> None:
    assert best_tier(POCL, EVERYTHING) == (Tier.OPENCL, "enforced in OpenCL")
    assert best_tier(POCL, Offers()) == (Tier.ADVISORY, "booked, not enforced")
    sliced = attrs.evolve(CARD, cuda_uuid=SLICE)
    assert best_tier(sliced, EVERYTHING)[0] is Tier.MIG


def test_what_the_drivers_call_a_device_survives_the_ledgers_file() -> None:
    ledger = Ledger(devices={one.device_id: one for one in (CARD, POCL)})
    assert load(dump(ledger)) == ledger
