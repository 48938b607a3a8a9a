"""A job as HTTP brings it, to the specification of docs/protocol.md. Pure: no I/O.

An old client sends `code`, `job_id`, `gpu_memory` and `duration`; every other field of the
specification may be sent too, in a form as text.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

#: What the old SDK's calls mean when they don't say.
DEFAULTS = {"gpu_memory": 0.5, "duration_s": 3600.0}
#: Old names of the specification's fields.
_ALIASES = {"duration": "duration_s"}


@attrs.frozen(kw_only=True)
class PostedJob:
    """What was asked for; `spec` may be anything, it isn't checked yet."""

    spec: dict[str, Any]
    job_id: Any = None
    faults: tuple[Mapping[str, str], ...] = ()


def of_form(fields: Mapping[str, str], faults: list[dict[str, str]]) -> PostedJob:
    """From a form's fields; `faults` are those that it has already."""
    spec: dict[str, Any] = dict(DEFAULTS)
    found = list(faults)
    for field, text in fields.items():
        if field == "job_id":
            continue
        key = _ALIASES.get(field, field)
        try:
            spec[key] = _READERS[key](text)
        except ValueError as error:
            found.append({"key": field, "message": str(error)})
    return PostedJob(spec=spec, job_id=fields.get("job_id"), faults=tuple(found))


def of_json(value: Mapping[str, Any]) -> PostedJob:
    """From a JSON object: the specification's fields, and `job_id`."""
    spec: dict[str, Any] = dict(DEFAULTS)
    faults = []
    for field, item in value.items():
        key = _ALIASES.get(field, field)
        if key != field and key in value:
            faults.append({"key": field, "message": f"is another name of {key}, given too"})
        elif field != "job_id":
            spec[key] = item
    return PostedJob(spec=spec, job_id=value.get("job_id"), faults=tuple(faults))


def _number(text: str) -> float | None:
    if text.strip().lower() in ("", "null", "none"):
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"must be a number, got {_shown(text)}")
    return number


def _whole(text: str) -> int | None:
    if text.strip().lower() in ("", "null", "none"):
        return None
    try:
        return int(text[:100])
    except ValueError:
        raise ValueError(f"must be a whole number, got {_shown(text)}") from None


def _requirements(text: str) -> Any:
    """A JSON list, or one requirement a line."""
    if text.lstrip().startswith("["):
        return _json(text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("must be JSON") from None  # its values may be secrets


def _text(text: str) -> str:
    return text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


_READERS: dict[str, Callable[[str], Any]] = {
    "gpu_memory": _number,
    "duration_s": _number,
    "setup_timeout_s": _number,
    "queue_timeout_s": _number,
    "cpu_cores": _number,
    "memory_bytes": _whole,
    "priority": _whole,
    "retries": _whole,
    "name": _text,
    "python_version": _text,
    "needs_python": _text,
    "idempotency_key": _text,
    "requirements": _requirements,
    "environment": _json,
    "secrets": _json,
}

#: The fields of a form, beside the file.
FIELDS = frozenset({"job_id", *_READERS, *_ALIASES})
FILE_FIELD = "code"
