"""The daemon's configuration: a YAML file, checked as a whole before anything starts.

Every fault is reported at once, with its line and key. Secrets come from the environment.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import attrs
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from cumulusd import tls
from cumulusd.admin.token_file import FILE as TOKEN_FILE
from cumulusd.config_chronos import ChronosSection
from cumulusd.config_credentials import Secrets, resolve_within
from cumulusd.config_faults import fault_of
from cumulusd.config_file import ConfigError, Fault, KeyPath, Lines, key_text, read_yaml
from cumulusd.config_jobs import Jobs
from cumulusd.config_listen import is_inherited, is_loopback, open_to_others, read_endpoint
from cumulusd.config_platform import MAX_BUNDLE_BYTES, PlatformSection, Section, absolute
from cumulusd.config_provisioning import ProvisioningSection
from cumulusd.config_router import RouterSection
from cumulusd.config_s3 import S3Section
from cumulusd.config_tokens import Token
from cumulusd.config_web import Web
from cumulusd.identity import Principal

__all__ = ["Config", "ConfigError", "load_config"]

DEFAULT_STATE_DIR = "cumulusd-state"
ADMIN_SOCKET = "admin.sock"


class Log(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warn", "error", "critical"] = "info"
    #: `auto`: text on a terminal, for the journal where systemd runs it, JSON lines otherwise.
    format: Literal["auto", "text", "json", "journal"] = "auto"


def _endpoint(value: str, info: ValidationInfo) -> str:
    """One of `listen`; judged one by one, so that each one's fault is told."""
    folder: Path = (info.context or {}).get("folder", Path.cwd())
    environ = (info.context or {}).get("environ") or {}
    return read_endpoint(resolve_within(value, environ), folder)


class Config(Section):
    """All of it. Paths are absolute."""

    #: Twisted endpoint descriptions of what to listen on.
    listen: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_endpoint)], ...],
        Field(strict=False, max_length=16),
    ] = ("tcp:50051:interface=127.0.0.1",)
    #: Take tokens over connections that others on the network can read, too.
    allow_plain_tokens: bool = False
    #: Where this machine's operators manage tokens; None: `admin.sock` in state_dir.
    admin_socket: Annotated[Path | None, Field(strict=False)] = None
    web: Web = Web()
    #: Everything that outlives the process.
    state_dir: Annotated[Path, Field(strict=False, validate_default=True)] = Path(DEFAULT_STATE_DIR)
    platform: PlatformSection = PlatformSection()
    chronos: ChronosSection = ChronosSection()
    provisioning: ProvisioningSection = ProvisioningSection()
    #: Where jobs keep checkpoints that every worker reaches; None: on their workers alone.
    s3: S3Section | None = None
    jobs: Jobs = Jobs()
    #: How long a ready worker whose agent is away still counts as one to wait for.
    agent_grace_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    router: RouterSection = RouterSection()
    log: Log = Log()
    tokens: Annotated[tuple[Token, ...], Field(strict=False, max_length=10_000)] = ()

    @field_validator("listen")
    @classmethod
    def _listens(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # Not by min_length: that counts only those that are no fault of their own.
        if not value:
            raise ValueError("must name at least 1 endpoint")
        return value

    @field_validator("state_dir")
    @classmethod
    def _state_dir_absolute(cls, value: Path, info: ValidationInfo) -> Path:
        path = absolute(value, info)
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is there and is no folder")
        return path

    @field_validator("tokens")
    @classmethod
    def _tokens_differ(cls, value: tuple[Token, ...]) -> tuple[Token, ...]:
        for field in ("name", "token_sha256"):
            seen: dict[str, str] = {}
            for token in value:
                key = str(getattr(token, field))
                if key in seen:
                    what = "the same name" if field == "name" else "the same token"
                    raise ValueError(f"{what} twice: {seen[key]!r} and {token.name!r}")
                seen[key] = token.name
        return value

    @field_validator("admin_socket")
    @classmethod
    def _socket_has_a_folder(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        path = absolute(value, info)
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent}")
        if path.exists() and not path.is_socket():
            raise ValueError(f"{path} is there and is no socket")
        if len(os.fsencode(path.name)) > 64:
            raise ValueError("its name is at most 64 bytes long")
        return path

    @property
    def admin_path(self) -> Path:
        """The admin socket."""
        return self.admin_socket or self.state_dir / ADMIN_SOCKET

    @property
    def tokens_made(self) -> bool:
        """Has a token ever been made by command? Then nobody comes in without one."""
        return os.path.exists(self.state_dir / TOKEN_FILE)

    def authenticator_tokens(self) -> list[tuple[str, Principal]]:
        """What `identity.Authenticator` takes."""
        return [(str(token.token_sha256), token.principal()) for token in self.tokens]


def warnings(config: Config) -> list[str]:
    """What works and is probably not meant so, for the operator."""
    if config.allow_plain_tokens or not (config.tokens or config.tokens_made):
        return []
    found = [
        f"listen: {one!r} is not encrypted and can be reached from other machines"
        f"{', unless systemd listens on 127.0.0.1' if is_inherited(one) else ''}: tokens that come"
        " from them are refused. Listen on ssl: (docs/operations.md), or set"
        " `allow_plain_tokens: true` on a network that is trusted"
        for one in config.listen
        if not one.startswith(tls.SCHEME) and not is_loopback(one)
    ]
    swarm = config.platform.swarm if config.platform.type == "swarm" else None
    if swarm is not None and swarm.advertise_url.startswith("ws:"):
        found.append(
            f"platform.swarm.advertise_url: agents are to come to {swarm.advertise_url}, which is"
            " not encrypted: their tokens are refused unless they come from this machine. Use wss://"
            " (and advertise_ca), or set `allow_plain_tokens: true` on a network that is trusted"
        )
    return found


@attrs.frozen(kw_only=True)
class Loaded:
    """A configuration, and on which lines of its file the keys stand that are written there."""

    config: Config
    lines: Lines


def load_config(path: str | Path, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at `path`, secrets taken from `environ`.

    Raises ConfigError with every fault.
    """
    return load_with_lines(path, environ).config


def load_with_lines(path: str | Path, environ: Mapping[str, str]) -> Loaded:
    """The same, with the lines. Raises ConfigError with every fault."""
    path = Path(path)
    data, lines = read_yaml(path)
    folder = Path(os.path.abspath(path)).parent
    config: Config | None = None
    faults: list[Fault] = []
    try:
        context = {"folder": folder, "environ": Secrets(environ)}
        config = Config.model_validate(data, context=context)
    except ValidationError as error:
        faults = [fault_of(detail, lines, Config) for detail in error.errors(include_url=False)]
    # Across sections, on what was written: faults elsewhere must not hide this one.
    wrong = {re.split(r"[.\[]", fault.key)[0] for fault in faults}
    if config is not None:
        faults += [
            Fault(key=key_text(key), line=lines.of(key), message=message)
            for key, message in _faults_across(config)
        ]
    if "listen" in data and not data.get("tokens") and not wrong & {"listen", "tokens"}:
        message = open_to_others(data["listen"])
        if message is not None and not (config is not None and config.tokens_made):
            faults.append(Fault(key="listen", line=lines.of(("listen",)), message=message))
    if config is None or faults:
        raise ConfigError(str(path), faults)
    return Loaded(config=config, lines=lines)


def admin_path_in(path: str | Path) -> Path:
    """The admin socket of the daemon with that configuration, whatever else is in it. Raises
    ConfigError when the file can't be read."""
    data, lines = read_yaml(Path(path))
    folder = Path(os.path.abspath(path)).parent
    for key, name in (("admin_socket", ""), ("state_dir", ADMIN_SOCKET)):
        value = data.get(key)
        if value is not None and not isinstance(value, str):
            fault = Fault(key=key, line=lines.of((key,)), message="must be a path")
            raise ConfigError(str(path), [fault])
        if value:
            return Path(os.path.normpath(folder / Path(value).expanduser() / name))
    return folder / DEFAULT_STATE_DIR / ADMIN_SOCKET


def _faults_across(config: Config) -> list[tuple[KeyPath, str]]:
    """What one section lacks for another's sake."""
    faults: list[tuple[KeyPath, str]] = []
    if config.platform.type != "swarm":
        return faults
    if config.jobs.image is None:
        faults.append((("jobs", "image"), "is required by the swarm platform"))
    bundle = config.jobs.ca_bundle
    if bundle is not None and bundle.stat().st_size > MAX_BUNDLE_BYTES:
        message = f"{bundle} is over {MAX_BUNDLE_BYTES} bytes, the most that Swarm carries"
        faults.append((("jobs", "ca_bundle"), message))
    return faults
