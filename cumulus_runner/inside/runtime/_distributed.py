"""Checkpoints that are on S3 too, so that a paused job can go on on any worker."""

from __future__ import annotations

import os
import sys

from . import _formats as formats
from . import _index as index
from ._checkpoints import DEFAULT_NAME, Checkpointer
from ._s3 import Bucket, S3Error, usable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLACE = "checkpoints/"


class DistributedCheckpointer(Checkpointer):
    """A Checkpointer whose files are stored in the job's place in a bucket as well.

    A checkpoint that S3 doesn't take is said on stderr and stays local: its `s3_key` is None.
    """

    def __init__(
        self, job_id: str | None = None, *, fname: str = DEFAULT_NAME, **bucket: Any
    ) -> None:
        """`bucket`: s3_bucket, s3_region, endpoint_url, aws_access_key_id, aws_secret_access_key;
        by default the environment's. Raises S3Error where boto3 or the bucket is missing."""
        super().__init__(fname)
        self.bucket = Bucket(job_id, **bucket)

    def _entries(self) -> list[dict[str, Any]]:
        return self._merged(self._remote())

    def _entries_to_keep(self) -> list[dict[str, Any]]:
        try:
            return self._entries()
        except S3Error as error:
            sys.stderr.write(f"cumulus: {error}\n")
            return self._merged([])

    def _merged(self, remote: list[dict[str, Any]]) -> list[dict[str, Any]]:
        local = self._listed()
        names = {entry["filename"] for entry in local}
        added = [entry for entry in remote if entry["filename"] not in names]
        if added:
            local = sorted(added + local, key=lambda entry: float(entry.get("timestamp") or 0))
        return [
            entry for entry in local if entry.get("s3_key") or os.path.exists(self._path(entry))
        ]

    def _remote(self) -> list[dict[str, Any]]:
        """What the bucket has: by its index, or else by the names of its objects."""
        data = self.bucket.get(PLACE + index.INDEX, index.MAX_INDEX_BYTES + 1)
        if data is not None:
            try:
                where = f"s3://{self.bucket.name}/{self.bucket.key(PLACE + index.INDEX)}"
                entries = index.parse(data, where)
                return [entry for entry in entries if entry.get("s3_key")]
            except ValueError as error:
                sys.stderr.write(f"cumulus: {error}; checkpoints are known by their names\n")
        found = []
        for one in self.bucket.listing(PLACE):
            name = one["place"][len(PLACE) :]
            known = formats.of_path(name)
            if name == index.INDEX or known is None:
                continue
            epoch, step = formats.parse_name(name)
            found.append(
                {
                    "filename": name,
                    "path": os.path.join(self.folder, name),
                    "epoch": epoch,
                    "step": step,
                    "framework": known.framework,
                    "timestamp": one["timestamp"],
                    "size_bytes": one["size_bytes"],
                    "s3_key": one["key"],
                }
            )
        return sorted(found, key=lambda entry: float(entry["timestamp"]))

    def _publish(self, path: str) -> str | None:
        try:
            return self.bucket.upload(path, PLACE + os.path.basename(path))
        except S3Error as error:
            sys.stderr.write(f"cumulus: {error}; the checkpoint is on this worker only\n")
            return None

    def _published(self, entries: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> None:
        try:
            # First the index: it names nothing that isn't there any more.
            self.bucket.put(index.text(entries), PLACE + index.INDEX)
            for entry in dropped:
                if entry.get("s3_key"):
                    self.bucket.delete(entry["s3_key"])
        except S3Error as error:
            sys.stderr.write(f"cumulus: {error}\n")

    def _fetch(self, entry: dict[str, Any]) -> str:
        path = self._path(entry)
        if not os.path.exists(path):
            self.bucket.download(entry["s3_key"], path)
        return path

    def _find(self, wanted: str) -> dict[str, Any] | None:
        found = super()._find(wanted)
        address = f"s3://{self.bucket.name}/"
        if found is not None or not wanted.startswith(address):
            return found
        # Of another job, say: its file gets a name that none of this job's has.
        import hashlib

        key = wanted[len(address) :]
        epoch, step = formats.parse_name(key)
        name = f"{hashlib.sha256(key.encode()).hexdigest()[:12]}-{os.path.basename(key)}"
        return {"filename": name, "s3_key": key, "epoch": epoch, "step": step}

    def _address(self, entry: dict[str, Any]) -> str:
        return f"s3://{self.bucket.name}/{entry['s3_key']}"

    def _where(self) -> str:
        return f"{self.folder} and s3://{self.bucket.name}/{self.bucket.key(PLACE)}"


def get_distributed_checkpointer(
    job_id: str | None = None, **kwargs: Any
) -> DistributedCheckpointer | None:
    """The checkpointer that uses S3; None where no bucket is configured. Raises S3Error where
    boto3 is missing: add it to the job's requirements."""
    if not (kwargs.get("s3_bucket") or os.environ.get("CUMULUS_S3_BUCKET")):
        return None
    return DistributedCheckpointer(job_id, **kwargs)


create_distributed_checkpointer = DistributedCheckpointer


def get_checkpointer(
    job_id: str | None = None, use_distributed: bool = True, **kwargs: Any
) -> Checkpointer:
    """The one that uses S3 where a bucket is configured and boto3 is there; else the local one,
    which says on stderr, once, if only boto3 was missing."""
    fname = kwargs.pop("fname", DEFAULT_NAME)
    if use_distributed and (kwargs.get("s3_bucket") or usable()):
        return DistributedCheckpointer(job_id, fname=fname, **kwargs)
    return Checkpointer(fname)


def save_checkpoint(
    model: Any,
    optimizer: Any = None,
    epoch: int = 0,
    step: int = 0,
    extra: Any = None,
    framework: str | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Saves a checkpoint `ckpt_<epoch>_<step>`: `{"local_path", "s3_key", "checkpoint_id"}`.

    The framework is seen from the objects, or given: pytorch, tensorflow, sklearn, xgboost,
    lightgbm. `kwargs`: as for `get_checkpointer`.
    """
    saver = get_checkpointer(**kwargs)
    return saver.save_checkpoint(model, optimizer, epoch, step, extra, framework)


def load_checkpoint(
    model: Any = None,
    optimizer: Any = None,
    checkpoint_path: str | None = None,
    framework: str | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Restores the newest checkpoint, or the named one: `{"local_path", "framework", "state",
    "epoch", "step", "extra"}`. Raises FileNotFoundError where there is none."""
    loader = get_checkpointer(**kwargs)
    return loader.load_checkpoint(model, optimizer, checkpoint_path, framework)


def find_latest_checkpoint(**kwargs: Any) -> str | None:
    """What `load_checkpoint` would take; None: there is none yet."""
    return get_checkpointer(**kwargs).find_latest_checkpoint()


def list_checkpoints(**kwargs: Any) -> list[dict[str, Any]]:
    """The job's checkpoints, the newest first."""
    return get_checkpointer(**kwargs).list_checkpoints()
