"""From what the probe printed to devices with a stable identity. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import attrs

from cumulusd.chronos.ledger import Device, less_reserve

KINDS = ("gpu", "accelerator", "cpu")
#: What NVIDIA's OpenCL driver calls its platform.
NVIDIA_PLATFORM = "NVIDIA CUDA"


class ProbeAnswerInvalid(ValueError):
    """The probe printed something else than its answer."""


@attrs.frozen(kw_only=True)
class Selection:
    """Which devices count, and how much of each is for jobs."""

    count_cpu_devices: bool = False
    gpu_reserve_fraction: float = 0.05  #: of a GPU's memory, for driver and contexts
    cpu_reserve_fraction: float = 0.0

    def reserve_fraction(self, kind: str) -> float:
        """Of a device of that kind."""
        return self.cpu_reserve_fraction if kind == "cpu" else self.gpu_reserve_fraction


@attrs.frozen(kw_only=True)
class Discovered:
    """What a look at the drivers gave."""

    devices: Mapping[str, Device]  #: by id, in the order of their index
    reason: str | None  #: why there are none
    #: by id: the device's place among those of its OpenCL platform
    places: Mapping[str, int] = attrs.field(factory=dict)
    failed: str | None = None  #: what could not be asked: nothing is known of its devices


def read_answer(data: bytes, selection: Selection) -> Discovered:
    """Reads the probe's JSON. Raises ProbeAnswerInvalid."""
    try:
        value = json.loads(data)
        entries = [_Entry.read(one, place) for place, one in enumerate(value["devices"])]
        entries = _with_nvidia(entries, [_Nvidia.read(one) for one in value.get("nvidia", ())])
        reason = value.get("reason")
        failed = "; ".join(str(one) for one in value.get("failed", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProbeAnswerInvalid(f"the probe's answer can't be read: {error!r}") from None
    counted = [one for one in entries if one.kind != "cpu" or selection.count_cpu_devices]
    if entries and not counted:
        reason = (
            f"only CPU devices were found ({', '.join(sorted({one.name for one in entries}))}); "
            "they count when count_cpu_devices is set"
        )
    return Discovered(
        devices=_numbered(counted, selection),
        reason=None if counted else str(reason or "the drivers show no device"),
        places={one.device_id: one.ordinal for one in reversed(counted)},
        failed=failed or None,
    )


@attrs.frozen(kw_only=True)
class _Entry:
    place: int
    platform: str | None  #: None: OpenCL doesn't show it
    name: str
    kind: str
    ordinal: int
    memory_bytes: int
    uuid: str | None
    pci: str | None
    cuda_uuid: str | None
    slice: bool = False  #: shares its PCI address with others

    @classmethod
    def read(cls, entry: Mapping[str, Any], place: int) -> "_Entry":
        kind, memory_bytes = entry["kind"], entry["memory_bytes"]
        if kind not in KINDS or type(memory_bytes) is not int or memory_bytes <= 0:
            raise ValueError(f"device {place} is of kind {kind!r} with {memory_bytes!r} bytes")
        return cls(
            place=place,
            platform=str(entry["platform"]),
            name=str(entry["name"]),
            kind=kind,
            ordinal=int(entry["ordinal"]),
            memory_bytes=memory_bytes,
            uuid=entry.get("uuid"),
            pci=entry.get("pci"),
            cuda_uuid=entry.get("cuda_uuid")
            or _cuda_uuid(str(entry["platform"]), entry.get("uuid")),
        )

    @property
    def device_id(self) -> str:
        """UUID where the driver has one, else the PCI address, else what it is called."""
        if self.uuid:
            return f"uuid-{self.uuid}"
        if self.pci:
            return f"pci-{self.pci}"
        called = f"{self.platform}\0{self.name}\0{self.ordinal}".encode()
        return f"name-{hashlib.sha256(called).hexdigest()[:32]}"


def _numbered(entries: Iterable[_Entry], selection: Selection) -> dict[str, Device]:
    """GPUs first, by PCI address; one card shown by two drivers is one device."""
    order = sorted(
        entries, key=lambda one: (KINDS.index(one.kind), one.pci is None, one.pci or "", one.place)
    )
    devices: dict[str, Device] = {}
    addresses: set[str] = set()
    ordinals = _ordinals(entries)
    for one in order:
        alone = one.pci is not None and not one.slice
        if one.device_id in devices or (alone and one.pci in addresses):
            continue
        if one.pci is not None and alone:
            addresses.add(one.pci)
        devices[one.device_id] = Device(
            device_id=one.device_id,
            index=len(devices),
            name=one.name,
            kind=one.kind,
            memory_bytes=less_reserve(one.memory_bytes, selection.reserve_fraction(one.kind)),
            total_bytes=one.memory_bytes,
            reserve_fraction=selection.reserve_fraction(one.kind),
            uuid=one.uuid,
            pci=one.pci,
            platform=one.platform,
            ordinal=ordinals[one.place],
            cuda_uuid=one.cuda_uuid,
        )
    return devices


def _ordinals(entries: Iterable[_Entry]) -> dict[int, int]:
    """By place: the how-manieth of its platform and name each is, in the drivers' own order."""
    seen: dict[tuple[str | None, str], int] = {}
    found = {}
    for one in sorted(entries, key=lambda one: one.place):
        found[one.place] = seen.get((one.platform, one.name), 0)
        seen[one.platform, one.name] = found[one.place] + 1
    return found


@attrs.frozen(kw_only=True)
class _Nvidia:
    """A GPU or a MIG slice as NVML shows it."""

    name: str
    cuda_uuid: str
    pci: str
    memory_bytes: int
    sliced: bool  #: in MIG mode: it is used by its slices
    slice: bool

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> "_Nvidia":
        memory_bytes = entry["memory_bytes"]
        if type(memory_bytes) is not int:
            raise ValueError(f"a GPU of NVIDIA's has {memory_bytes!r} bytes")
        return cls(
            name=str(entry["name"]),
            cuda_uuid=str(entry["cuda_uuid"]),
            pci=str(entry["pci"]),
            memory_bytes=memory_bytes,
            sliced=entry["sliced"] is True,
            slice=entry["slice"] is True,
        )

    @property
    def uuid(self) -> str:
        """32 hexadecimal digits: NVIDIA's, or of a name of the older form MIG-GPU-<UUID>/1/0."""
        digits = self.cuda_uuid.partition("-")[2].replace("-", "").lower()
        if len(digits) == 32 and set(digits) <= set("0123456789abcdef"):
            return digits
        return hashlib.sha256(self.cuda_uuid.encode()).hexdigest()[:32]

    def is_also(self, other: _Entry) -> bool:
        """The same card, as OpenCL shows it."""
        return self.pci == other.pci or self.uuid == other.uuid


def _with_nvidia(entries: Iterable[_Entry], found: Iterable[_Nvidia]) -> list[_Entry]:
    """With what NVML knows better: GPUs' CUDA names, slices in their place, GPUs without OpenCL."""
    merged = list(entries)
    for one in found:
        same = [other for other in merged if not other.slice and one.is_also(other)]
        if one.sliced:
            merged = [other for other in merged if other not in same]
        elif same and not one.slice:
            named = attrs.evolve(same[0], cuda_uuid=one.cuda_uuid)
            merged[merged.index(same[0])] = named
        elif one.memory_bytes > 0:
            merged.append(_only_cuda(one, 1 + max((other.place for other in merged), default=-1)))
    return merged


def _only_cuda(one: _Nvidia, place: int) -> _Entry:
    return _Entry(
        place=place,
        platform=None,
        name=one.name,
        kind="gpu",
        ordinal=0,
        memory_bytes=one.memory_bytes,
        uuid=one.uuid,
        pci=one.pci,
        cuda_uuid=one.cuda_uuid,
        slice=one.slice,
    )


def _cuda_uuid(platform: str, uuid: str | None) -> str | None:
    """NVIDIA's name of a GPU, which is the UUID that its OpenCL driver tells."""
    if uuid is None or platform != NVIDIA_PLATFORM:
        return None
    return f"GPU-{UUID(uuid)}"
