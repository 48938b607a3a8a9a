"""The versions of a job record: what changed from each to the next. Pure.

A field of `cumulusd.jobs.model` that is added, renamed or dropped makes a new version:

1. write its upgrade below and append it to `UPGRADES`, which raises `VERSION`;
2. set the field in `tests/unit/jobs/job_values.py::full_record`;
3. add the golden file `tests/unit/jobs/golden/record_v<N>.json`; those of older versions stay as
   they are (`python tests/unit/jobs/golden_files.py` writes the newest one).
"""

from collections.abc import Callable
from typing import Any

#: Takes the body of a record (without `version`), returns that of the next version.
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


def _with_attempts(body: dict[str, Any]) -> dict[str, Any]:
    """1 to 2: jobs may be tried again, and an end tells the last of the output."""
    body = {**body, "attempts": [], "journal_start": 0, "queued_at": None}
    for part, field, value in (
        ("spec", "retries", 0),
        ("grant", "lifetime_s", None),
        ("end", "log_tail", None),
    ):
        if isinstance(body.get(part), dict):
            body[part] = {**body[part], field: value}
    return body


def _with_fate(body: dict[str, Any]) -> dict[str, Any]:
    """2 to 3: what befell the worker outlives the daemon that saw it."""
    return {**body, "fate": {"drained": False, "down": False}}


def _with_pauses(body: dict[str, Any]) -> dict[str, Any]:
    """3 to 4: jobs can be paused, need a Python version and secrets, and leave outputs."""
    body = {
        **body,
        "pause_requested": False,
        "pauses": 0,
        "checkpoints": [],
        "pinned_node": None,
        "ran_s": 0.0,
        "paused_at": None,
    }
    added: dict[str, dict[str, Any]] = {
        "spec": {"needs_python": None, "secret_names": []},
        "end": {"outputs": [], "outputs_note": None},
    }
    for part, fields in added.items():
        if isinstance(body.get(part), dict):
            body[part] = {**body[part], **fields}
    return body


#: `UPGRADES[n - 1]` brings a record of version n to version n + 1.
UPGRADES: tuple[Upgrade, ...] = (_with_attempts, _with_fate, _with_pauses)

VERSION = 1 + len(UPGRADES)


def upgraded(body: dict[str, Any], version: int) -> dict[str, Any]:
    """The body of a record of that version, 1 to `VERSION`, as one of `VERSION`."""
    for upgrade in UPGRADES[version - 1 :]:
        body = upgrade(body)
    return body
