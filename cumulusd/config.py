"""The daemon's configuration: a YAML file, checked as a whole before anything starts.

Every fault is reported at once, with its line and key. Secrets come from the environment.
"""

import difflib
import hashlib
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from twisted.internet import endpoints

from cumulusd import tls
from cumulusd.admin.token_file import FILE as TOKEN_FILE
from cumulusd.config_chronos import ChronosSection
from cumulusd.config_file import ConfigError, Fault, KeyPath, Lines, key_text, read_yaml
from cumulusd.config_jobs import Jobs
from cumulusd.config_platform import MAX_BUNDLE_BYTES, PlatformSection, Section, absolute
from cumulusd.config_router import RouterSection
from cumulusd.config_s3 import S3Section
from cumulusd.identity import NAME, Principal, Role
from cumulusd.origins import parse_origin

__all__ = ["Config", "ConfigError", "load_config"]

#: Shortest token taken: 128 bits in hex are 32 characters, in base64 22.
MIN_TOKEN_CHARACTERS = 20
DEFAULT_STATE_DIR = "cumulusd-state"
ADMIN_SOCKET = "admin.sock"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Log(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warn", "error", "critical"] = "info"
    #: `auto`: text on a terminal, JSON lines otherwise.
    format: Literal["auto", "text", "json"] = "auto"


class Token(Section):
    """Somebody who may come in. After loading, `token_sha256` is always set.

    The token itself is never kept: its hash stands in the file, or it comes from an environment
    variable, `token_env` or, when neither is given, `CUMULUSD_TOKEN_<NAME>`.
    """

    name: str
    owner: str
    role: Literal["client", "admin", "viewer"]
    token_sha256: str | None = None
    token_env: str | None = None

    @field_validator("name", "owner")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(
                "use 1 to 64 letters, digits and . _ @ - (the first a letter or digit)"
            )
        return value

    @field_validator("owner")
    @classmethod
    def _is_not_the_daemon(cls, value: str) -> str:
        if value == "cumulusd":
            raise ValueError("'cumulusd' is the daemon itself; choose another owner")
        return value

    @field_validator("token_sha256")
    @classmethod
    def _is_a_hash(cls, value: str | None) -> str | None:
        if value is not None and not _SHA256.fullmatch(value):
            raise ValueError("give the SHA-256 of the token, 64 lowercase hex digits")
        return value

    @field_validator("token_env")
    @classmethod
    def _is_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            raise ValueError(f"{value!r} is no name of an environment variable")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _find_secret(cls, data: Any, handler: Any, info: ValidationInfo) -> Any:
        token: Token = handler(data)
        if token.token_sha256 is not None:
            if token.token_env is not None:
                raise ValueError("give token_sha256 or token_env, not both")
            return token
        variable = token.token_env or token.default_variable
        secret = ((info.context or {}).get("environ") or {}).get(variable, "")
        if not secret:
            raise ValueError(
                f"no token_sha256, and the environment variable {variable} is not set; give one"
            )
        if len(secret) < MIN_TOKEN_CHARACTERS:
            raise ValueError(
                f"the token in {variable} is too short: "
                f"at least {MIN_TOKEN_CHARACTERS} characters, made by a random generator"
            )
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return token.model_copy(update={"token_sha256": digest})

    @property
    def default_variable(self) -> str:
        """The environment variable that holds the token when nothing else is said."""
        return "CUMULUSD_TOKEN_" + re.sub(r"[^A-Z0-9]", "_", self.name.upper())

    def principal(self) -> Principal:
        """Whom the token stands for."""
        return Principal(name=self.name, owner=self.owner, role=Role(self.role))


class Web(Section):
    """Which pages of browsers may use the daemon, beside its own."""

    #: Origins, such as https://dash.example.org.
    allowed_origins: Annotated[
        tuple[Annotated[str, Field(max_length=300)], ...], Field(strict=False, max_length=100)
    ] = ()
    #: Names under which a daemon without tokens answers, beside localhost.
    host_names: Annotated[
        tuple[Annotated[str, Field(max_length=253)], ...], Field(strict=False, max_length=100)
    ] = ()

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parse_origin(origin)
        return value

    @field_validator("host_names")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST.fullmatch(name):
                raise ValueError(f"{name!r} is no host name; write it without scheme and port")
        return value


class Config(Section):
    """All of it. Paths are absolute."""

    #: Twisted endpoint descriptions of what to listen on.
    listen: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...],
        Field(strict=False, min_length=1, max_length=16),
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
    def _endpoints_parse(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        found = []
        for description in value:
            if description.startswith(tls.SCHEME):
                found.append(_tls_listener(description, info).description)
                continue
            found.append(description)
            try:
                # Making an endpoint only reads the description: no reactor yet.
                endpoints.serverFromString(object(), description)  # type: ignore[no-untyped-call]
            except Exception as error:
                raise ValueError(
                    f"{description!r} is no endpoint ({type(error).__name__}: {error}); "
                    "for example tcp:50051:interface=127.0.0.1"
                ) from None
        return tuple(found)

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


def _tls_listener(description: str, info: ValidationInfo) -> tls.TlsListener:
    folder: Path = (info.context or {}).get("folder", Path.cwd())
    try:
        listener = tls.parse_listener(description, folder)
        tls.load_certificate(listener)
    except tls.TlsUnusable as error:
        raise ValueError(f"{description!r} can't be listened on: {error}") from None
    return listener


def warnings(config: Config) -> list[str]:
    """What works and is probably not meant so, for the operator."""
    if config.allow_plain_tokens or not (config.tokens or config.tokens_made):
        return []
    found = [
        f"listen: {one!r} is not encrypted and can be reached from other machines: tokens that come"
        " there are refused. Listen on ssl: (docs/operations.md), or set `allow_plain_tokens: true`"
        " on a network that is trusted"
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


def open_to_others(listen: Sequence[str]) -> str | None:
    """What is wrong with listening there without tokens; None when only this machine gets in."""
    for description in listen:
        if not is_loopback(description):
            return (
                f"{description!r} can be reached from other machines, and there "
                "are no tokens: configure tokens, or listen on 127.0.0.1 until "
                "`cumulusd token create` has made the first"
            )
    return None


def is_loopback(description: str) -> bool:
    """Can this endpoint be reached from this machine only? False also when it can't be told."""
    parts = re.split(r"(?<!\\):", description)
    kind, named, positional = parts[0], {}, []
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        if equals:
            named[key] = value.replace("\\", "")
        else:
            positional.append(part.replace("\\", ""))
    if kind == "unix":
        return True
    if kind not in ("tcp", "ssl"):
        # tcp6, systemd, haproxy, a plugin's: told only where the interface is named outright.
        return kind == "tcp6" and _is_loopback_address(named.get("interface", ""))
    interface = named.get("interface", positional[1] if kind == "tcp" and positional[1:] else "")
    return _is_loopback_address(interface)


def _is_loopback_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def load_config(path: str | Path, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at `path`, secrets taken from `environ`.

    Raises ConfigError with every fault.
    """
    path = Path(path)
    data, lines = read_yaml(path)
    folder = Path(os.path.abspath(path)).parent
    config: Config | None = None
    faults: list[Fault] = []
    try:
        config = Config.model_validate(data, context={"folder": folder, "environ": environ})
    except ValidationError as error:
        faults = [_fault(detail, lines) for detail in error.errors(include_url=False)]
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
    return config


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


def _fault(detail: ErrorDetails, lines: Lines) -> Fault:
    """One of pydantic's errors in our words."""
    location: KeyPath = tuple(part for part in detail["loc"])
    key = key_text(location)
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
        message = (
            f"unknown key; did you mean {nearest[0]!r}?"
            if nearest
            else f"unknown key; known here: {', '.join(sorted(known))}"
        )
    elif kind == "missing":
        message = "is required"
    elif kind == "model_type":
        message = "must be a section: keys and their values"
    elif kind == "value_error":
        message = str(detail["ctx"]["error"])
    else:
        message = detail["msg"][0].lower() + detail["msg"][1:]
        if isinstance(given, str | int | float | bool | None):
            message += f" (it is {given!r})"
    return Fault(key=key, line=lines.of(location), message=message)


def _known_keys(location: KeyPath) -> list[str]:
    """The keys that may stand at this place."""
    model: type[BaseModel] = Config
    for part in location:
        if isinstance(part, int):
            continue
        model = _section_in(model.model_fields[str(part)].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field's type holds, directly or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if (found := _section_in(inner)) is not None:
            return found
    return None
