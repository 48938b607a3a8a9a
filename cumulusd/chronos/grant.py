"""What a job gets of its partition: environment, mounts, files; and what enforces it, in words."""

from collections.abc import Callable, Mapping

import attrs

from cumulus_wire.grant import Tier
from cumulusd.chronos import tiers
from cumulusd.chronos.ledger import UNITS_PER_DEVICE, Device, Partition
from cumulusd.chronos.tiers import PROMISES, Measures, Mount, Offers, Share

#: Those that enforce, the strongest first.
_ENFORCING: tuple[tuple[Tier, Callable[[Share, Offers], Measures | None]], ...] = (
    (Tier.MIG, tiers.mig),
    (Tier.MPS, tiers.mps),
    (Tier.HAMI, tiers.hami),
    (Tier.OPENCL, tiers.opencl),
)
#: These hold CUDA only: the OpenCL layer is put in force beside them.
_CUDA_ONLY = frozenset({Tier.MPS, Tier.HAMI})


@attrs.frozen(kw_only=True)
class Grant:
    """A partition as the job sees it."""

    partition: Partition
    device: Device
    tier: Tier  #: the strongest that is in force
    tier_note: str  #: the same in plain words, with its limits
    opencl: bool = False  #: the OpenCL layer is in force, alone or beside a CUDA tier
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()
    files: Mapping[str, str] = attrs.field(factory=dict)  #: name -> content, in `grant/`
    usage: Mapping[str, int] = attrs.field(factory=dict)  #: name -> size in bytes, in `usage/`
    usage_folders: tuple[str, ...] = ()


def make_grant(
    partition: Partition,
    device: Device,
    offers: Offers | None = None,
    place: str = "",
    last_moment_s: float = 0.0,
) -> Grant:
    """The grant of a partition of that device, by the strongest tier that the worker offers.

    `place`: the attempt's grant folder on the worker. `last_moment_s`: since boot, after which
    nothing of the job may run.
    """
    offers = offers or Offers()
    share = Share(partition=partition, device=device, place=place, last_moment_s=last_moment_s)
    held = _held(share, offers)
    advice = tiers.advisory(share)
    if not held:
        held = {Tier.ADVISORY: Measures(note=advice.note)}
    first = next(iter(held))
    notes = [
        f"{_promise(tier, device) if tier is first else PROMISES[tier]}: {measures.note}"
        for tier, measures in held.items()
    ]
    taken = (*held.values(), advice)
    return Grant(
        partition=partition,
        device=device,
        tier=first,
        tier_note=". ".join(notes),
        opencl=Tier.OPENCL in held,
        environment={
            **tiers.visible(device),
            **{name: text for one in taken for name, text in one.environment.items()},
        },
        mounts=tuple(mount for one in taken for mount in one.mounts),
        files={name: text for one in taken for name, text in one.files.items()},
        usage={name: size for one in taken for name, size in one.usage.items()},
        usage_folders=tuple(name for one in taken for name in one.usage_folders),
    )


def best_tier(device: Device, offers: Offers) -> tuple[Tier, str]:
    """The tier of a job that has all of the device, and its promise in a few words."""
    whole = Partition(
        partition_id="",
        job_id="",
        attempt=1,
        device_id=device.device_id,
        units=UNITS_PER_DEVICE,
        gpu_memory_bytes=device.memory_bytes,
        boot_id="",
        expires_s=0.0,
    )
    tier = make_grant(whole, device, offers).tier
    return tier, _promise(tier, device)


def _promise(tier: Tier, device: Device) -> str:
    """What the strongest tier in force says of itself, and what it leaves open on that device."""
    if tier is Tier.OPENCL and device.cuda_uuid is not None:
        return f"{PROMISES[tier]}, not in CUDA"
    return PROMISES[tier]


def _held(share: Share, offers: Offers) -> dict[Tier, Measures]:
    """The measures in force, the strongest tier first."""
    held: dict[Tier, Measures] = {}
    for tier, measures_of in _ENFORCING:
        if tier not in offers.tiers:
            continue
        beside = tier is Tier.OPENCL and _CUDA_ONLY.issuperset(held)
        if held and not beside:
            continue
        measures = measures_of(share, offers)
        if measures is not None:
            held[tier] = measures
    return held
