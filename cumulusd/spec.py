"""Validates what a submit asks for. Every fault is reported at once, with its key."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import attrs
import pydantic
from pydantic import Field, StringConstraints

from cumulus_wire.variables import is_protected
from cumulusd.errors import InvalidArgument, TooLarge
from cumulusd.jobs.model import JobSpec

#: Further attempts that a job may ask for.
MAX_RETRIES = 100
#: What is said of a variable that jobs may not set, see docs/gpu.md.
_PROTECTED = (
    "can't be set by a job: it could loosen what holds the job to its share of the device; the "
    "worker sets what is needed"
)
#: Bounds on secrets: how many, how large each and all of them.
MAX_SECRETS = 100
MAX_SECRET_BYTES = 64 << 10
MAX_SECRETS_BYTES = 128 << 10
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@attrs.frozen(kw_only=True)
class SpecLimits:
    """What the operator allows a job to ask for."""

    max_duration_s: float = 30 * 24 * 3600.0
    max_setup_timeout_s: float = 24 * 3600.0
    package_max_bytes: int = 2 << 30
    #: for jobs that don't say; None waits for ever
    default_queue_timeout_s: float | None = None


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Package(_Strict):
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=1)]


#: JSON knows one kind of number: 3600 is as good as 3600.0.
_Number = Annotated[float, Field(strict=False)]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Spec(_Strict):
    package: _Package
    gpu_memory: Annotated[_Number, Field(gt=0, le=1)]
    duration_s: Annotated[_Number, Field(gt=0)]
    requirements: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=1000)]],
        Field(max_length=1000, default_factory=list),
    ]
    setup_timeout_s: Annotated[_Number, Field(gt=0)] = 600.0
    queue_timeout_s: Annotated[_Number, Field(ge=0)] | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    name: _Text | None = None
    environment: Annotated[
        dict[str, Annotated[str, StringConstraints(max_length=128 * 1024)]],
        Field(max_length=500, default_factory=dict),
    ]
    cpu_cores: Annotated[_Number, Field(gt=0, le=4096)] | None = None
    memory_bytes: Annotated[int, Field(ge=16 << 20)] | None = None
    python_version: (
        Annotated[str, StringConstraints(pattern=r"^\d+\.\d+(\.\d+)?\S{0,20}$")] | None
    ) = None
    #: holds code pickled for this minor version of Python
    needs_python: Annotated[str, StringConstraints(pattern=r"^\d{1,3}\.\d{1,3}$")] | None = None
    idempotency_key: _Text | None = None
    retries: Annotated[int, Field(ge=0, le=MAX_RETRIES)] = 0
    #: Checked by `_secret_faults`: what pydantic says of a value may quote it.
    secrets: Any = None


def parse_spec(value: Any, limits: SpecLimits) -> JobSpec:
    """A specification as docs/protocol.md describes it, checked.

    Raises InvalidArgument with `details["faults"]`, a list of {"key", "message"}; TooLarge.
    """
    if not isinstance(value, Mapping):
        raise invalid_spec([{"key": "spec", "message": "must be an object with the job's fields"}])
    faults: list[dict[str, str]] = []
    spec: _Spec | None = None
    try:
        spec = _Spec.model_validate(dict(value))
    except pydantic.ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False):
            key = ".".join(str(part) for part in fault["loc"]) or "spec"
            faults.append({"key": key, "message": _words(fault)})
    faults.extend(_beyond(value, limits))
    if faults or spec is None:
        raise invalid_spec(faults)
    if spec.package.size_bytes > limits.package_max_bytes:
        raise TooLarge(
            f"package: {spec.package.size_bytes} bytes are over the limit of"
            f" {limits.package_max_bytes}",
            hint="leave data out of the package and fetch it inside the job",
        )
    return JobSpec(
        package_sha256=spec.package.sha256,
        package_size_bytes=spec.package.size_bytes,
        gpu_memory=spec.gpu_memory,
        duration_s=spec.duration_s,
        requirements=tuple(spec.requirements),
        setup_timeout_s=spec.setup_timeout_s,
        queue_timeout_s=spec.queue_timeout_s
        if "queue_timeout_s" in spec.model_fields_set
        else limits.default_queue_timeout_s,
        priority=spec.priority,
        name=spec.name,
        environment=dict(spec.environment),
        cpu_cores=spec.cpu_cores,
        memory_bytes=spec.memory_bytes,
        python_version=spec.python_version,
        needs_python=spec.needs_python,
        idempotency_key=spec.idempotency_key,
        retries=spec.retries,
        secret_names=tuple(sorted(secret_values(value))),
    )


def secret_values(value: Mapping[str, Any]) -> dict[str, str]:
    """The secrets of a specification that was checked: in no `JobSpec`, nor to be logged."""
    return dict(value.get("secrets") or {})


def _beyond(value: Mapping[str, Any], limits: SpecLimits) -> list[dict[str, str]]:
    """Faults that a type alone doesn't show."""
    faults = []
    for key, bound in (
        ("duration_s", limits.max_duration_s),
        ("setup_timeout_s", limits.max_setup_timeout_s),
    ):
        asked = value.get(key)
        if isinstance(asked, int | float) and asked > bound:
            faults.append({"key": key, "message": f"at most {bound:g} s are allowed here"})
    for number, line in enumerate(_strings(value.get("requirements"))):
        if any(sign in line for sign in "\r\n\0"):
            key = f"requirements.{number}"
            faults.append({"key": key, "message": "must be one line"})
        elif line.lstrip().startswith("-"):
            # A line such as `--index-url` or `-e` would steer the installer, not name a package.
            key = f"requirements.{number}"
            faults.append({"key": key, "message": "must be a requirement, not an option"})
    environment = value.get("environment")
    for name, text in environment.items() if isinstance(environment, Mapping) else ():
        if not _ENVIRONMENT_NAME.match(str(name)) or (isinstance(text, str) and "\0" in text):
            faults.append({"key": f"environment.{name}", "message": "is no environment variable"})
        elif is_protected(str(name)):
            faults.append({"key": f"environment.{name}", "message": _PROTECTED})
    return faults + _secret_faults(value.get("secrets"), environment)


def _secret_faults(secrets: Any, environment: Any) -> list[dict[str, str]]:
    """What is wrong with secrets, without a word of their values."""
    if secrets is None:
        return []
    if not isinstance(secrets, Mapping):
        return [{"key": "secrets", "message": "must be an object of names and texts"}]
    if len(secrets) > MAX_SECRETS:
        return [{"key": "secrets", "message": f"at most {MAX_SECRETS} are allowed"}]
    faults = []
    total = 0
    for number, (name, text) in enumerate(secrets.items(), 1):
        if not isinstance(name, str) or not _ENVIRONMENT_NAME.match(name) or len(name) > 256:
            # It isn't shown: whoever mixed up name and value would find the value in a log.
            message = f"number {number} has no name of an environment variable"
            faults.append({"key": "secrets", "message": message})
            continue
        size = _utf8_bytes(text)
        total += len(name) + size
        if is_protected(name):
            message = _PROTECTED
        elif isinstance(environment, Mapping) and name in environment:
            message = "is in environment too"
        elif size < 0:
            message = "must be a text without NUL"
        elif size > MAX_SECRET_BYTES:
            message = f"at most {MAX_SECRET_BYTES} bytes are allowed"
        else:
            continue
        faults.append({"key": f"secrets.{name}", "message": message})
    if total > MAX_SECRETS_BYTES:
        faults.append(
            {"key": "secrets", "message": f"at most {MAX_SECRETS_BYTES} bytes are allowed in all"}
        )
    return faults


def _utf8_bytes(text: Any) -> int:
    """-1: it is none that a variable could have."""
    if not isinstance(text, str) or "\0" in text:
        return -1
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _words(fault: Mapping[str, Any]) -> str:
    given = fault.get("input")
    text = str(fault["msg"]).removeprefix("Input ")
    if fault["type"] == "missing":
        return "is required"
    if fault["type"] == "extra_forbidden":
        return "is no field of a job specification"
    if "environment" in fault["loc"]:
        return text  # its value may be a secret
    shown = repr(given)
    return f"{text}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"


def invalid_spec(faults: Sequence[Mapping[str, str]]) -> InvalidArgument:
    """The error that tells all of these, each a {"key", "message"}."""
    words = "; ".join(f"{fault['key']}: {fault['message']}" for fault in faults)
    return InvalidArgument(
        f"The job specification is invalid: {words}",
        details={"faults": list(faults)},
        hint="gpu_memory is a share of one device, not GiB: 0.5 is half of it (0 < x <= 1); "
        "durations are seconds",
    )
