"""Named files that a job keeps: beside it, and on S3 where that is configured."""

from __future__ import annotations

import os

from ._files import DRAFT, replacing
from ._places import artifact_dir
from ._places import job_id as this_job
from ._s3 import Bucket, usable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLACE = "artifacts/"


class LocalArtifactStore:
    """Artifacts as files of one folder, which lives as long as the job."""

    def __init__(self, local_dir: str | None = None) -> None:
        self.local_dir = local_dir or artifact_dir()
        os.makedirs(self.local_dir, exist_ok=True)

    def save_artifact_file(self, name: str, src_path: str) -> dict[str, Any]:
        """Keeps a copy of the file: `{"local_path", "s3_key"}`."""
        import shutil

        path = self._path(name)
        with replacing(path) as draft:
            shutil.copy2(src_path, draft)
        return {"local_path": path, "s3_key": self._publish(name, path)}

    def save_artifact_bytes(self, name: str, data: bytes) -> dict[str, Any]:
        """Keeps the bytes: `{"local_path", "s3_key"}`."""
        path = self._path(name)
        with replacing(path) as draft, open(draft, "wb") as file:
            file.write(data)
        return {"local_path": path, "s3_key": self._publish(name, path)}

    def load_artifact_to_path(self, name: str, dst_path: str | None = None) -> str:
        """The artifact's path, or `dst_path` after it was copied there. Raises
        FileNotFoundError."""
        path = self._fetch(name)
        if dst_path is None:
            return path
        import shutil

        with replacing(dst_path) as draft:
            shutil.copy2(path, draft)
        return dst_path

    def load_artifact_bytes(self, name: str) -> bytes:
        """The artifact's content. Raises FileNotFoundError."""
        with open(self._fetch(name), "rb") as file:
            return file.read()

    def list_artifacts(self, prefix: str | None = None) -> list[dict[str, Any]]:
        """`{"name", "path", "source", "timestamp"}` of those whose name begins so, newest first."""
        found = []
        for folder, _, names in os.walk(self.local_dir):
            for file in names:
                path = os.path.join(folder, file)
                name = os.path.relpath(path, self.local_dir)
                if file.startswith(DRAFT) or not name.startswith(prefix or ""):
                    continue
                found.append(
                    {
                        "name": name,
                        "path": path,
                        "source": "L1 (local)",
                        "timestamp": os.path.getmtime(path),
                    }
                )
        return _newest_first(found)

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if not name or os.path.isabs(name) or {"", ".", ".."} & set(parts) or "\0" in name:
            raise ValueError(f"{name!r} is no name of an artifact: give a relative path")
        if any(part.startswith(DRAFT) for part in parts):
            raise ValueError(f"{name!r}: names that begin with {DRAFT!r} are for drafts")
        return os.path.join(self.local_dir, *parts)

    def _publish(self, name: str, path: str) -> str | None:
        return None

    def _fetch(self, name: str) -> str:
        path = self._path(name)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no artifact {name!r} in {self.local_dir}")
        return path


class S3ArtifactStore(LocalArtifactStore):
    """Artifacts in the job's place in a bucket, with copies in a folder."""

    def __init__(
        self, job_id: str | None = None, local_dir: str | None = None, **bucket: Any
    ) -> None:
        """`bucket`: s3_bucket, s3_region, endpoint_url, aws_access_key_id, aws_secret_access_key;
        by default the environment's. Raises S3Error, then and whenever S3 refuses.

        `local_dir`: where copies are; by default below TMPDIR, since what is in the folder of
        artifacts binds a paused job to its worker."""
        import tempfile

        name = job_id or this_job() or "no-job"
        super().__init__(local_dir or os.path.join(tempfile.gettempdir(), "artifacts", name))
        self.bucket = Bucket(job_id, **bucket)

    def list_artifacts(self, prefix: str | None = None) -> list[dict[str, Any]]:
        """As LocalArtifactStore's; what is only on S3 has its address as path."""
        found = super().list_artifacts(prefix)
        here = {one["name"] for one in found}
        for one in self.bucket.listing(PLACE + (prefix or "")):
            name = one["place"][len(PLACE) :]
            if name not in here:
                found.append(
                    {
                        "name": name,
                        "path": f"s3://{self.bucket.name}/{one['key']}",
                        "source": "L2 (S3)",
                        "timestamp": one["timestamp"],
                    }
                )
        return _newest_first(found)

    def _publish(self, name: str, path: str) -> str | None:
        return self.bucket.upload(path, PLACE + name)

    def _fetch(self, name: str) -> str:
        path = self._path(name)
        if not os.path.isfile(path):
            self.bucket.download(self.bucket.key(PLACE + name), path)
        return path


def get_artifact_store(
    job_id: str | None = None, use_distributed: bool = True, **kwargs: Any
) -> LocalArtifactStore:
    """The one that uses S3 where a bucket is configured and boto3 is there, else the local one."""
    if use_distributed and (kwargs.get("s3_bucket") or usable()):
        return S3ArtifactStore(job_id, **kwargs)
    return LocalArtifactStore(kwargs.get("local_dir"))


def _newest_first(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda one: float(one["timestamp"]), reverse=True)
