"""The configuration's section `s3`: where jobs keep checkpoints that every worker reaches."""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from cumulusd.config_platform import Section

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_PREFIX = re.compile(r"([A-Za-z0-9!_.*'()-]+/)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class S3Section(Section):
    """A bucket, and by which key. The key itself comes from the environment, and is handed to jobs:
    let it have no rights but on this bucket."""

    bucket: str
    region: str = "us-east-1"
    #: None: Amazon's own, for the region.
    endpoint_url: Annotated[str, Field(max_length=1024)] | None = None
    #: What all keys begin with; the daemon's instance and the job's id follow.
    prefix: Annotated[str, Field(max_length=200)] = "cumulus/"
    #: The environment variables that hold the key.
    access_key_env: str = "CUMULUSD_S3_ACCESS_KEY"
    secret_key_env: str = "CUMULUSD_S3_SECRET_KEY"

    # Private, so that no dump and no repr of the configuration has them.
    _access_key: str = PrivateAttr("")
    _secret_key: str = PrivateAttr("")

    @field_validator("bucket")
    @classmethod
    def _bucket_is_one(cls, value: str) -> str:
        if not _BUCKET.fullmatch(value):
            raise ValueError(
                f"{value[:100]!r} is no bucket's name: 3 to 63 small letters, digits, '.' and '-'"
            )
        return value

    @field_validator("region")
    @classmethod
    def _region_is_one(cls, value: str) -> str:
        if not _REGION.fullmatch(value):
            raise ValueError(f"{value[:100]!r} is no region's name, such as eu-central-1")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_can_be_dialled(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError(f"{value!r} is neither http://host:port nor https://host:port")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("give scheme, host and port only: the bucket is named apart")
        return value.rstrip("/")

    @field_validator("prefix")
    @classmethod
    def _prefix_is_folders(cls, value: str) -> str:
        value = value if not value or value.endswith("/") else value + "/"
        if not _PREFIX.fullmatch(value) or {".", ".."} & set(value.split("/")):
            raise ValueError(f"{value!r}: use letters, digits and !_.*'()- between slashes")
        return value

    @field_validator("access_key_env", "secret_key_env")
    @classmethod
    def _is_a_variable(cls, value: str) -> str:
        if not _VARIABLE.fullmatch(value):
            raise ValueError(f"{value!r} is no name of an environment variable")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _find_key(cls, data: Any, handler: Any, info: ValidationInfo) -> Any:
        section: S3Section = handler(data)
        environ = (info.context or {}).get("environ") or {}
        for name in (section.access_key_env, section.secret_key_env):
            if not environ.get(name):
                raise ValueError(
                    f"the environment variable {name}, with S3's key, is not set, nor is there a "
                    "credential of that name"
                )
        section._access_key = environ[section.access_key_env]
        section._secret_key = environ[section.secret_key_env]
        return section

    @property
    def access_key(self) -> str:
        """The key's id."""
        return self._access_key

    @property
    def secret_key(self) -> str:
        """The key. Never to be logged or stored."""
        return self._secret_key
