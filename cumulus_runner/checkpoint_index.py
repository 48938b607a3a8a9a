"""The code's list of its checkpoints, read without trusting it and told in the journal."""

from __future__ import annotations

import math
import os
import stat

from cumulus_wire.light_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

NAME = "index.json"
MAX_INDEX_BYTES = 256 << 10
MAX_CHECKPOINTS = 20
MAX_TEXT_CHARS = 4096
#: Readings are at least this far apart, but for the last.
INTERVAL_S = 1.0


class CheckpointIndex:
    """Reads `index.json` in the checkpoint folder when it is told that there is news.

    `record` is called with the content of a CHECKPOINT record when the list is another one.
    """

    def __init__(self, folder: str | None, record: Callable[[Mapping[str, Any]], None]) -> None:
        """`folder` None: the job has none."""
        self._path = None if folder is None else os.path.join(folder, NAME)
        self._record = record
        self._told: list[dict[str, Any]] = self._read() or []
        self._news = False
        self._next_at = -math.inf

    def changed(self) -> None:
        """The code says that there is news."""
        self._news = True

    def wake_at(self) -> float:
        """When `tick` has something to do."""
        return self._next_at if self._news else math.inf

    def tick(self, now: float) -> None:
        """Tells the news, if there are any and it is time to."""
        if self._news and now >= self._next_at:
            self._next_at = now + INTERVAL_S
            self.tell()

    def tell(self) -> None:
        """Tells what has changed since it was last told."""
        self._news = False
        found = self._read()
        if found is not None and found != self._told:
            self._told = found
            self._record({"checkpoints": found})

    def _read(self) -> list[dict[str, Any]] | None:
        """None: there is no list that can be read."""
        if self._path is None:
            return None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            handle = os.open(self._path, flags)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    return None
                with open(handle, "rb", closefd=False) as file:
                    text = file.read(MAX_INDEX_BYTES + 1)
            finally:
                os.close(handle)
            value = loads(text) if len(text) <= MAX_INDEX_BYTES else None
        except (OSError, ValueError, RecursionError):
            return None
        entries = value.get("checkpoints") if isinstance(value, dict) else None
        if not isinstance(entries, list):
            return None
        found = (_checkpoint(entry) for entry in entries[-MAX_CHECKPOINTS:])
        return [one for one in found if one is not None]


def _checkpoint(entry: Any) -> dict[str, Any] | None:
    if not isinstance(entry, dict):
        return None
    filename, path = _text(entry.get("filename")), _text(entry.get("path"))
    if filename is None or path is None:
        return None
    return {
        "filename": filename,
        "path": path,
        "epoch": _whole(entry.get("epoch")),
        "step": _whole(entry.get("step")),
        "framework": _text(entry.get("framework")),
        "timestamp": _number(entry.get("timestamp")),
        "size_bytes": _whole(entry.get("size_bytes")) or 0,
        "s3_key": _text(entry.get("s3_key")),
    }


def _text(value: object) -> str | None:
    return value[:MAX_TEXT_CHARS] if isinstance(value, str) and value else None


def _whole(value: object) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 62 else None


def _number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    return 0.0
