"""The ledger never books more than there is, and survives what happens to its file."""

import errno
import json
import os
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulusd.chronos.ledger import (
    UNITS_PER_DEVICE,
    Device,
    Ledger,
    LedgerUnreadable,
    Partition,
    PartitionState,
    dump,
    less_reserve,
    load,
    share_bytes,
)
from cumulusd.chronos.ledger_file import LedgerFile
from cumulusd.errors import Conflict, InsufficientResources, InternalError, NotFound

GIB = 1 << 30


def device(device_id: str = "d0", memory_bytes: int = 8 * GIB) -> Device:
    return Device(device_id=device_id, index=0, name="Card", kind="gpu", memory_bytes=memory_bytes)


def ledger_with(*devices: Device) -> Ledger:
    return Ledger().with_devices({one.device_id: one for one in devices})


def book(
    ledger: Ledger,
    job_id: str = "j1",
    attempt: int = 1,
    units: int = 5000,
    device_id: str = "d0",
    expires_s: float = 100.0,
) -> tuple[Ledger, Partition]:
    return ledger.reserve(
        partition_id=f"p-{job_id}-{attempt}",
        job_id=job_id,
        attempt=attempt,
        device_id=device_id,
        units=units,
        boot_id="boot-a",
        expires_s=expires_s,
    )


def test_a_share_is_booked_with_its_bytes_and_given_back() -> None:
    ledger, made = book(ledger_with(device()), units=2500)
    assert made.gpu_memory_bytes == 2 * GIB
    assert ledger.units_free("d0") == 7500
    assert ledger.release("j1", 1).units_free("d0") == UNITS_PER_DEVICE


def test_asking_again_books_nothing_more() -> None:
    ledger, made = book(ledger_with(device()))
    again, same = book(ledger, expires_s=999.0)
    assert same == made
    assert again is ledger


def test_the_same_attempt_with_another_share_is_a_conflict() -> None:
    ledger, _ = book(ledger_with(device()))
    with pytest.raises(Conflict) as caught:
        book(ledger, units=100)
    assert caught.value.job_id == "j1"
    assert caught.value.hint


def test_a_draining_partition_holds_its_share_and_isnt_given_out_again() -> None:
    ledger, _ = book(ledger_with(device()), units=10_000)
    ledger = ledger.mark_draining("j1", 1)
    assert ledger.units_free("d0") == 0
    with pytest.raises(Conflict):
        book(ledger, units=10_000)
    with pytest.raises(InsufficientResources) as caught:
        book(ledger, job_id="j2", units=1)
    assert caught.value.details["units_free"] == 0


def test_an_unknown_device_is_named_with_those_known() -> None:
    with pytest.raises(NotFound) as caught:
        book(ledger_with(device()), device_id="nowhere")
    assert caught.value.details == {"device_id": "nowhere", "known": ["d0"]}


def test_it_expires_on_the_boot_clock_into_draining() -> None:
    ledger, _ = book(ledger_with(device()), expires_s=100.0)
    before = ledger.expire(99.9, "boot-a")
    assert before is ledger
    after = ledger.expire(100.0, "boot-a").find("j1", 1)
    assert after is not None
    assert after.state is PartitionState.DRAINING
    assert ledger.expire(100.0, "boot-a").units_free("d0") == 5000


def test_after_a_reboot_everything_is_draining() -> None:
    ledger, made = book(ledger_with(device()), expires_s=100.0)
    assert made.remaining_s(1.0, "boot-b") == 0.0
    after = ledger.expire(1.0, "boot-b").find("j1", 1)
    assert after is not None
    assert after.state is PartitionState.DRAINING


def test_a_total_that_drifts_is_frozen_and_the_rest_is_taken_over() -> None:
    ledger = ledger_with(device(memory_bytes=8 * GIB))
    drifted = attrs.evolve(device(memory_bytes=7 * GIB), index=3, name="Card v2")
    found = ledger.with_devices({"d0": drifted}).devices["d0"]
    assert (found.memory_bytes, found.index, found.name) == (8 * GIB, 3, "Card v2")


def sized(total_bytes: int, reserve_fraction: float) -> Device:
    memory_bytes = less_reserve(total_bytes, reserve_fraction)
    return attrs.evolve(
        device(memory_bytes=memory_bytes),
        total_bytes=total_bytes,
        reserve_fraction=reserve_fraction,
    )


def test_another_reserve_counts_when_nobody_holds_a_share() -> None:
    ledger, made = book(ledger_with(sized(1000, 0.05)), units=5000)
    assert made.gpu_memory_bytes == 475
    other = {"d0": sized(900, 0.2)}  # the total has drifted too
    assert ledger.with_devices(other).devices["d0"].memory_bytes == 950
    found = load(dump(ledger.release("j1", 1).with_devices(other))).devices["d0"]
    assert (found.memory_bytes, found.total_bytes) == (800, 1000)
    again = ledger_with(found).with_devices({"d0": sized(990, 0.2)}).devices["d0"]
    assert again == found


def test_a_ledger_that_knew_no_totals_learns_them_when_nobody_holds_a_share() -> None:
    ledger, _ = book(ledger_with(device(memory_bytes=950)))
    found = {"d0": sized(2000, 0.1)}
    held = ledger.with_devices(found).devices["d0"]
    assert (held.memory_bytes, held.total_bytes) == (950, None)
    free = ledger.release("j1", 1).with_devices(found).devices["d0"]
    assert (free.memory_bytes, free.total_bytes) == (1800, 2000)


def test_a_device_is_forgotten_when_no_partition_is_of_it() -> None:
    ledger, _ = book(ledger_with(device(), device("d1")))
    assert ledger.without_device("d0") is ledger
    assert list(ledger.without_device("d1").devices) == ["d0"]
    assert list(ledger.release("j1", 1).without_device("d0").devices) == ["d1"]
    assert ledger.without_device("nowhere") is ledger


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "drain", "release", "expire"]),
        st.sampled_from(["a", "b", "c", "d", "e"]),
        st.integers(1, 2),
        st.sampled_from(["d0", "d1"]),
        st.integers(1, UNITS_PER_DEVICE),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(actions=ACTIONS, memory_bytes=st.integers(0, 1 << 45))
def test_no_sequence_overcommits_and_every_ledger_survives_its_file(
    actions: list[tuple[str, str, int, str, int]], memory_bytes: int
) -> None:
    ledger = ledger_with(device("d0", memory_bytes), device("d1", 3))
    now_s = 0.0
    for action, job_id, attempt, device_id, units in actions:
        free = ledger.units_free(device_id)
        there = ledger.find(job_id, attempt)
        if action == "reserve":
            try:
                ledger, _ = book(ledger, job_id, attempt, units, device_id, now_s + 5)
            except Conflict:
                assert there is not None
            except InsufficientResources:
                assert units > free
        elif action == "drain":
            ledger = ledger.mark_draining(job_id, attempt)
        elif action == "release":
            ledger = ledger.release(job_id, attempt)
            assert ledger.find(job_id, attempt) is None
        else:
            now_s += 1
            held = ledger.units_free(device_id)
            ledger = ledger.expire(now_s, "boot-a")
            assert ledger.units_free(device_id) == held
        for one in ledger.devices.values():
            booked = [p for p in ledger.partitions.values() if p.device_id == one.device_id]
            assert sum(p.units for p in booked) <= UNITS_PER_DEVICE
            assert sum(p.gpu_memory_bytes for p in booked) <= one.memory_bytes
        assert load(dump(ledger)) == ledger


@given(memory_bytes=st.integers(0, 1 << 50), units=st.integers(1, UNITS_PER_DEVICE))
def test_bytes_of_a_share_never_round_up(memory_bytes: int, units: int) -> None:
    assert share_bytes(memory_bytes, units) * UNITS_PER_DEVICE <= memory_bytes * units


def broken(change: dict[str, object]) -> bytes:
    ledger, _ = book(ledger_with(device()))
    return json.dumps({**json.loads(dump(ledger)), **change}).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (broken({"version": 2}), "version is 2"),
        (broken({"partitions": [{}]}), "partition_id"),
        (broken({"devices": []}), "no known device"),
        (broken({"devices": None}), "wrong"),
    ],
)
def test_what_it_cant_read_is_refused_with_a_reason(data: bytes, why: str) -> None:
    with pytest.raises(LedgerUnreadable, match=why) as caught:
        load(data)
    assert caught.value.hint


def test_an_overcommitted_file_is_refused() -> None:
    ledger, one = book(ledger_with(device()), units=6000)
    value = json.loads(dump(ledger))
    value["partitions"].append({**value["partitions"][0], "job_id": "j2"})
    with pytest.raises(LedgerUnreadable, match="more than all"):
        load(json.dumps(value).encode())
    assert one.units == 6000


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.json")
    assert file.load() == Ledger()
    ledger, _ = book(ledger_with(device()))
    file.save(ledger)
    (tmp_path / "ledger.json.new").write_bytes(b"torn")  # of a crash while saving
    assert LedgerFile(tmp_path / "ledger.json").load() == ledger
    file.save(ledger.release("j1", 1))
    assert file.load() == ledger.release("j1", 1)
    assert sorted(os.listdir(tmp_path)) == ["ledger.json", "ledger.json.spare"]


def test_a_full_disk_is_no_reason_to_keep_a_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releasing is what frees the disk: what was set aside is used for it, once."""
    file = LedgerFile(tmp_path / "ledger.json")
    ledger, _ = book(ledger_with(device()))
    file.save(ledger)
    spare = tmp_path / "ledger.json.spare"
    assert spare.stat().st_blocks * 512 >= 256 << 10
    fsync = os.fsync

    def full(handle: int) -> None:
        if spare.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    def no_room(handle: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(os, "posix_fallocate", no_room)
        file.save(ledger.release("j1", 1))
        assert LedgerFile(tmp_path / "ledger.json").load() == ledger.release("j1", 1)
        assert not spare.exists()
    file.save(ledger)
    assert spare.exists()


def test_a_file_that_cant_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "gone" / "ledger.json")
    with pytest.raises(InternalError, match="can't be written") as caught:
        file.save(Ledger())
    assert caught.value.hint
