"""NVIDIA's GPUs and MIG slices: what NVML is asked, and what becomes of it beside OpenCL."""

import importlib.util
import json
from typing import Any

import pytest

from cumulus_wire.grant import Tier
from cumulusd.chronos.devices import ProbeAnswerInvalid, Selection, read_answer
from cumulusd.chronos.discovery import PROBE
from cumulusd.chronos.grant import best_tier
from cumulusd.chronos.ledger import Device
from cumulusd.chronos.tiers import Offers

GPU = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
DIGITS = "8932f937d72c4106c12f20bd9faed9f6"
OTHER = "GPU-00000000-0000-0000-0000-000000000001"
SLICES = [f"MIG-00000000-0000-0000-0000-00000000000{number}" for number in (2, 3)]
SELECTION = Selection(gpu_reserve_fraction=0.0)


def nvidia(cuda_uuid: str, bus: str = "01", **more: Any) -> dict[str, Any]:
    return {
        "name": "Card",
        "cuda_uuid": cuda_uuid,
        "pci": f"0000:{bus}:00.0",
        "memory_bytes": 1000,
        "sliced": False,
        "slice": False,
        **more,
    }


def opencl(**more: Any) -> dict[str, Any]:
    return {
        "platform": "NVIDIA CUDA",
        "name": "Card",
        "kind": "gpu",
        "ordinal": 0,
        "memory_bytes": 990,
        "uuid": DIGITS,
        "pci": "0000:01:00.0",
        **more,
    }


def read(devices: list[dict[str, Any]], *found: dict[str, Any]) -> list[Device]:
    answer = json.dumps({"devices": devices, "nvidia": found}).encode()
    return list(read_answer(answer, SELECTION).devices.values())


@pytest.mark.parametrize("seen", [{}, {"pci": None}, {"uuid": None, "platform": "other"}])
def test_a_card_that_opencl_shows_has_its_name_of_cudas(seen: dict[str, Any]) -> None:
    (device,) = read([opencl(**seen)], nvidia(GPU))
    assert device.cuda_uuid == GPU and device.platform is not None
    assert device.memory_bytes == 990, "as OpenCL has it"


def test_a_card_without_opencl_is_a_device_that_the_layer_cant_hold() -> None:
    (device,) = read([], nvidia(GPU))
    assert (device.device_id, device.cuda_uuid) == (f"uuid-{DIGITS}", GPU)
    assert (device.kind, device.memory_bytes, device.platform) == ("gpu", 1000, None)
    assert best_tier(device, Offers(tiers=frozenset(Tier)))[0] is Tier.ADVISORY


def test_slices_stand_in_the_place_of_their_gpu() -> None:
    found = read(
        [opencl(), opencl(uuid=None, pci="0000:02:00.0")],
        nvidia(GPU, sliced=True),
        *(nvidia(name, slice=True, memory_bytes=400) for name in SLICES),
        nvidia(OTHER, bus="02"),
    )
    assert [one.cuda_uuid for one in found] == [*SLICES, OTHER]
    assert [one.index for one in found] == [0, 1, 2]
    assert len({one.device_id for one in found}) == 3
    offers = Offers(tiers=frozenset(Tier))
    assert [best_tier(one, offers)[0] for one in found] == [Tier.MIG, Tier.MIG, Tier.OPENCL]


def test_slices_of_the_older_form_differ_too() -> None:
    names = [f"MIG-{GPU}/{number}/0" for number in (1, 2)]
    found = read([], nvidia(GPU, sliced=True), *(nvidia(name, slice=True) for name in names))
    assert [one.cuda_uuid for one in found] == names
    assert len({one.device_id for one in found}) == 2


def test_a_sliced_gpu_without_slices_is_no_device() -> None:
    assert read([opencl()], nvidia(GPU, sliced=True)) == []


@pytest.mark.parametrize("wrong", [{"memory_bytes": "much"}, {"name": ...}])
def test_nonsense_is_told_from_an_answer(wrong: dict[str, Any]) -> None:
    entry = {key: value for key, value in nvidia(GPU, **wrong).items() if value is not ...}
    with pytest.raises(ProbeAnswerInvalid):
        read([], entry)


class Nvml:
    """The library through ctypes: two GPUs, the first of them with one slice of two possible."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes

    def __getattr__(self, name: str) -> Any:
        if name not in CALLS:
            raise AttributeError(f"nvml.h has no {name}, or it isn't asked for")
        return lambda *arguments: self.codes.get(name, CALLS[name](*arguments))


def at(pointer: Any) -> Any:
    return pointer._obj


def put(pointer: Any, value: int) -> int:
    at(pointer).value = value
    return 0


def text(buffer: Any, value: str) -> int:
    buffer.value = value.encode()
    return 0


def pci(device: Any, pointer: Any) -> int:
    where = at(pointer)
    where.domain, where.bus, where.device = 0, device.value, 0
    where.busId = f"00000000:{device.value:02X}:00.0".encode()
    return 0


def memory(device: Any, pointer: Any) -> int:
    at(pointer).total = device.value * 1000
    return 0


CALLS: dict[str, Any] = {
    "nvmlInit_v2": lambda: 0,
    "nvmlDeviceGetCount_v2": lambda count: put(count, 2),
    "nvmlDeviceGetHandleByIndex_v2": lambda number, device: put(device, [0x81, 0x82][number]),
    "nvmlDeviceGetPciInfo_v3": pci,
    "nvmlDeviceGetMigMode": lambda device, mode, pending: (
        put(mode, 1) if device.value == 0x81 else 3  # NVML_ERROR_NOT_SUPPORTED
    ),
    "nvmlDeviceGetMaxMigDeviceCount": lambda device, count: put(count, 2),
    "nvmlDeviceGetMigDeviceHandleByIndex": lambda device, place, part: (
        put(part, 7) if place == 1 else 6  # NVML_ERROR_NOT_FOUND
    ),
    "nvmlDeviceGetUUID": lambda device, buffer, size: text(
        buffer, {0x81: GPU, 0x82: OTHER, 7: SLICES[0]}[device.value]
    ),
    "nvmlDeviceGetName": lambda device, buffer, size: text(buffer, f"Card {device.value}"),
    "nvmlDeviceGetMemoryInfo": memory,
}


def probe() -> Any:
    spec = importlib.util.spec_from_file_location("probe_of_the_test", PROBE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def probed(nvml: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = probe().nvidia_gpus(nvml)
    return found


def test_nvml_is_asked_for_gpus_and_their_slices() -> None:
    assert probed(Nvml()) == [
        nvidia(GPU, "81", name="Card 129", memory_bytes=129_000, sliced=True),
        nvidia(SLICES[0], "81", name="Card 7", memory_bytes=7000, slice=True),
        nvidia(OTHER, "82", name="Card 130", memory_bytes=130_000),
    ]


@pytest.mark.parametrize("call", ["nvmlInit_v2", "nvmlDeviceGetCount_v2"])
def test_a_driver_that_isnt_loaded_has_none_and_one_that_fails_says_so(call: str) -> None:
    assert probed(Nvml(**{call: 9})) == [], "no driver is loaded"
    module = probe()
    with pytest.raises(module.NvmlFailed, match="error 18"):  # a mismatch, until the next boot
        module.nvidia_gpus(Nvml(**{call: 18}))


def test_a_lost_gpu_is_left_out() -> None:
    assert probed(Nvml(nvmlDeviceGetHandleByIndex_v2=15)) == []
