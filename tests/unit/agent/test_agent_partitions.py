"""The worker's partitions through any sequence of calls, restarts, reboots, full disks, looks."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cumulusd.agent.options import AgentOptions
from cumulusd.agent.orders import PrepareOrder
from cumulusd.agent.partitions import Partitions
from cumulusd.chronos.boot_clock import BootClock, system_boot_clock
from cumulusd.chronos.devices import Discovered
from cumulusd.chronos.ledger import UNITS_PER_DEVICE, Device, Ledger, less_reserve
from cumulusd.chronos.ledger_file import LedgerFile
from cumulusd.errors import Conflict, InsufficientResources, InternalError, NotFound

JOBS = st.sampled_from(["a", "b", "c"])
ATTEMPTS = st.integers(1, 2)
DEVICES = st.sampled_from(["d0", "d1"])
SHARES = st.sampled_from([1, 3333, 5000, UNITS_PER_DEVICE])
_MEMORY = "/dev/shm"
BUDGET_S = 60.0 + 100.0 + AgentOptions().expiry_grace_s


class File(LedgerFile):
    """Refuses to save while the disk is full."""

    full = False

    def save(self, ledger: Ledger) -> None:
        if self.full:
            raise InternalError("No space left on device")
        super().save(ledger)


def order(job_id: str, attempt: int, device_id: str, units: int) -> PrepareOrder:
    arguments: dict[str, Any] = {
        "job_id": job_id,
        "attempt": attempt,
        "journal_start": 0,
        "owner": "o",
        "device_id": device_id,
        "units": units,
        "setup_timeout_s": 60,
        "duration_s": 100,
        "package": {"sha256": "ab" * 32, "size_bytes": 1},
    }
    return PrepareOrder.read(arguments, AgentOptions())


class Worker(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        # In memory: some hundreds of fsyncs on a busy disk take half a minute.
        self.folder = Path(tempfile.mkdtemp(dir=_MEMORY if os.path.isdir(_MEMORY) else None))
        self.boot_id, self.now_s = "boot-0", 1000.0
        self.ids: dict[str, tuple[str, int]] = {}
        self.drained: set[str] = set()
        self.open()
        self.look(frozenset({"d0", "d1"}), 1 << 30, 0.05)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def open(self) -> None:
        self.file = File(self.folder / "ledger.json")
        clock = BootClock(boot_id=self.boot_id, seconds=lambda: self.now_s)
        self.partitions = Partitions(self.file, clock, AgentOptions())
        self.partitions.load()

    def held(self) -> list[dict[str, Any]]:
        return self.partitions.listing()

    # -- what may happen

    @rule(job_id=JOBS, attempt=ATTEMPTS, device_id=DEVICES, units=SHARES)
    def reserve(self, job_id: str, attempt: int, device_id: str, units: int) -> None:
        wanted = order(job_id, attempt, device_id, units)
        there = {(one["job_id"], one["attempt"]): one for one in self.held()}.get((job_id, attempt))
        try:
            made = self.partitions.reserve(wanted, "/place").partition
        except Conflict:
            assert there is not None
            same = (there["device_id"], there["units"]) == (device_id, units)
            assert not same or there["state"] == "draining"
            return
        except (InsufficientResources, NotFound):
            assert there is None
            return
        if there is not None:
            assert made.partition_id == there["partition_id"], "asked again, booked again"
        else:
            assert made.partition_id not in self.ids, "an id names one partition, for ever"
            assert made.remaining_s(self.now_s, self.boot_id) == BUDGET_S
        self.ids[made.partition_id] = (job_id, attempt)

    @rule(job_id=JOBS, attempt=ATTEMPTS)
    def drain(self, job_id: str, attempt: int) -> None:
        self.partitions.drain(job_id, attempt)

    @rule(job_id=JOBS, attempt=ATTEMPTS)
    def free(self, job_id: str, attempt: int) -> None:
        self.partitions.free(job_id, attempt)
        self.partitions.free(job_id, attempt)
        assert all((one["job_id"], one["attempt"]) != (job_id, attempt) for one in self.held())

    @rule(seconds=st.sampled_from([0.0, 1.0, BUDGET_S]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.partitions.expire()
        for one in self.held():
            assert one["state"] == "draining" or one["remaining_s"] > 0

    @rule()
    def restart(self) -> None:
        before = self.held()
        self.open()
        assert self.held() == before

    @rule()
    def reboot(self) -> None:
        before = [one["partition_id"] for one in self.held()]
        self.boot_id, self.now_s = f"boot-{int(self.boot_id[5:]) + 1}", 1.0
        self.open()
        assert [one["partition_id"] for one in self.held()] == before
        assert all(one["state"] == "draining" for one in self.held())

    @rule(
        present=st.sets(DEVICES).map(frozenset),
        total_bytes=st.sampled_from([1 << 30, (1 << 30) - 4096, 1 << 31]),
        reserve=st.sampled_from([0.05, 0.2]),
    )
    def look(self, present: frozenset[str], total_bytes: int, reserve: float) -> None:
        found = {
            device_id: Device(
                device_id=device_id,
                index=index,
                name=device_id,
                kind="gpu",
                memory_bytes=less_reserve(total_bytes, reserve),
                total_bytes=total_bytes,
                reserve_fraction=reserve,
            )
            for index, device_id in enumerate(sorted(present))
        }
        before = {one["partition_id"]: one for one in self.held()}
        self.partitions.learn(Discovered(devices=found, reason=None))
        assert [one["device_id"] for one in self.partitions.devices()] == sorted(present)
        for one in self.held():
            assert one["gpu_memory_bytes"] == before[one["partition_id"]]["gpu_memory_bytes"]

    @rule(job_id=JOBS, attempt=ATTEMPTS, device_id=DEVICES, what=st.integers(0, 3))
    def full_disk(self, job_id: str, attempt: int, device_id: str, what: int) -> None:
        """What can't be saved never happened."""
        before = self.held()
        calls: list[Callable[[], object]] = [
            lambda: self.partitions.reserve(order(job_id, attempt, device_id, 1), "/place"),
            lambda: self.partitions.drain(job_id, attempt),
            lambda: self.partitions.free(job_id, attempt),
            self.partitions.expire,
        ]
        self.file.full = True
        try:
            calls[what]()
        except (InternalError, Conflict, InsufficientResources, NotFound):
            pass
        self.file.full = False
        assert self.held() == before

    # -- what holds always

    @invariant()
    def nothing_is_overcommitted(self) -> None:
        if not hasattr(self, "partitions"):
            return
        ledger = self.file.load()
        for device_id, device in ledger.devices.items():
            of_it = [one for one in ledger.partitions.values() if one.device_id == device_id]
            assert sum(one.units for one in of_it) <= UNITS_PER_DEVICE
            assert sum(one.gpu_memory_bytes for one in of_it) <= device.memory_bytes

    @invariant()
    def what_is_told_is_on_disk(self) -> None:
        if hasattr(self, "partitions"):
            on_disk = {one.partition_id: one.state for one in self.file.load().partitions.values()}
            assert {one["partition_id"]: one["state"] for one in self.held()} == on_disk

    @invariant()
    def draining_is_for_good(self) -> None:
        if not hasattr(self, "partitions"):
            return
        for one in self.held():
            if one["state"] == "draining":
                self.drained.add(one["partition_id"])
            else:
                assert one["partition_id"] not in self.drained


def test_no_sequence_overcommits_doubles_or_forgets() -> None:
    run_state_machine_as_test(Worker, settings=settings(max_examples=60, stateful_step_count=30))


def test_a_wall_clock_that_jumps_expires_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> Partitions:
        partitions = Partitions(
            LedgerFile(tmp_path / "ledger.json"), system_boot_clock(), AgentOptions()
        )
        partitions.load()
        return partitions

    device = Device(device_id="d0", index=0, name="d0", kind="gpu", memory_bytes=1 << 30)
    partitions = opened()
    partitions.learn(Discovered(devices={"d0": device}, reason=None))
    partitions.reserve(order("a", 1, "d0", 5000), "/place")
    for wall_clock_s in (4e9, 1.0):
        monkeypatch.setattr(time, "time", lambda now=wall_clock_s: now)
        partitions.expire()
        (held,) = partitions.listing()
        assert held["state"] == "active" and 0 < held["remaining_s"] <= BUDGET_S
        assert opened().listing()[0]["state"] == "active"
