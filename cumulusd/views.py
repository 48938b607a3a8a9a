"""Jobs and workers as clients see them: records to plain dicts. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from cumulusd.jobs.model import EndedAttempt, Grant, JobRecord
from cumulusd.jobs.ports import AgentView, Disagreement, Node

#: A view names at most so many ended attempts, the last ones.
MAX_SHOWN_ATTEMPTS = 20

_SHOWN_OF_PARTITIONS = ("partition_id", "units", "gpu_memory_bytes", "remaining_s", "state")


def job_view(
    record: JobRecord,
    journal: tuple[int, int],
    progress: Mapping[str, Any] | None = None,
    in_listing: bool = False,
) -> dict[str, Any]:
    """The job view of docs/protocol.md. `journal`: (start offset, end offset) of what is kept.
    `progress`: the code's last word on that."""
    end = record.end
    return {
        "job_id": record.job_id,
        "name": record.spec.name,
        "owner": record.owner,
        "status": record.state.value,
        "phase": record.phase.value,
        "wait": None
        if record.wait is None
        else {
            "reason": record.wait.reason.value,
            "message": record.wait.message,
            "details": dict(record.wait.details),
        },
        "attempt": record.attempt,
        "retries": record.spec.retries,
        "attempts": [_attempt(over) for over in record.attempts[-MAX_SHOWN_ATTEMPTS:]],
        "created_at": record.created_at,
        "started_at": record.started_at,
        "completed_at": record.ended_at,
        "timeline": None
        if in_listing
        else [{"phase": m.stage.value, "at": m.at, "attempt": m.attempt} for m in record.moments],
        "pause_requested": record.pause_requested,
        "paused_at": record.paused_at,
        "ran_s": record.ran_s,
        "checkpoint_count": len(record.checkpoints),
        "checkpoints": None if in_listing else [attrs.asdict(one) for one in record.checkpoints],
        "secret_names": list(record.spec.secret_names),
        "gpu_memory": record.spec.gpu_memory,
        "duration_s": record.spec.duration_s,
        "units": record.spec.units,
        "worker": None
        if record.placement is None
        else {"node_id": record.placement.node_id, "hostname": record.placement.hostname},
        "partition": None if record.grant is None else _partition(record.grant),
        "partition_id": None if record.grant is None else record.grant.partition_id,
        "journal": {
            "start_offset": journal[0],
            "end_offset": journal[1],
            # The cap on one journal keeps its head: only history takes it.
            "pruned": journal[0] > 0,
        },
        "progress": None if progress is None else dict(progress),
        "end": None
        if end is None
        else {
            "reason": None if end.reason is None else end.reason.value,
            "message": end.message,
            "hint": end.hint,
            "exit_code": end.exit_code,
            "signal": end.signal,
            "error": None if end.error is None else dict(end.error),
            "result": None if end.result is None else attrs.asdict(end.result),
            "log_tail": None if in_listing else end.log_tail,
            "outputs": None if in_listing else [attrs.asdict(info) for info in end.outputs],
            "output_count": len(end.outputs),
            "outputs_note": end.outputs_note,
        },
        "error": end.message if end is not None and end.reason is not None else None,
    }


def _attempt(over: EndedAttempt) -> dict[str, Any]:
    return {
        "attempt": over.attempt,
        "reason": over.reason.value,
        "message": over.message,
        "worker": None
        if over.node_id is None
        else {"node_id": over.node_id, "hostname": over.hostname},
        "started_at": over.started_at,
        "ended_at": over.ended_at,
    }


def _partition(grant: Grant) -> dict[str, Any]:
    return {
        "partition_id": grant.partition_id,
        "device_id": grant.device_id,
        "device_name": grant.device_name,
        "device_index": grant.device_index,
        "units": grant.units,
        "gpu_memory_bytes": grant.gpu_memory_bytes,
        "tier": grant.tier,
        "tier_note": grant.tier_note,
    }


def worker_views(
    nodes: Iterable[Node],
    agents: Mapping[str, AgentView],
    disagreements: Iterable[Disagreement] = (),
    image_python: str | None = None,
) -> Sequence[dict[str, Any]]:
    """The workers as platform and agents report them, and where these disagree. `image_python`:
    the version of Python in the job image."""
    told: dict[str, list[str]] = {}
    for one in disagreements:
        told.setdefault(one.node_id, []).append(one.message)
    views = []
    for node in nodes:
        if not node.is_worker:
            continue
        agent = agents.get(node.node_id)
        views.append(
            {
                "node_id": node.node_id,
                "hostname": node.hostname,
                "state": node.state,
                "availability": node.availability,
                "agent": "away" if agent is None else "present",
                "usable": node.usable and agent is not None and agent.fault is None,
                "fault": None if agent is None else agent.fault or agent.discovery_error,
                "discovery_error": None if agent is None else agent.discovery_error,
                "python_version": image_python
                if agent is None
                else agent.python_version or image_python,
                "chronos": None
                if agent is None
                else {"backend": agent.backend.name, "fault": agent.backend.fault},
                "disagreements": told.get(node.node_id, []),
                "devices": []
                if agent is None
                else [attrs.asdict(device) for device in agent.devices],
            }
        )
    return views


def add_partitions(
    views: Iterable[dict[str, Any]],
    held: Callable[[str], Iterable[Mapping[str, Any]]],
    seen_owner: Callable[[str], str | None],
) -> None:
    """Puts the workers' partitions, as `held(node id)` tells them, under their devices.
    `seen_owner(job id)`: whose job that is; None: the asker may not see it, and isn't told which
    it is."""
    for view in views:
        by_device: dict[str, list[dict[str, Any]]] = {}
        for one in held(view["node_id"]):
            shown = {key: one[key] for key in _SHOWN_OF_PARTITIONS}
            owner = seen_owner(one["job_id"])
            shown["job_id"] = None if owner is None else one["job_id"]
            shown["owner"] = owner
            by_device.setdefault(one["device_id"], []).append(shown)
        for device in view["devices"]:
            device["partitions"] = by_device.get(device["device_id"], [])
