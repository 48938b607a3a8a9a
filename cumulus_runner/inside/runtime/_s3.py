"""The job's place in an S3 bucket. boto3 is imported when it is used."""

from __future__ import annotations

import os
import sys

from ._files import replacing
from ._places import job_id as this_job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_LISTED = 10_000
_SHA256 = "cumulus-sha256"


class S3Error(RuntimeError):
    """S3 can't be used as configured; the message says why and what to do."""


def configured() -> bool:
    """Is there a bucket for this job?"""
    return bool(os.environ.get("CUMULUS_S3_BUCKET"))


def usable() -> bool:
    """There is a bucket, and boto3. Says on stderr, once, when only boto3 is missing."""
    global _told
    if not configured():
        return False
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        if not _told:
            _told = True
            sys.stderr.write(
                f"cumulus: {_without_boto3(error)}; until then files stay on this worker\n"
            )
        return False
    return True


_told = False


def _without_boto3(error: ImportError) -> str:
    return f"S3 needs boto3 in the job ({error}): add 'boto3' to the job's requirements"


class Bucket:
    """What this job has in the bucket: keys below `<prefix><job id>/`."""

    def __init__(
        self,
        job_id: str | None = None,
        s3_bucket: str | None = None,
        s3_region: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        """What isn't given is taken from CUMULUS_JOB_ID, CUMULUS_S3_BUCKET, CUMULUS_S3_REGION,
        CUMULUS_S3_PREFIX and AWS_*. Raises S3Error."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise S3Error(_without_boto3(error)) from error
        self.name = s3_bucket or os.environ.get("CUMULUS_S3_BUCKET") or ""
        if not self.name:
            raise S3Error(
                "no S3 bucket: set CUMULUS_S3_BUCKET, or give s3_bucket=…, or have the operator"
                " configure `s3` in the daemon"
            )
        prefix = os.environ.get("CUMULUS_S3_PREFIX", "")
        self.prefix = f"{prefix}{job_id or this_job() or 'no-job'}/"
        endpoint = endpoint_url or os.environ.get("AWS_ENDPOINT_URL") or None
        settings: dict[str, Any] = {"retries": {"mode": "standard", "max_attempts": 5}}
        if endpoint is not None:
            # Servers of one's own seldom have a name for each bucket, nor the newest checksums.
            settings["s3"] = {"addressing_style": "path"}
            settings["request_checksum_calculation"] = "when_required"
            settings["response_checksum_validation"] = "when_required"
        session = boto3.session.Session(
            aws_access_key_id=aws_access_key_id,
            aws_secret_access_key=aws_secret_access_key,
            region_name=s3_region
            or os.environ.get("CUMULUS_S3_REGION")
            or os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION")
            or "us-east-1",
        )
        self._client = session.client("s3", endpoint_url=endpoint, config=Config(**settings))

    def key(self, place: str) -> str:
        """The whole key of something of this job's."""
        return self.prefix + place

    def upload(self, path: str, place: str) -> str:
        """Stores the file; its key. Raises S3Error."""
        key = self.key(place)
        about = {"Metadata": {_SHA256: _digest(path)}}
        try:
            self._client.upload_file(path, self.name, key, ExtraArgs=about)
        except Exception as error:
            raise self._failed("store", key, error) from error
        return key

    def put(self, data: bytes, place: str) -> str:
        """Stores bytes; their key. Raises S3Error."""
        key = self.key(place)
        import hashlib

        about = {_SHA256: hashlib.sha256(data).hexdigest()}
        try:
            self._client.put_object(Bucket=self.name, Key=key, Body=data, Metadata=about)
        except Exception as error:
            raise self._failed("store", key, error) from error
        return key

    def get(self, place: str, most_bytes: int | None = None) -> bytes | None:
        """The bytes stored there, or the first of them; None when there is nothing. Raises
        S3Error."""
        key = self.key(place)
        try:
            body = self._client.get_object(Bucket=self.name, Key=key)["Body"]
            data: bytes = body.read() if most_bytes is None else body.read(most_bytes)
            return data
        except Exception as error:
            if _is_missing(error):
                return None
            raise self._failed("read", key, error) from error

    def download(self, key: str, path: str) -> None:
        """Fetches what has that whole key; `path` is there whole or not at all. Raises
        FileNotFoundError, S3Error."""
        with replacing(path) as draft:
            try:
                wanted = self._client.head_object(Bucket=self.name, Key=key)["Metadata"]
                self._client.download_file(self.name, key, draft)
            except Exception as error:
                if _is_missing(error):
                    raise FileNotFoundError(f"nothing is at s3://{self.name}/{key}") from error
                raise self._failed("fetch", key, error) from error
            if _SHA256 in wanted and _digest(draft) != wanted[_SHA256]:
                raise S3Error(f"what came of s3://{self.name}/{key} isn't what was stored there")

    def listing(self, place: str) -> list[dict[str, Any]]:
        """`{"place", "key", "size_bytes", "timestamp"}` of all below. Raises S3Error."""
        key, found = self.key(place), []
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=key, PaginationConfig={"MaxItems": MAX_LISTED}
            )
            for page in pages:
                for one in page.get("Contents", ()):
                    found.append(
                        {
                            "place": one["Key"][len(self.prefix) :],
                            "key": one["Key"],
                            "size_bytes": one["Size"],
                            "timestamp": one["LastModified"].timestamp(),
                        }
                    )
        except Exception as error:
            raise self._failed("list", key, error) from error
        return found

    def delete(self, key: str) -> None:
        """Removes what has that whole key. Raises S3Error."""
        try:
            self._client.delete_object(Bucket=self.name, Key=key)
        except Exception as error:
            raise self._failed("remove", key, error) from error

    def _failed(self, what: str, key: str, error: Exception) -> S3Error:
        return S3Error(f"can't {what} s3://{self.name}/{key}: {type(error).__name__}: {error}")


def _digest(path: str) -> str:
    import hashlib

    found = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def _is_missing(error: Exception) -> bool:
    answer = getattr(error, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    return code in ("404", "NoSuchKey", "NotFound")
