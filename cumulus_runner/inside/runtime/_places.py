"""Where things are and what is configured: the environment, read when asked. Outside of a job
everything lies below the current directory."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

CONTROL: Final = "CUMULUS_CONTROL_DIR"
#: The daemon shows no more of a job's checkpoints than that.
MAX_KEPT = 20
DEFAULT_KEPT = 5
DEFAULT_EVERY_STEPS = 100
_FALSE = ("", "0", "false", "no", "off")


def job_dir() -> str:
    """The folder with the job's code; outside of a job the current directory."""
    return os.environ.get("CUMULUS_JOB_DIR") or os.getcwd()


def job_id() -> str | None:
    """The job's id; None outside of a job."""
    return os.environ.get("CUMULUS_JOB_ID") or None


def output_dir() -> str:
    """The folder whose files can be downloaded when the job has ended; made if need be."""
    return _made("CUMULUS_OUTPUT_DIR", "outputs")


def artifact_dir() -> str:
    """The folder of artifacts, which lives as long as the job; made if need be."""
    return _made("CUMULUS_ARTIFACT_DIR", "artifacts")


def checkpoint_dir() -> str:
    """The folder of checkpoints, which outlives pauses; made if need be. Outside of a job
    CUMULUS_LOCAL_CACHE_DIR may name another."""
    if not os.environ.get("CUMULUS_CHECKPOINT_DIR"):
        return _made("CUMULUS_LOCAL_CACHE_DIR", "checkpoints")
    return _made("CUMULUS_CHECKPOINT_DIR", "checkpoints")


def control_dir() -> str | None:
    """Where runner and code talk; None outside of a job."""
    return os.environ.get(CONTROL) or None


def keep_checkpoints() -> int:
    """How many checkpoints are kept, from CUMULUS_KEEP_CHECKPOINTS."""
    return min(MAX_KEPT, max(1, _integer("CUMULUS_KEEP_CHECKPOINTS", DEFAULT_KEPT)))


def checkpoint_bytes_limit() -> float | None:
    """Most bytes that local checkpoints may take, from CUMULUS_CACHE_SIZE_LIMIT_GB."""
    limit = _number("CUMULUS_CACHE_SIZE_LIMIT_GB", 0.0)
    return limit * 1e9 if limit > 0 else None


def cleans_up() -> bool:
    """CUMULUS_AUTO_CLEANUP: does a new checkpoint take the place of old ones?"""
    return flag("CUMULUS_AUTO_CLEANUP", True)


def every_steps() -> int:
    """Steps between automatic checkpoints."""
    steps = _integer("CUMULUS_CHECKPOINT_EVERY_STEPS", DEFAULT_EVERY_STEPS)
    return steps if steps > 0 else DEFAULT_EVERY_STEPS


def every_seconds() -> float:
    """Seconds between automatic checkpoints; 0: only steps count."""
    return max(0.0, _number("CUMULUS_CHECKPOINT_EVERY_SECONDS", 0.0))


def flag(name: str, default: bool) -> bool:
    """A variable that says yes or no."""
    value = os.environ.get(name)
    return default if value is None else value.strip().lower() not in _FALSE


def _integer(name: str, default: int) -> int:
    return int(_number(name, default))


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e15:  # nor NaN
        raise ValueError(f"the environment variable {name} must be a number, it is {text!r}")
    return value


def _made(variable: str, name: str) -> str:
    path = os.environ.get(variable) or os.path.join(os.getcwd(), name)
    os.makedirs(path, exist_ok=True)
    return path
