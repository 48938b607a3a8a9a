"""The worker's devices and partitions as the agent answers for them; each change is on disk."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import Logger

from cumulusd.agent.options import AgentOptions
from cumulusd.agent.orders import LastMoment, PrepareOrder
from cumulusd.chronos.boot_clock import BootClock
from cumulusd.chronos.devices import Discovered
from cumulusd.chronos.grant import Grant, best_tier, make_grant
from cumulusd.chronos.ledger import UNITS_PER_DEVICE, Device, Ledger, PartitionState
from cumulusd.chronos.ledger_file import LedgerFile
from cumulusd.chronos.libchronos import Booking, permille_of
from cumulusd.chronos.tiers import Offers
from cumulusd.errors import CumulusError, InsufficientResources


class Partitions:
    """Sole authority on this worker's shares. `load` it before anything else."""

    _log = Logger()

    def __init__(self, file: LedgerFile, clock: BootClock, options: AgentOptions) -> None:
        self._file = file
        self._clock = clock
        self._options = options
        self._ledger = Ledger()
        self._present: list[str] = []  #: ids of the devices there are now
        self.offers = Offers()  #: what holds jobs to their shares; its owner keeps it true
        self.discovery_error: str | None = "its drivers have not answered yet"
        self._places: Mapping[str, int] = {}  #: of devices, in their OpenCL platforms
        #: what was there and the last look didn't show, by id, and of those the ones that the look
        #: before didn't show either
        self._missing: dict[str, Device] = {}
        self._lost: set[str] = set()
        self._changed: Callable[[], None] = lambda: None

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed()` is called when `bookings` may give something else."""
        self._changed = changed

    def load(self) -> None:
        """Reads the ledger. Until the drivers were looked at, the devices are those of before.

        Raises CumulusError when the ledger can't be used."""
        self._ledger = self._file.load()
        known = self._ledger.devices.values()
        self._present = [
            one.device_id for one in sorted(known, key=lambda one: one.index) if self._counts(one)
        ]
        try:
            self.expire()
        except CumulusError as error:
            # A full disk must not keep the agent from its jobs; the next sweep marks them.
            self._log.error("expired partitions can't be marked: {error}", error=error)

    def learn(self, found: Discovered) -> bool:
        """The drivers were looked at. True: something is missing that was there before, so another
        look is wanted soon.

        From one look to the next a device that is missing takes no jobs; after the second it is
        lost, and its partitions are draining. One whose driver could not be asked isn't missing:
        all stays as it was."""
        missing = self._not_in(found)
        if missing and found.failed is not None:
            self.discovery_failed(found.failed)
            return True
        lost = set(missing) & set(self._missing)
        ledger = self._ledger.with_devices(found.devices)
        for one in ledger.partitions.values():
            if one.device_id in lost:
                ledger = ledger.mark_draining(one.job_id, one.attempt)
        for device_id in lost:
            ledger = ledger.without_device(device_id)
        self._save(ledger)
        for device_id in lost - self._lost:
            self._log.error(
                "device {device} is lost: its driver doesn't show it any more",
                device=missing[device_id].name,
                device_id=device_id,
            )
        self._places = found.places
        self._present = list(found.devices)
        self._missing, self._lost = missing, lost
        self.discovery_error = _told(found, missing)
        return bool(set(missing) - lost)

    def has_lost(self, job_id: str, attempt: int) -> bool:
        """Whether the device of that attempt's partition is lost."""
        held = self._ledger.find(job_id, attempt)
        return held is not None and held.device_id in self._lost

    def discovery_failed(self, why: str) -> None:
        """They could not be looked at: what was known stays."""
        self.discovery_error = why

    def bookings(self) -> dict[str, Booking]:
        """All that is held here, in libchronos' terms, by partition id. It counts the devices of
        one OpenCL platform."""
        now_s = self._clock.seconds()
        found = {}
        for one in self._ledger.partitions.values():
            index = self._ledger.devices[one.device_id].index
            found[one.partition_id] = Booking(
                partition_id=one.partition_id,
                device=self._places.get(one.device_id, index),
                permille=permille_of(one.units),
                remaining_s=one.remaining_s(now_s, self._clock.boot_id),
            )
        return found

    def attempt_of(self, job_id: str) -> int | None:
        """The newest attempt of the job that holds a partition."""
        held = self._ledger.of_job(job_id)
        return held[-1].attempt if held else None

    def reserve(self, order: PrepareOrder, place: str) -> Grant:
        """The grant of the partition of that attempt, made if it isn't there. Durable.

        `place`: where the grant's own files will be."""
        if self._ledger.find(order.job_id, order.attempt) is None:
            self._refuse_absent(order)
        budget_s = self._budget_s(order)
        ledger, partition = self._ledger.reserve(
            partition_id=f"p-{secrets.token_hex(8)}",
            job_id=order.job_id,
            attempt=order.attempt,
            device_id=order.device_id,
            units=order.units,
            boot_id=self._clock.boot_id,
            expires_s=self._clock.seconds() + budget_s,
        )
        self._save(ledger)
        return make_grant(
            partition,
            ledger.devices[partition.device_id],
            self.offers,
            place,
            self.last_moment(order).seconds,
        )

    def lifetime_s(self, order: PrepareOrder) -> float:
        """How long after its `reserve` a runner of that attempt may be there at most."""
        return self._budget_s(order) + self._options.start_margin_s

    def last_moment(self, order: PrepareOrder) -> LastMoment:
        """Of the runner of an attempt whose partition is reserved."""
        held = self._ledger.find(order.job_id, order.attempt)
        assert held is not None
        seconds = held.expires_s + self._options.start_margin_s
        return LastMoment(boot_id=held.boot_id, seconds=seconds)

    def _budget_s(self, order: PrepareOrder) -> float:
        return order.setup_timeout_s + order.duration_s + self._options.expiry_grace_s

    def drain(self, job_id: str, attempt: int) -> None:
        """It is on its way out."""
        self._save(self._ledger.mark_draining(job_id, attempt))

    def free(self, job_id: str, attempt: int) -> None:
        """Its share is free: there is proof that nothing of the job is left."""
        self._save(self._ledger.release(job_id, attempt))

    def expire(self) -> None:
        """Marks those draining whose time is over."""
        before = self._ledger.partitions
        self._save(self._ledger.expire(self._clock.seconds(), self._clock.boot_id))
        for key, one in self._ledger.partitions.items():
            if one.state is not before[key].state:
                self._log.warn(
                    "partition {partition_id} of job {job_id} has expired and is draining",
                    partition_id=one.partition_id,
                    job_id=one.job_id,
                )

    def devices(self) -> list[dict[str, Any]]:
        """As `docs/protocol.md` has them."""
        return [self._device(device) for device in self._known(self._present)]

    def _device(self, device: Device) -> dict[str, Any]:
        tier, note = best_tier(device, self.offers)
        return {
            "device_id": device.device_id,
            "index": device.index,
            "name": device.name,
            "kind": device.kind,
            "memory_bytes": device.memory_bytes,
            "units_total": UNITS_PER_DEVICE,
            "units_free": self._ledger.units_free(device.device_id),
            "tier": tier.value,
            "tier_note": note,
            "partitions": self.listing(device.device_id),
        }

    def listing(self, device_id: str | None = None) -> list[dict[str, Any]]:
        """As `docs/protocol.md` has them; those of one device, or all."""
        now_s = self._clock.seconds()
        return [
            {
                "partition_id": one.partition_id,
                "job_id": one.job_id,
                "attempt": one.attempt,
                "device_id": one.device_id,
                "device_index": self._ledger.devices[one.device_id].index,
                "units": one.units,
                "gpu_memory_bytes": one.gpu_memory_bytes,
                "state": PartitionState(one.state).value,
                "remaining_s": one.remaining_s(now_s, self._clock.boot_id),
            }
            for one in self._ledger.partitions.values()
            if device_id in (None, one.device_id)
        ]

    def _refuse_absent(self, order: PrepareOrder) -> None:
        device_id = order.device_id
        device = self._missing.get(device_id) or self._ledger.devices.get(device_id)
        if device is not None and device_id not in self._present:
            raise InsufficientResources(
                f"device {device.name} was on this worker, but its driver doesn't show it now",
                job_id=order.job_id,
                details={"device_id": device_id, "discovery": self.discovery_error},
                hint="look at the driver on the worker, or place the job elsewhere",
            )

    def _not_in(self, found: Discovered) -> dict[str, Device]:
        """By id: what should be there and isn't."""
        held = {one.device_id for one in self._ledger.partitions.values()}
        known = {**self._ledger.devices, **self._missing}
        expected = {*self._present, *self._missing, *held} - set(found.devices)
        return {one: known[one] for one in sorted(expected) if self._counts(known[one])}

    def _counts(self, device: Device) -> bool:
        return device.kind != "cpu" or self._options.count_cpu_devices

    def _known(self, device_ids: list[str]) -> list[Device]:
        devices: Mapping[str, Device] = self._ledger.devices
        return [devices[one] for one in device_ids]

    def _save(self, ledger: Ledger) -> None:
        """On disk first: what isn't there never happened."""
        if ledger != self._ledger:
            self._file.save(ledger)
            self._ledger = ledger
            self._changed()


def _told(found: Discovered, missing: Mapping[str, Device]) -> str | None:
    """What is wrong with the drivers, in words."""
    names = ", ".join(device.name for device in missing.values())
    gone = f"no longer shown by its driver: {names}" if missing else None
    return (
        "; ".join(part for part in (found.reason, found.failed, gone) if part is not None) or None
    )
