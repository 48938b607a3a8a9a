"""The runner's orders, `job.json`, read and checked."""

from __future__ import annotations

import os

from cumulus_wire import folder
from cumulus_wire.light_json import loads
from cumulus_wire.outputs import MAX_FILES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VERSION = 1
MAX_ORDERS_BYTES = 16 << 20


class OrdersInvalid(ValueError):
    """`job.json` is missing or is no orders; the message names every fault."""


class Orders:
    """What is to be run, and within which bounds. See docs/protocol.md, section 3."""

    __slots__ = (
        "attempt",
        "boot_id",
        "device_index",
        "duration_s",
        "environment",
        "environments",
        "installer_environment",
        "job_id",
        "journal_max_bytes",
        "journal_start",
        "kept",
        "last_moment_s",
        "opencl_layer",
        "outputs_max_bytes",
        "outputs_max_files",
        "owner",
        "package_max_bytes",
        "package_max_files",
        "partition_id",
        "python",
        "ran_s",
        "requirements",
        "resumed",
        "secrets",
        "segment_bytes",
        "setup_timeout_s",
        "stop_grace_s",
        "uv",
    )

    def __init__(self, value: Mapping[str, Any]) -> None:
        """`value`: the parsed JSON. Unknown keys are ignored. Raises OrdersInvalid."""
        faults: list[str] = []
        read = _Reader(value, faults)
        if value.get("version") != VERSION:
            faults.append(f"version is {value.get('version')!r}, this runner knows {VERSION}")
        self.job_id = read.text("job_id")
        self.attempt = read.count("attempt", 1)
        self.owner = read.text("owner")
        self.setup_timeout_s = read.seconds("setup_timeout_s", None)
        self.duration_s = read.seconds("duration_s", None)
        self.stop_grace_s = read.seconds("stop_grace_s", 5.0)
        self.requirements = read.texts("requirements")
        self.environment = read.table("environment")
        #: Names of variables whose values are in a file of their own.
        self.secrets = read.texts("secrets")
        self.installer_environment = read.table("installer_environment")
        self.python = read.optional_text("python")
        self.uv = read.optional_text("uv")
        self.environments = read.optional_text("environments")
        self.package_max_bytes = read.count("package_max_bytes", 1)
        self.package_max_files = read.count("package_max_files", 1)
        self.journal_start = read.count("journal_start", 0, 0)
        #: After this second of that boot nothing of the job may run here, whatever it is at.
        self.boot_id = read.optional_text("boot_id")
        self.last_moment_s = read.seconds("last_moment_s", 1e11)
        #: The job's folder that outlives the attempt, with checkpoints, artifacts and outputs.
        self.kept = read.optional_text("kept")
        self.outputs_max_bytes = read.count("outputs_max_bytes", 0, 2 << 30)
        self.outputs_max_files = read.count("outputs_max_files", 0, MAX_FILES)
        self.resumed = read.flag("resumed", False)
        self.ran_s = read.seconds("ran_s", 0.0)  #: of attempts before, beside `duration_s`
        self.partition_id = read.optional_text("partition_id")
        self.device_index = read.count("device_index", 0, 0)
        self.journal_max_bytes = read.count("journal_max_bytes", 1)
        self.segment_bytes = read.count("segment_bytes", 1)
        #: Is the OpenCL layer to be in force? Then nothing runs before that is proven.
        self.opencl_layer = read.flag("opencl_layer", False)
        if faults:
            raise OrdersInvalid("; ".join(faults))

    @classmethod
    def load(cls, job_folder: str) -> Orders:
        """The orders in that folder. Raises OrdersInvalid."""
        path = os.path.join(job_folder, folder.ORDERS)
        try:
            with open(path, "rb") as file:
                text = file.read(MAX_ORDERS_BYTES + 1)
            if len(text) > MAX_ORDERS_BYTES:
                raise OrdersInvalid(f"{path} is over {MAX_ORDERS_BYTES} bytes")
            value = loads(text)
        except OSError as error:
            raise OrdersInvalid(f"{path} can't be read: {error.strerror}") from error
        except ValueError as error:
            raise OrdersInvalid(f"{path} is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise OrdersInvalid(f"{path} holds no JSON object")
        try:
            return cls(value)
        except OrdersInvalid as error:
            raise OrdersInvalid(f"{path}: {error}") from None


class _Reader:
    """Takes typed values out of a mapping and notes what is wrong with them."""

    def __init__(self, value: Mapping[str, Any], faults: list[str]) -> None:
        self._value = value
        self._faults = faults

    def text(self, key: str) -> str:
        value = self._value.get(key)
        if isinstance(value, str) and value:
            return value
        self._faults.append(f"{key} is no text")
        return ""

    def optional_text(self, key: str) -> str | None:
        return None if self._value.get(key) is None else self.text(key)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value.get(key, default)
        if isinstance(value, bool):
            return value
        self._faults.append(f"{key} is neither true nor false")
        return default

    def count(self, key: str, minimum: int, default: int | None = None) -> int:
        value = self._value.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        self._faults.append(f"{key} is no whole number of at least {minimum}")
        return minimum

    def seconds(self, key: str, default: float | None) -> float:
        value = self._value.get(key, default)
        # The upper bound refuses NaN and infinity too.
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12:
            return float(value)
        self._faults.append(f"{key} is no number of seconds")
        return 0.0

    def texts(self, key: str) -> list[str]:
        value = self._value.get(key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        self._faults.append(f"{key} is no list of texts")
        return []

    def table(self, key: str) -> dict[str, str]:
        value = self._value.get(key, {})
        if isinstance(value, dict) and all(
            isinstance(item, str) and name and "=" not in name and "\0" not in name + item
            for name, item in value.items()
        ):
            return value
        self._faults.append(f"{key} is no table of environment variables")
        return {}
