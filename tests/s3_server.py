"""A server that speaks S3 over HTTP, in a process of its own: moto's, set to check every request's
signature and the rights of its key."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from tests.e2e.harness import free_port

BUCKET = "cumulus-test"
REGION = "eu-central-1"
#: Requests that need no key: those that make the user, its rights, its key, and the bucket.
_UNCHECKED = 4
_POLICY = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", '
    '"Resource": ["arn:aws:s3:::cumulus-test", "arn:aws:s3:::cumulus-test/*"]}]}'
)


@attrs.frozen(kw_only=True)
class S3Server:
    """Where it is and with which key."""

    url: str
    access_key: str
    secret_key: str
    process: Any
    log: Path

    @property
    def variables(self) -> dict[str, str]:
        """A job's, for this server."""
        return {
            "CUMULUS_S3_BUCKET": BUCKET,
            "CUMULUS_S3_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def client(self) -> Any:
        """boto3's, to look at what is there."""
        return _client("s3", self.url, self.access_key, self.secret_key)

    def keys(self) -> list[str]:
        """Of all objects."""
        client = self.client()
        try:
            found = client.list_objects_v2(Bucket=BUCKET)
            return [one["Key"] for one in found.get("Contents", ())]
        finally:
            client.close()

    def clear(self) -> None:
        """Removes all objects and unfinished uploads."""
        client = self.client()
        for key in self.keys():
            client.delete_object(Bucket=BUCKET, Key=key)
        for one in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
            client.abort_multipart_upload(Bucket=BUCKET, Key=one["Key"], UploadId=one["UploadId"])
        client.close()


def _client(service: str, url: str, access_key: str, secret_key: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        service,
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Starts one, with a bucket and a user that may use only that."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = folder / "s3.log"
    program = "from moto.server import main; import sys; sys.exit(main(sys.argv[1:]))"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={
                "PATH": "/usr/bin:/bin",
                "INITIAL_NO_AUTH_ACTION_COUNT": str(_UNCHECKED),
                "MOTO_S3_CUSTOM_ENDPOINTS": "",
                "HOME": str(folder),
            },
        )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            with suppress(OSError), urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5):
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"no S3 server in 60 s: {log.read_text()}")
        iam = _client("iam", url, "none", "none")
        iam.create_user(UserName="cumulus")
        iam.put_user_policy(UserName="cumulus", PolicyName="s3", PolicyDocument=_POLICY)
        made = iam.create_access_key(UserName="cumulus")["AccessKey"]
        iam.close()
        server = S3Server(
            url=url,
            access_key=made["AccessKeyId"],
            secret_key=made["SecretAccessKey"],
            process=process,
            log=log,
        )
        client = server.client()
        client.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        client.close()
        yield server
    finally:
        process.terminate()
        process.wait(20)
