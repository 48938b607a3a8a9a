"""The bucket, and by which key: what jobs are told of it. Pure."""

from collections.abc import Iterable

import attrs

#: Who sets one of these uses an S3 of its own; mixed with ours it would reach neither.
_OWN = ("AWS_", "CUMULUS_S3_")


@attrs.frozen(kw_only=True)
class Access:
    """A bucket and a key to it."""

    bucket: str
    region: str
    endpoint_url: str | None  #: None: Amazon's own
    prefix: str  #: of all keys; ends with a slash
    access_key: str
    secret_key: str = attrs.field(repr=False)

    def job_prefix(self, job_id: str) -> str:
        """What a job's keys begin with, as `cumulus_runner/inside/runtime/_s3.py` has it."""
        return f"{self.prefix}{job_id}/"

    def variables(self, own: Iterable[str]) -> dict[str, str]:
        """The variables of a job that itself sets those named `own`."""
        if any(name.startswith(_OWN) for name in own):
            return {}
        variables = {
            "CUMULUS_S3_BUCKET": self.bucket,
            "CUMULUS_S3_REGION": self.region,
            "CUMULUS_S3_PREFIX": self.prefix,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }
        if self.endpoint_url is not None:
            variables["AWS_ENDPOINT_URL"] = self.endpoint_url
        return variables
