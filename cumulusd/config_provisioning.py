"""The configuration's section `provisioning`: what machines are told that become workers."""

import ipaddress
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from cumulusd.config_platform import Section

_SHA256 = re.compile(r"[0-9a-f]{64}")
#: The source archive of a package index.
_PYPI = re.compile(
    r"pypi:[0-9A-Za-z](?:[0-9A-Za-z._-]*[0-9A-Za-z])?==[0-9](?:[0-9A-Za-z._+!-]*[0-9A-Za-z])?"
)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

_Texts = Annotated[
    tuple[Annotated[str, Field(max_length=300)], ...], Field(strict=False, max_length=100)
]


class ProvisioningSection(Section):
    """`provision/worker.sh` asks for all of this when it joins."""

    #: Where workers get the Chronos library: pypi:NAME==VERSION, https://…, or a path on them;
    #: "none": they get none; None: the source that worker.sh itself names.
    chronos_source: Annotated[str, Field(max_length=1024)] | None = None
    #: Of the archive that is fetched there, 64 hex digits.
    chronos_sha256: str | None = None
    #: Networks that workers keep job containers from, beside what is always denied.
    deny: _Texts = ()
    #: Where machines join the Swarm, "address:port"; none: what the manager advertises.
    manager_addresses: _Texts = ()
    #: The daemon's own addresses, for the workers' firewalls; none: those of `advertise_url`.
    daemon_addresses: _Texts = ()
    #: Of the workers' Docker API by TLS with client certificates; None: their engines can be asked
    #: on their own machines only.
    remote_api_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    #: Who has the images: `registry`, wherever one gave an image a digest; `orchestrator`, this
    #: daemon; `auto`, a registry where the image's name is of one (`somebody/name`, `host/name`).
    images_from: Literal["auto", "registry", "orchestrator"] = "auto"

    @field_validator("chronos_source")
    @classmethod
    def _source_can_be_fetched(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if any(sign.isspace() or not sign.isprintable() for sign in value):
            raise ValueError("there is a blank in it")
        if value == "none" or _PYPI.fullmatch(value):
            return value
        parts = urlsplit(value)
        if parts.scheme in ("https", "http") and parts.hostname:
            return value
        if PurePosixPath(value).is_absolute():
            return value
        raise ValueError(
            f"{value!r} is neither pypi:NAME==VERSION, https://…, an absolute path on the workers, "
            "nor none"
        )

    @field_validator("chronos_sha256")
    @classmethod
    def _is_a_hash(cls, value: str | None) -> str | None:
        if value is not None and not _SHA256.fullmatch(value):
            raise ValueError("give the SHA-256 of the file, 64 lowercase hex digits")
        return value

    @field_validator("deny")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ipaddress.IPv4Network(one)
            except ValueError as error:
                raise ValueError(f"{one!r} is no IPv4 network: {error}") from None
        return value

    @field_validator("manager_addresses", "daemon_addresses")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            host, colon, port = one.rpartition(":")
            if not (colon and _HOST.fullmatch(host) and port.isdecimal() and len(port) < 6):
                raise ValueError(f"{one!r} is no address:port")
            if not 1 <= int(port) <= 65535:
                raise ValueError(f"{port} is no port")
        return value

    @model_validator(mode="after")
    def _hash_goes_with_a_source(self) -> "ProvisioningSection":
        if self.chronos_sha256 is not None and self.chronos_source is None:
            raise ValueError("chronos_sha256 goes with chronos_source")
        if (self.chronos_source or "").startswith("http:") and self.chronos_sha256 is None:
            raise ValueError("a chronos_source that isn't https needs chronos_sha256")
        source = self.chronos_source or ""
        is_archive = source.startswith("pypi:") or source.endswith((".tar.gz", ".tgz"))
        if self.chronos_sha256 is not None and not is_archive:
            raise ValueError(
                "chronos_sha256 is of a .tar.gz or of pypi:…, and chronos_source names neither"
            )
        return self
