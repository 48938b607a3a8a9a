"""Checkpoints of a job, in a folder that outlives pauses."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from . import _formats as formats
from . import _index as index
from ._control import tell_checkpoint
from ._files import remove_drafts, replacing
from ._places import (
    MAX_KEPT,
    checkpoint_bytes_limit,
    checkpoint_dir,
    cleans_up,
    every_seconds,
    every_steps,
    keep_checkpoints,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._formats import Format

DEFAULT_NAME = "checkpoint.pt"


class Checkpointer:
    """Saves and loads checkpoints as files of the job's checkpoint folder."""

    def __init__(self, fname: str = DEFAULT_NAME) -> None:
        """`fname`: the one file that `save` and `load` are about. With the default, `load` takes
        the newest checkpoint, whatever its name is."""
        self.folder = checkpoint_dir()
        self.path = os.path.join(self.folder, fname)
        self._any_file = fname == DEFAULT_NAME
        self._saved_at = time.monotonic()

    def exists(self) -> bool:
        """Is there something for `load`?"""
        return self._newest() is not None

    def save(
        self,
        model: Any,
        optimizer: Any = None,
        epoch: int = 0,
        step: int = 0,
        extra: Any = None,
        framework: str | None = None,
    ) -> str:
        """Writes the one file anew; its path. A crash leaves the file that was there before."""
        chosen = _of_saving(framework, model, optimizer)
        if self._any_file:
            self.path = os.path.join(self.folder, "checkpoint" + chosen.suffix)
        self._store(self.path, chosen, model, optimizer, epoch, step, extra)
        return self.path

    def load(self, model: Any = None, optimizer: Any = None, checkpoint_path: Any = None) -> Any:
        """Restores model and optimizer; the state. Raises FileNotFoundError."""
        return self.load_checkpoint(model, optimizer, checkpoint_path)["state"]

    def save_checkpoint(
        self,
        model: Any,
        optimizer: Any = None,
        epoch: int = 0,
        step: int = 0,
        extra: Any = None,
        framework: str | None = None,
    ) -> dict[str, Any]:
        """Writes a file of its own, `ckpt_<epoch>_<step>`, and drops the oldest ones beyond
        CUMULUS_KEEP_CHECKPOINTS. `{"local_path", "s3_key", "checkpoint_id"}`."""
        chosen = _of_saving(framework, model, optimizer)
        name = formats.checkpoint_name(int(epoch), int(step)) + chosen.suffix
        path = os.path.join(self.folder, name)
        return _info(self._store(path, chosen, model, optimizer, epoch, step, extra))

    def load_checkpoint(
        self,
        model: Any = None,
        optimizer: Any = None,
        checkpoint_path: str | None = None,
        framework: str | None = None,
    ) -> dict[str, Any]:
        """Restores a checkpoint, the newest where none is named by path, file name, id or S3 key.

        `{"local_path", "framework", "state", "epoch", "step", "extra"}`. Raises FileNotFoundError.
        """
        entry = self._newest() if checkpoint_path is None else self._find(checkpoint_path)
        if entry is None:
            wanted = "one" if checkpoint_path is None else repr(checkpoint_path)
            raise FileNotFoundError(
                f"no checkpoint to load: {wanted} was looked for in {self._where()}; "
                "find_latest_checkpoint() gives None until there is one"
            )
        path = self._fetch(entry)
        chosen = formats.choose(path, framework or entry.get("framework"), model, optimizer)
        state = chosen.load(path, model, optimizer)
        inside = chosen.framework == "pytorch" and isinstance(state, dict)
        told = {**entry, **state} if inside else entry
        _remember({**entry, "path": path})
        return {
            "local_path": path,
            "framework": chosen.framework,
            "state": state,
            "epoch": told.get("epoch", 0),
            "step": told.get("step", 0),
            "extra": told.get("extra") or {},
        }

    def find_latest_checkpoint(self) -> str | None:
        """What `load_checkpoint` would take: its path, or `s3://…` while it is only there."""
        entry = self._newest()
        if entry is None:
            return None
        path = self._path(entry)
        return path if os.path.exists(path) else self._address(entry)

    def list_checkpoints(self) -> list[dict[str, Any]]:
        """`{"filename", "path", "epoch", "step", "framework", "timestamp", "size_bytes",
        "s3_key"}`, the newest first."""
        return [
            {**{key: entry.get(key) for key in _SHOWN}, "path": self._path(entry)}
            for entry in reversed(self._entries())
        ]

    def time_to_checkpoint(
        self, step: int, every_steps: int | None = None, every_seconds: float | None = None
    ) -> bool:
        """Is one due at this step? By the given steps or seconds since the last one; with neither,
        by CUMULUS_CHECKPOINT_EVERY_STEPS and CUMULUS_CHECKPOINT_EVERY_SECONDS."""
        if every_steps is None and every_seconds is None:
            every_steps, every_seconds = _due_steps(), _due_seconds() or None
        if every_steps and step > 0 and step % every_steps == 0:
            return True
        passed = time.monotonic() - self._saved_at
        return every_seconds is not None and passed >= every_seconds

    # -- what S3 adds to

    def _entries(self) -> list[dict[str, Any]]:
        """Those that can be loaded, newest last."""
        return [entry for entry in self._listed() if os.path.exists(self._path(entry))]

    def _entries_to_keep(self) -> list[dict[str, Any]]:
        """The same, for an index that a new checkpoint is put into: never raises for S3's sake."""
        return self._entries()

    def _publish(self, path: str) -> str | None:
        """Stores the new file elsewhere too; its key there."""
        return None

    def _published(self, entries: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> None:
        """The index is `entries` now; `dropped` are gone."""

    def _fetch(self, entry: dict[str, Any]) -> str:
        """The checkpoint's file, brought here if need be."""
        return self._path(entry)

    def _address(self, entry: dict[str, Any]) -> str:
        return self._path(entry)

    def _where(self) -> str:
        return self.folder

    # -- inside

    def _listed(self) -> list[dict[str, Any]]:
        """What the folder's index has; without one, what the names of files say."""
        try:
            found = index.read(self.folder)
        except ValueError as error:
            sys.stderr.write(f"cumulus: {error}; checkpoints are known by their names\n")
            found = []
        return found or _by_names(self.folder)

    def _path(self, entry: dict[str, Any]) -> str:
        if entry.get("elsewhere"):
            return str(entry["path"])
        # Of an index that was made on another worker only the name counts.
        return os.path.join(self.folder, os.path.basename(entry["filename"]))

    def _newest(self) -> dict[str, Any] | None:
        entries = self._entries()
        if not self._any_file:
            name = os.path.basename(self.path)
            if os.path.dirname(self.path) != self.folder:
                found = os.path.exists(self.path)
                return {**_of_file(self.path), "elsewhere": True} if found else None
            entries = [entry for entry in entries if entry["filename"] == name]
            if not entries and os.path.exists(self.path):
                return _of_file(self.path)
        return entries[-1] if entries else None

    def _find(self, wanted: str) -> dict[str, Any] | None:
        for entry in self._entries()[::-1]:
            if self._is_called(entry, wanted):
                return entry
        path = wanted if os.path.exists(wanted) else os.path.join(self.folder, wanted)
        if not os.path.isfile(path):
            return None
        return {**_of_file(os.path.abspath(path)), "elsewhere": True}

    def _is_called(self, entry: dict[str, Any], wanted: str) -> bool:
        path, name = self._path(entry), entry["filename"]
        if wanted == name.partition(".")[0]:
            return True
        return wanted in (path, name, entry.get("s3_key"), self._address(entry))

    def _store(
        self,
        path: str,
        chosen: Format,
        model: Any,
        optimizer: Any,
        epoch: int,
        step: int,
        extra: Any,
    ) -> dict[str, Any]:
        about = {"epoch": int(epoch), "step": int(step), "extra": extra or {}}
        with replacing(path) as draft:
            chosen.save(draft, model, optimizer, about)
        self._saved_at = time.monotonic()
        entry = {
            "filename": os.path.basename(path),
            "path": path,
            "epoch": about["epoch"],
            "step": about["step"],
            "framework": chosen.framework,
            "timestamp": time.time(),
            "size_bytes": os.path.getsize(path),
            "s3_key": None,
        }
        if (kept := index.bounded_extra(extra)) is not None:
            entry["extra"] = kept
        if os.path.dirname(os.path.abspath(path)) == os.path.abspath(self.folder):
            entry["s3_key"] = self._publish(path)
            self._enlist(entry)
        _remember(entry)
        return entry

    def _enlist(self, entry: dict[str, Any]) -> None:
        with index.locked(self.folder):
            before = self._entries_to_keep()
            others = [one for one in before if one["filename"] != entry["filename"]]
            entries, dropped = _prune([*others, entry])
            index.write(self.folder, entries)
            remove_drafts(self.folder)
        for one in dropped:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(one))
        self._published(entries, dropped)
        tell_checkpoint()


#: What is shown of a checkpoint.
_SHOWN = ("filename", "path", "epoch", "step", "framework", "timestamp", "size_bytes", "s3_key")
_due_steps, _due_seconds = every_steps, every_seconds
_last: dict[str, Any] | None = None


def get_last_checkpoint_info() -> dict[str, Any] | None:
    """`{"local_path", "s3_key", "checkpoint_id"}` of what this process saved or loaded last."""
    return None if _last is None else _info(_last)


def _remember(entry: dict[str, Any]) -> None:
    global _last
    _last = entry


def _info(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "local_path": entry["path"],
        "s3_key": entry.get("s3_key"),
        "checkpoint_id": formats.checkpoint_name(entry["epoch"], entry["step"]),
    }


def _of_saving(framework: str | None, model: Any, optimizer: Any) -> Format:
    if framework is not None:
        return formats.named(framework)
    return formats.of_objects(model, optimizer)


def _is_numbered(entry: dict[str, Any]) -> bool:
    return str(entry["filename"]).startswith("ckpt_")


def _prune(entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those that stay, and those that go: the oldest of the numbered ones, never the newest."""
    if not cleans_up():
        return entries[-MAX_KEPT:], []
    numbered = [entry for entry in entries if _is_numbered(entry)]
    dropped = numbered[: -keep_checkpoints()]
    limit = checkpoint_bytes_limit()
    rest = numbered[len(dropped) :]
    while limit is not None and len(rest) > 1:
        if sum(entry.get("size_bytes") or 0 for entry in rest) <= limit:
            break
        dropped.append(rest.pop(0))
    kept = [entry for entry in entries if entry not in dropped]
    return kept[-MAX_KEPT:], dropped


def _of_file(path: str) -> dict[str, Any]:
    epoch, step = formats.parse_name(path)
    known = formats.of_path(path)
    return {
        "filename": os.path.basename(path),
        "path": path,
        "epoch": epoch,
        "step": step,
        "framework": None if known is None else known.framework,
        "timestamp": os.path.getmtime(path),
        "size_bytes": os.path.getsize(path),
        "s3_key": None,
    }


def _by_names(folder: str) -> list[dict[str, Any]]:
    found = [
        _of_file(os.path.join(folder, name))
        for name in os.listdir(folder)
        if name.startswith(("ckpt_", "checkpoint.")) and formats.of_path(name) is not None
    ]
    return sorted(found, key=lambda entry: float(entry["timestamp"]))
