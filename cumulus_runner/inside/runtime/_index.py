"""The list of a job's checkpoints, `index.json`: what the runner reads and tells the daemon."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os

from ._files import replacing
from ._places import MAX_KEPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

INDEX = "index.json"
MAX_INDEX_BYTES = 256 << 10
#: Beyond it an entry does without what the code added.
MAX_EXTRA_CHARS = 4096
_LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """One process, and one thread of it, changes the folder's index at a time."""
    handle = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read(folder: str) -> list[dict[str, Any]]:
    """The entries, newest last; none where there is no index yet. Raises ValueError for a damaged
    one."""
    path = os.path.join(folder, INDEX)
    try:
        with open(path, "rb") as file:
            return parse(file.read(MAX_INDEX_BYTES + 1), path)
    except FileNotFoundError:
        return []


def parse(data: bytes, where: str) -> list[dict[str, Any]]:
    """The entries of an index's text. Raises ValueError."""
    try:
        if len(data) > MAX_INDEX_BYTES:
            raise ValueError(f"it is over {MAX_INDEX_BYTES} bytes")
        entries = json.loads(data)["checkpoints"]
        return [entry for entry in entries if isinstance(entry["filename"], str)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the list of checkpoints {where} can't be read ({error}); remove it to begin anew"
        ) from error


def text(entries: list[dict[str, Any]]) -> bytes:
    """The index's text, of the newest entries that it has room for."""
    kept = entries[-MAX_KEPT:]
    while True:
        data = json.dumps({"checkpoints": kept}).encode("ascii")
        if len(data) <= MAX_INDEX_BYTES or not kept:
            return data
        kept = kept[1:]


def write(folder: str, entries: list[dict[str, Any]]) -> None:
    """Replaces the index."""
    with replacing(os.path.join(folder, INDEX)) as draft, open(draft, "wb") as file:
        file.write(text(entries))


def bounded_extra(extra: Any) -> Any:
    """What of the code's own goes into the index: JSON, and little; else None."""
    if not extra:
        return None
    try:
        words = json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return json.loads(words) if len(words) <= MAX_EXTRA_CHARS else None
