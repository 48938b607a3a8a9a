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


def _with_moments(body: dict[str, Any]) -> dict[str, Any]:
    """4 to 5: when the job came to each stage; of older jobs what other fields tell."""
    attempt, created_at = body["attempt"], body["created_at"]
    told = [("queued", body["queued_at"], attempt)] if body["queued_at"] is not None else []
    told += [
        (stage, body[field], attempt)
        for stage, field in (("setup", "setup_at"), ("running", "started_at"))
        if body[field] is not None
    ]
    if body["phase"] == "paused" and body["paused_at"] is not None:
        told.append(("paused", body["paused_at"], attempt))
    if body["ended_at"] is not None:
        told.append(("ended" if body["phase"] == "ended" else "ending", body["ended_at"], attempt))
    moments = [{"stage": "queued", "at": created_at, "attempt": 1}]
    for stage, at, which in told:
        at = max(at, moments[-1]["at"])
        moments.append({"stage": stage, "at": at, "attempt": which})
    return {**body, "moments": moments}


#: `UPGRADES[n - 1]` brings a record of version n to version n + 1.
UPGRADES: tuple[Upgrade, ...] = (_with_attempts, _with_fate, _with_pauses, _with_moments)

VERSION = 1 + len(UPGRADES)


def upgraded(body: dict[str, Any], version: int) -> dict[str, Any]:
    """The body of a record of that version, 1 to `VERSION`, as one of `VERSION`."""
    for upgrade in UPGRADES[version - 1 :]:
        body = upgrade(body)
    return body
