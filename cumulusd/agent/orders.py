"""What the daemon asks of the agent, checked; and the runner's orders made of it. Pure."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from cumulus_wire.codes import EndReason
from cumulus_wire.outputs import MAX_FILES
from cumulusd import job_network
from cumulusd.agent.options import AgentOptions
from cumulusd.chronos.grant import Grant
from cumulusd.chronos.ledger import UNITS_PER_DEVICE
from cumulusd.errors import InvalidArgument

ORDERS_VERSION = 1
MAX_TEXT = 256
MAX_REQUIREMENTS = 1000
MAX_ENVIRONMENT_BYTES = 256 << 10
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def valid_job_id(value: object) -> bool:
    """Safe as the name of a folder."""
    return isinstance(value, str) and _JOB_ID.fullmatch(value) is not None and ".." not in value


@attrs.frozen(kw_only=True)
class PrepareOrder:
    """Arguments of `prepare`."""

    job_id: str
    attempt: int
    owner: str
    device_id: str
    units: int
    journal_start: int  #: offset at which the attempt's journal begins
    setup_timeout_s: float
    duration_s: float
    package_sha256: str
    package_size_bytes: int
    requirements: tuple[str, ...]
    environment: Mapping[str, str]
    #: more of the same, which must never be seen: not in `job.json`, nor in any log
    secrets: Mapping[str, str] = attrs.field(repr=False)
    installer_environment: Mapping[str, str]
    resumed: bool  #: it goes on after a pause
    ran_s: float  #: how long its code ran before that; `duration_s` is what is left
    needs_kept: bool  #: what it goes on from is in its kept folder here, and nowhere else

    @classmethod
    def read(cls, arguments: Mapping[str, Any], options: AgentOptions) -> "PrepareOrder":
        """Raises InvalidArgument with every fault. `cpu_cores` and `memory_bytes` are checked
        and left to the platform, which enforces them."""
        look = _Reader(arguments)
        package = look.take("package", _mapping)
        inner = _Reader(package or {}, prefix="package.")
        order = cls(
            job_id=look.take("job_id", _job_id),
            attempt=look.take("attempt", _attempt),
            owner=look.take("owner", _text),
            device_id=look.take("device_id", _text),
            units=look.take("units", _units),
            journal_start=look.take("journal_start", _offset, default=0),
            setup_timeout_s=look.take("setup_timeout_s", _seconds),
            duration_s=look.take("duration_s", _seconds),
            package_sha256=inner.take("sha256", _sha256),
            package_size_bytes=inner.take("size_bytes", _size(options.package_max_bytes)),
            requirements=look.take("requirements", _requirements, default=()),
            environment=look.take("environment", _environment, default={}),
            secrets=look.take("secrets", _environment, default={}),
            installer_environment=look.take("installer_environment", _environment, default={}),
            resumed=look.take("resumed", _flag, default=False),
            ran_s=look.take("ran_s", _grace, default=0.0),
            needs_kept=look.take("needs_kept", _flag, default=False),
        )
        look.take("cpu_cores", _positive, default=None)
        look.take("memory_bytes", _positive, default=None)
        faults = look.unknown() + (inner.unknown() if package is not None else look.faults)
        raise_faults(faults, order.job_id)
        return order


@attrs.frozen(kw_only=True)
class ReleaseOrder:
    """Arguments of `release`."""

    job_id: str
    attempt: int
    keep: bool  #: its kept folder stays

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> "ReleaseOrder":
        """Raises InvalidArgument with every fault."""
        look = _Reader(arguments)
        order = cls(
            job_id=look.take("job_id", _job_id),
            attempt=look.take("attempt", _attempt),
            keep=look.take("keep", _flag, default=False),
        )
        raise_faults(look.unknown(), order.job_id)
        return order


@attrs.frozen(kw_only=True)
class PauseOrder:
    """Arguments of the `command` "pause"."""

    job_id: str
    attempt: int
    wanted: bool  #: the code is to pause; else it is to go on after all

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> "PauseOrder":
        """Raises InvalidArgument with every fault."""
        look = _Reader(arguments)
        look.take("command", _one_of("pause"))
        order = cls(
            job_id=look.take("job_id", _job_id),
            attempt=look.take("attempt", _attempt),
            wanted=look.take("wanted", _flag),
        )
        raise_faults(look.unknown(), order.job_id)
        return order


@attrs.frozen(kw_only=True)
class StopOrder:
    """Arguments of the `command` "stop"."""

    job_id: str
    attempt: int
    reason: EndReason
    grace_s: float

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> "StopOrder":
        """Raises InvalidArgument with every fault."""
        look = _Reader(arguments)
        look.take("command", _one_of("stop", "pause"))
        order = cls(
            job_id=look.take("job_id", _job_id),
            attempt=look.take("attempt", _attempt),
            reason=look.take("reason", EndReason),
            grace_s=look.take("grace_s", _grace),
        )
        raise_faults(look.unknown(), order.job_id)
        return order


@attrs.frozen(kw_only=True)
class LastMoment:
    """When a runner ends whatever it does, and before which it must have begun."""

    boot_id: str
    seconds: float  #: since that boot


def refuse_arguments(arguments: Mapping[str, Any]) -> None:
    """For verbs that take none. Raises InvalidArgument."""
    raise_faults(_Reader(arguments).unknown(), None)


def runner_orders(
    order: PrepareOrder,
    grant: Grant,
    environments: str,
    kept: str,
    options: AgentOptions,
    ca_bundle: str | None,
    last_moment: LastMoment,
) -> dict[str, Any]:
    """The content of `job.json`. The grant's variables win over the user's; those of the CA bundle
    don't."""
    network = job_network.certificates(ca_bundle)
    return {
        "version": ORDERS_VERSION,
        "job_id": order.job_id,
        "attempt": order.attempt,
        "journal_start": order.journal_start,
        "boot_id": last_moment.boot_id,
        "last_moment_s": last_moment.seconds,
        "owner": order.owner,
        "setup_timeout_s": order.setup_timeout_s,
        "duration_s": order.duration_s,
        "resumed": order.resumed,
        "ran_s": order.ran_s,
        "kept": kept,
        "partition_id": grant.partition.partition_id,
        "device_index": grant.device.index,
        "stop_grace_s": options.stop_grace_s,
        "requirements": list(order.requirements),
        "environment": {**network, **order.environment, **grant.environment},
        "secrets": sorted(order.secrets),
        "tier": grant.tier.value,
        "opencl_layer": grant.opencl,
        "python": options.job_python,
        "uv": options.uv,
        "environments": environments,
        "installer_environment": {
            **network,
            **options.installer_environment,
            **order.installer_environment,
        },
        "package_max_bytes": options.package_max_bytes,
        "package_max_files": options.package_max_files,
        "outputs_max_bytes": options.outputs_max_bytes,
        "outputs_max_files": MAX_FILES,
        "journal_max_bytes": options.journal_max_bytes,
        "segment_bytes": options.segment_bytes,
    }


def grant_answer(
    grant: Grant,
    folder: str,
    environments: str,
    kept: str,
    ca_bundle: str | None,
    lifetime_s: float,
) -> dict[str, Any]:
    """The grant as `docs/protocol.md` has it. Mounts stand under the same paths inside the
    container, so that `job.json` holds for both."""
    mounts = [[folder, folder, False], [environments, environments, False], [kept, kept, False]]
    if ca_bundle is not None:
        mounts.append([ca_bundle, ca_bundle, True])
    mounts += [[source, target, read_only] for source, target, read_only in grant.mounts]
    return {
        "partition_id": grant.partition.partition_id,
        "device_id": grant.device.device_id,
        "device_name": grant.device.name,
        "device_index": grant.device.index,
        "units": grant.partition.units,
        "gpu_memory_bytes": grant.partition.gpu_memory_bytes,
        "tier": grant.tier.value,
        "tier_note": grant.tier_note,
        "folder": folder,
        "environment": {**job_network.certificates(ca_bundle), **grant.environment},
        "mounts": mounts,
        "lifetime_s": lifetime_s,
    }


def raise_faults(faults: list[dict[str, str]], job_id: str | None) -> None:
    """Raises InvalidArgument if there are any."""
    if faults:
        words = "; ".join(f"{one['key']}: {one['message']}" for one in faults)
        raise InvalidArgument(
            f"the agent was asked for something it can't do: {words}",
            job_id=job_id if valid_job_id(job_id) else None,
            details={"faults": faults},
            hint="are daemon and agent of the same version?",
        )


class _Reader:
    """Takes keys out of arguments and gathers what is wrong with them."""

    def __init__(self, arguments: Mapping[str, Any], prefix: str = "") -> None:
        self._left = dict(arguments)
        self._prefix = prefix
        self.faults: list[dict[str, str]] = []

    def take(self, key: str, check: Callable[[Any], Any], **default: Any) -> Any:
        """The checked value; None, with a fault noted, when it is wrong or missing."""
        if self._left.get(key) is None and "default" in default:
            self._left.pop(key, None)
            return default["default"]
        if key not in self._left:
            return self._fault(key, "is missing")
        try:
            return check(self._left.pop(key))
        except (ValueError, TypeError) as error:
            return self._fault(key, str(error))

    def unknown(self) -> list[dict[str, str]]:
        """All faults, those of unknown keys too."""
        for key in self._left:
            self._fault(str(key)[:MAX_TEXT], "is not known")
        self._left.clear()
        return self.faults

    def _fault(self, key: str, message: str) -> None:
        self.faults.append({"key": self._prefix + key, "message": message})


def _job_id(value: Any) -> str:
    if not valid_job_id(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, '_', '.', '-', beginning with a letter or digit, "
            "without '..'"
        )
    return str(value)


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"must be a whole number from {low} to {high}")
    return value


def _attempt(value: Any) -> int:
    return _integer(value, 1, 1 << 31)


def _offset(value: Any) -> int:
    return _integer(value, 0, 1 << 62)


def _units(value: Any) -> int:
    return _integer(value, 1, UNITS_PER_DEVICE)


def _size(most: int) -> Callable[[Any], int]:
    return lambda value: _integer(value, 1, most)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or "\0" in value:
        raise ValueError(f"must be a text of 1 to {MAX_TEXT} characters")
    return value


def _positive(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise ValueError("must be a number over 0")
    return float(value)


_seconds = _positive


def _grace(value: Any) -> float:
    return 0.0 if value == 0 and type(value) in (int, float) else _positive(value)


def _one_of(*words: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value not in words:
            raise ValueError(f"must be {' or '.join(repr(word) for word in words)}")
        return value

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("must be an object")
    return value


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise ValueError("must be 64 hexadecimal digits")
    return value


def _requirements(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_REQUIREMENTS:
        raise ValueError(f"must be a list of at most {MAX_REQUIREMENTS} texts")
    for one in value:
        if not isinstance(one, str) or len(one) > 4096 or "\0" in one:
            raise ValueError("must be a list of texts of at most 4096 characters")
    return tuple(value)


def _environment(value: Any) -> Mapping[str, str]:
    total = 0
    for name, text in _mapping(value).items():
        if not isinstance(name, str) or _VARIABLE.fullmatch(name) is None:
            raise ValueError(f"{str(name)[:MAX_TEXT]!r} is no name of a variable")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"the value of {name[:MAX_TEXT]} is no text without NUL")
        total += len(name) + len(text.encode(errors="surrogatepass"))
    if total > MAX_ENVIRONMENT_BYTES:
        raise ValueError(f"is over {MAX_ENVIRONMENT_BYTES} bytes")
    return dict(value)
