"""What a job can go on from: the checkpoints that its code told, and where they are. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from cumulusd.jobs.carried_text import carried
from cumulusd.jobs.model import Checkpoint, JobRecord
from cumulusd.jobs.ports import Released

MAX_CHECKPOINTS = 20
_MAX_TEXT = 4096
_MAX_TIMESTAMP = 1e15


def read(value: Mapping[str, Any]) -> tuple[Checkpoint, ...]:
    """The content of a CHECKPOINT record, the newest last. It is the code's word, so what is no
    checkpoint is left out."""
    entries = value.get("checkpoints")
    if not isinstance(entries, list):
        return ()
    found = (_checkpoint(entry) for entry in entries[-MAX_CHECKPOINTS:])
    return tuple(one for one in found if one is not None)


def are_anywhere(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether the newest is on S3, so that the job can go on from it on any worker."""
    return bool(checkpoints) and checkpoints[-1].s3_key is not None


def pin(record: JobRecord, released: Released) -> str | None:
    """The node to which what a job that pauses there keeps is bound; None: it can go on anywhere.

    `released`: how the release of its folder went. A worker that could not be asked for what it
    keeps is taken at the code's word."""
    if record.placement is None:
        return None
    if not released.done:
        is_there = bool(record.checkpoints) and not are_anywhere(record.checkpoints)
    elif released.kept is None:
        is_there = False
    else:
        # A checkpoint on S3 will do, and what else lies beside it wouldn't be found elsewhere.
        is_there = released.kept.files or not are_anywhere(record.checkpoints)
    return record.placement.node_id if is_there else None


def _checkpoint(entry: Any) -> Checkpoint | None:
    if not isinstance(entry, dict):
        return None
    filename, path = _text(entry.get("filename")), _text(entry.get("path"))
    if filename is None or path is None:
        return None
    timestamp = entry.get("timestamp")
    if not isinstance(timestamp, int | float) or not abs(timestamp) < _MAX_TIMESTAMP:
        timestamp = 0.0
    return Checkpoint(
        filename=filename,
        path=path,
        epoch=_whole(entry.get("epoch")),
        step=_whole(entry.get("step")),
        framework=_text(entry.get("framework")),
        timestamp=float(timestamp),
        size_bytes=max(0, _whole(entry.get("size_bytes")) or 0),
        s3_key=_text(entry.get("s3_key")),
    )


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    return carried(value[:_MAX_TEXT])


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 62 else None
