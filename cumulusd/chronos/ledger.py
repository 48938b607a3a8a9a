"""The ledger of partitions: who holds which share of which device. Pure; times are handed in.

A share is booked in ten-thousandths of a device. A partition is `active` until its job is being
cleared, its time is over or the machine has rebooted; then it is `draining`: it still holds its
share, until somebody has proof that no process uses it and calls `release`.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from operator import attrgetter
from typing import Any

import attrs

from cumulusd.errors import Conflict, CumulusError, InsufficientResources, InternalError, NotFound

UNITS_PER_DEVICE = 10_000
VERSION = 1


class PartitionState(StrEnum):
    """`draining` holds its share as `active` does, but is on its way out."""

    ACTIVE = "active"
    DRAINING = "draining"


@attrs.frozen(kw_only=True)
class Device:
    """A device as the shares see it. What a driver says later of its size changes nothing."""

    device_id: str  #: stable identity
    index: int  #: among the worker's devices
    name: str
    kind: str  #: "gpu", "cpu" or "accelerator"
    memory_bytes: int  #: what the shares divide: the total less the reserve
    total_bytes: int | None = None  #: None: from a ledger that didn't say
    reserve_fraction: float = 0.0  #: of the total
    #: how its drivers name it, as far as they told at the last look
    uuid: str | None = None  #: OpenCL's, 32 hexadecimal digits
    pci: str | None = None  #: "0000:01:00.0"
    platform: str | None = None  #: OpenCL's
    ordinal: int | None = None  #: among the devices of equal platform and name
    cuda_uuid: str | None = None  #: NVIDIA's: "GPU-..." or, of a slice, "MIG-..."

    def seen_as(self, found: "Device", *, is_held: bool) -> "Device":
        """As it is found now, with the size that it had: another reserve counts as soon as nobody
        holds a share of it, another total never."""
        if is_held or found.total_bytes is None or not self._is_sized_otherwise(found):
            return attrs.evolve(
                found,
                memory_bytes=self.memory_bytes,
                total_bytes=self.total_bytes,
                reserve_fraction=self.reserve_fraction,
            )
        total_bytes = self.total_bytes or found.total_bytes
        memory_bytes = less_reserve(total_bytes, found.reserve_fraction)
        return attrs.evolve(found, memory_bytes=memory_bytes, total_bytes=total_bytes)

    def _is_sized_otherwise(self, found: "Device") -> bool:
        return self.total_bytes is None or self.reserve_fraction != found.reserve_fraction


@attrs.frozen(kw_only=True)
class Partition:
    """One job's share. It ends at `expires_s` on the boot-time clock of the boot `boot_id`."""

    partition_id: str
    job_id: str
    attempt: int
    device_id: str
    units: int
    gpu_memory_bytes: int
    boot_id: str
    expires_s: float
    state: PartitionState = PartitionState.ACTIVE

    def remaining_s(self, now_s: float, boot_id: str) -> float:
        """Seconds until it expires; 0 when it has, or when the machine has rebooted."""
        return max(0.0, self.expires_s - now_s) if boot_id == self.boot_id else 0.0


def less_reserve(total_bytes: int, reserve_fraction: float) -> int:
    """What the shares of a device divide."""
    return total_bytes - int(total_bytes * reserve_fraction)


def share_bytes(memory_bytes: int, units: int) -> int:
    """Bytes of a share, rounded down, so that shares together never exceed the device."""
    return memory_bytes * units // UNITS_PER_DEVICE


@attrs.frozen(kw_only=True)
class Ledger:
    """All devices ever seen and all partitions. Every change returns a new ledger."""

    devices: Mapping[str, Device] = attrs.field(factory=dict)
    #: by (job id, attempt)
    partitions: Mapping[tuple[str, int], Partition] = attrs.field(factory=dict)

    def find(self, job_id: str, attempt: int) -> Partition | None:
        """The partition of that attempt, if it has one."""
        return self.partitions.get((job_id, attempt))

    def of_job(self, job_id: str) -> list[Partition]:
        """The partitions of all attempts of a job, oldest attempt first."""
        found = [one for one in self.partitions.values() if one.job_id == job_id]
        return sorted(found, key=lambda one: one.attempt)

    def units_free(self, device_id: str) -> int:
        """Units of that device that nobody holds."""
        held = sum(one.units for one in self.partitions.values() if one.device_id == device_id)
        return UNITS_PER_DEVICE - held

    def with_devices(self, found: Mapping[str, Device]) -> "Ledger":
        """With these devices known. A device known before keeps its size, since what drivers say
        of it drifts; another reserve than before counts as soon as nobody holds a share of it."""
        held = {one.device_id for one in self.partitions.values()}
        devices = dict(self.devices)
        for device_id, device in found.items():
            known = devices.get(device_id)
            if known is not None:
                device = known.seen_as(device, is_held=device_id in held)
            devices[device_id] = device
        return attrs.evolve(self, devices=devices)

    def without_device(self, device_id: str) -> "Ledger":
        """With that device forgotten; nothing when a partition is of it."""
        if any(one.device_id == device_id for one in self.partitions.values()):
            return self
        devices = {k: one for k, one in self.devices.items() if k != device_id}
        return attrs.evolve(self, devices=devices) if device_id in self.devices else self

    def reserve(
        self,
        *,
        partition_id: str,
        job_id: str,
        attempt: int,
        device_id: str,
        units: int,
        boot_id: str,
        expires_s: float,
    ) -> tuple["Ledger", Partition]:
        """Books a share; asked again for the same job and attempt it returns the one there is.

        `units`: 1 to 10,000. Raises NotFound for an unknown device, Conflict when this attempt
        holds something else or is being cleared, InsufficientResources when the share isn't free.
        """
        there = self.find(job_id, attempt)
        if there is not None:
            return self, _same(there, device_id, units)
        device = self.devices.get(device_id)
        if device is None:
            raise NotFound(
                f"no device {device_id!r} on this worker",
                job_id=job_id,
                details={"device_id": device_id, "known": sorted(self.devices)},
                hint="ask the worker for its devices again",
            )
        if not 1 <= units <= UNITS_PER_DEVICE:
            raise ValueError(f"{units} units are no share of a device")
        free = self.units_free(device_id)
        if units > free:
            raise InsufficientResources(
                f"{units} of {UNITS_PER_DEVICE} units asked for on {device.name}, {free} are free",
                job_id=job_id,
                details={"device_id": device_id, "units": units, "units_free": free},
                hint="wait until a job there has ended, or place it elsewhere",
            )
        made = Partition(
            partition_id=partition_id,
            job_id=job_id,
            attempt=attempt,
            device_id=device_id,
            units=units,
            gpu_memory_bytes=share_bytes(device.memory_bytes, units),
            boot_id=boot_id,
            expires_s=expires_s,
        )
        return self._with(made), made

    def mark_draining(self, job_id: str, attempt: int) -> "Ledger":
        """The partition is on its way out; its share stays booked. Nothing if there is none."""
        there = self.find(job_id, attempt)
        if there is None or there.state is PartitionState.DRAINING:
            return self
        return self._with(attrs.evolve(there, state=PartitionState.DRAINING))

    def release(self, job_id: str, attempt: int) -> "Ledger":
        """The share is free. Call it only with proof that no process of the job is left."""
        key = (job_id, attempt)
        if key not in self.partitions:
            return self
        return attrs.evolve(
            self, partitions={k: one for k, one in self.partitions.items() if k != key}
        )

    def expire(self, now_s: float, boot_id: str) -> "Ledger":
        """Partitions whose time is over, or that are of an earlier boot, are draining."""
        ledger = self
        for one in self.partitions.values():
            if one.remaining_s(now_s, boot_id) == 0.0:
                ledger = ledger.mark_draining(one.job_id, one.attempt)
        return ledger

    def _with(self, partition: Partition) -> "Ledger":
        key = (partition.job_id, partition.attempt)
        return attrs.evolve(self, partitions={**self.partitions, key: partition})


def _same(there: Partition, device_id: str, units: int) -> Partition:
    what = f"attempt {there.attempt} of job {there.job_id}"
    if (there.device_id, there.units) != (device_id, units):
        raise Conflict(
            f"{what} already holds {there.units} units of {there.device_id}",
            job_id=there.job_id,
            details={"device_id": there.device_id, "units": there.units},
            hint="release it first, or ask for the same share",
        )
    if there.state is PartitionState.DRAINING:
        raise Conflict(
            f"the partition of {what} is draining",
            job_id=there.job_id,
            hint="release it and use a new attempt",
        )
    return there


class LedgerUnreadable(InternalError):
    """The ledger on disk can't be used; guessing would book shares twice."""


_PARTITION = tuple(field.name for field in attrs.fields(Partition))
_values = attrgetter(*_PARTITION)


def dump(ledger: Ledger) -> bytes:
    """The ledger as JSON, with its version. Each start and each end of a job writes all of it: not
    indented, which Python's own, slower writer would do."""
    return json.dumps(
        {
            "version": VERSION,
            "devices": [attrs.asdict(one) for one in ledger.devices.values()],
            "partitions": [
                dict(zip(_PARTITION, _values(one), strict=True))
                for one in ledger.partitions.values()
            ],
        }
    ).encode()


def load(data: bytes) -> Ledger:
    """The ledger of such JSON. Raises LedgerUnreadable, saying what is wrong."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise _unreadable(f"it is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise _unreadable("it is no JSON object")
    if value.get("version") != VERSION:
        raise _unreadable(f"its version is {value.get('version')!r}, this program reads {VERSION}")
    try:
        devices = [_device(one) for one in value["devices"]]
        partitions = [_partition(one) for one in value["partitions"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(f"a record in it is wrong: {error!r}") from None
    ledger = Ledger(
        devices={one.device_id: one for one in devices},
        partitions={(one.job_id, one.attempt): one for one in partitions},
    )
    if len(ledger.devices) != len(devices) or len(ledger.partitions) != len(partitions):
        raise _unreadable("a device or partition is in it twice")
    for one in partitions:
        if one.device_id not in ledger.devices:
            raise _unreadable(f"partition {one.partition_id} is of no known device")
    for device_id in ledger.devices:
        if ledger.units_free(device_id) < 0:
            raise _unreadable(f"more than all of device {device_id} is booked")
    return ledger


def _unreadable(why: str) -> CumulusError:
    return LedgerUnreadable(
        f"the partition ledger can't be read: {why}",
        hint="make sure that no job runs on this worker, then remove the ledger file",
    )


def _field(record: Mapping[str, Any], key: str, kind: type) -> Any:
    value = record[key]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise TypeError(f"{key} is {value!r}, not {kind.__name__}")
    if isinstance(value, int) and value < 0:
        raise ValueError(f"{key} is {value}")
    return value


def _optional(record: Mapping[str, Any], key: str, kind: type) -> Any:
    return None if record.get(key) is None else _field(record, key, kind)


def _device(record: Mapping[str, Any]) -> Device:
    return Device(
        device_id=_field(record, "device_id", str),
        index=_field(record, "index", int),
        name=_field(record, "name", str),
        kind=_field(record, "kind", str),
        memory_bytes=_field(record, "memory_bytes", int),
        total_bytes=_optional(record, "total_bytes", int),
        reserve_fraction=_optional(record, "reserve_fraction", float) or 0.0,
        uuid=_optional(record, "uuid", str),
        pci=_optional(record, "pci", str),
        platform=_optional(record, "platform", str),
        ordinal=_optional(record, "ordinal", int),
        cuda_uuid=_optional(record, "cuda_uuid", str),
    )


def _partition(record: Mapping[str, Any]) -> Partition:
    return Partition(
        partition_id=_field(record, "partition_id", str),
        job_id=_field(record, "job_id", str),
        attempt=_field(record, "attempt", int),
        device_id=_field(record, "device_id", str),
        units=_field(record, "units", int),
        gpu_memory_bytes=_field(record, "gpu_memory_bytes", int),
        boot_id=_field(record, "boot_id", str),
        expires_s=_field(record, "expires_s", float),
        state=PartitionState(_field(record, "state", str)),
    )
