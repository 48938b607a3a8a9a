"""The configuration's section `platform`: who runs the jobs, and how to reach it."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from cumulus_wire.engine_metrics import DEFAULT_ADDRESS
from cumulusd.config_credentials import resolve

#: What Swarm takes as one secret is under 512,000 bytes; that is how files get to agents.
MAX_BUNDLE_BYTES = 500_000
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_ADDRESS = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")


def absolute(value: Path, info: ValidationInfo) -> Path:
    """Relative paths start at the file's folder. Links are kept: a venv's python is one."""
    context = info.context or {}
    base: Path = context.get("folder", Path.cwd())
    text = resolve(str(value), context.get("environ") or {})
    return Path(os.path.normpath(base / Path(text).expanduser()))


def _file(value: Path | None, info: ValidationInfo) -> Path | None:
    if value is None:
        return None
    path = absolute(value, info)
    if not path.is_file():
        raise ValueError(f"no file at {path}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} can't be read by this user")
    return path


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, types are not guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LocalPlatform(Section):
    """Jobs as processes of this machine, without containers."""

    #: The interpreter that jobs run on; None: the daemon's own.
    python: Annotated[Path, Field(strict=False)] | None = None
    #: CPU devices (PoCL) count as workers' devices.
    count_cpu_devices: bool = False
    #: How this machine is shown; None: its host name.
    hostname: Annotated[str, Field(min_length=1, max_length=253)] | None = None

    @field_validator("python")
    @classmethod
    def _python_runs(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        path = absolute(value, info)
        if not os.access(path, os.X_OK) or path.is_dir():
            raise ValueError(
                f"no executable file at {path}; in the repository script/setup makes it"
            )
        return path


class SwarmTls(Section):
    """Who the manager's engine is, and who we are to it. PEM files."""

    ca_cert: Annotated[Path, Field(strict=False)]
    client_cert: Annotated[Path, Field(strict=False)]
    client_key: Annotated[Path, Field(strict=False)]

    _files = field_validator("ca_cert", "client_cert", "client_key")(_file)


class SwarmPlatform(Section):
    """Jobs as containers on the workers of a Docker Swarm."""

    #: A manager's engine: unix:///path, or tcp://host:port (TLS when `tls` is there).
    endpoint: Annotated[str, Field(max_length=1024)] = "unix:///var/run/docker.sock"
    tls: SwarmTls | None = None
    #: The image of the agents, which the daemon keeps on every enrolled node.
    agent_image: str = "cumulus-agent:latest"
    #: Where agents reach this daemon: ws://host:port, or wss://host:port.
    advertise_url: Annotated[str, Field(max_length=1024)]
    #: By which certificates agents know the daemon (wss); None: those of the agent's image.
    advertise_ca: Annotated[Path, Field(strict=False)] | None = None
    #: Worker files, on each worker; bound into agents and jobs under the same path.
    worker_root: Annotated[str, Field(max_length=200)] = "/var/lib/cumulus"
    #: Host names (or node ids) to enrol as soon as they are in the Swarm.
    enroll: Annotated[
        tuple[Annotated[str, Field(max_length=253)], ...], Field(strict=False, max_length=10_000)
    ] = ()
    #: CPU devices (PoCL) count as workers' devices.
    count_cpu_devices: bool = False
    #: Where each worker's engine tells its metrics, as seen on the worker; None: nowhere.
    engine_metrics: Annotated[str, Field(max_length=300)] | None = DEFAULT_ADDRESS

    _files = field_validator("advertise_ca")(_file)

    @field_validator("engine_metrics")
    @classmethod
    def _metrics_have_an_address(cls, value: str | None) -> str | None:
        if value is not None and not _ADDRESS.fullmatch(value):
            raise ValueError(f"{value!r} is no host:port")
        return value

    @field_validator("endpoint")
    @classmethod
    def _endpoint_parses(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
            return value
        if parts.scheme == "tcp" and _has_host_and_port(value) and parts.path in ("", "/"):
            return value
        raise ValueError(f"{value!r} is neither unix:///path nor tcp://host:port")

    @field_validator("agent_image")
    @classmethod
    def _image_is_one(cls, value: str) -> str:
        if not _IMAGE.fullmatch(value):
            raise ValueError(f"{value[:300]!r} is no name of an image")
        return value

    @field_validator("advertise_url")
    @classmethod
    def _url_can_be_dialled(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("ws", "wss") or not _has_host_and_port(value):
            raise ValueError(f"{value!r} is neither ws://host:port nor wss://host:port")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
            raise ValueError("give scheme, host and port only: agents know the paths")
        if parts.hostname in ("0.0.0.0", "::"):
            raise ValueError(f"{parts.hostname} is no address that a worker can dial")
        return value

    @field_validator("worker_root")
    @classmethod
    def _root_is_a_folder_of_its_own(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not path.is_absolute() or ".." in path.parts or len(path.parts) < 3:
            raise ValueError(f"{value!r} is no absolute path of a folder below another")
        if any(character in value for character in ",:\n\0"):
            raise ValueError("a path with ',' or ':' can't be mounted")
        return str(path)

    @field_validator("enroll")
    @classmethod
    def _nodes_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _NODE.fullmatch(name):
                raise ValueError(f"{name!r} is no host name")
        if len(set(value)) != len(value):
            raise ValueError("a name is there twice")
        return value

    @model_validator(mode="after")
    def _tls_fits_the_endpoint(self) -> "SwarmPlatform":
        if self.tls is not None and not self.endpoint.startswith("tcp:"):
            raise ValueError("tls goes with an endpoint tcp://host:port")
        if self.advertise_ca is not None and not self.advertise_url.startswith("wss:"):
            raise ValueError("advertise_ca goes with an advertise_url wss://host:port")
        return self


class PlatformSection(Section):
    """Who runs the jobs."""

    type: Literal["local", "swarm"] = "local"
    local: LocalPlatform = LocalPlatform()
    swarm: SwarmPlatform | None = None

    @model_validator(mode="after")
    def _swarm_is_described(self) -> "PlatformSection":
        if self.type == "swarm" and self.swarm is None:
            raise ValueError("type 'swarm' needs the section `swarm`, with advertise_url at least")
        return self


def _has_host_and_port(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and bool(parts.port)
    except ValueError:
        return False
