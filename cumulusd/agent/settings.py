"""How an agent of its own is configured: environment variables, checked as a whole.

========================== ====================================================================
CUMULUS_AGENT_URL          where the daemon is: ws://host:port or wss://host:port
CUMULUS_AGENT_CA_FILE      by which certificates it is known (wss); else the system's
CUMULUS_AGENT_NODE_ID      the node it stands for
CUMULUS_AGENT_HOSTNAME     how the node is shown
CUMULUS_AGENT_TOKEN_FILE   holds its token
CUMULUS_AGENT_ROOT         its folder; jobs and environments are below
CUMULUS_AGENT_CA_BUNDLE    a CA bundle for jobs and their installer
CUMULUS_AGENT_OPTIONS      a JSON object of `AgentOptions`, those in `OPTIONS`
CUMULUS_AGENT_LOG_LEVEL    debug, info (the default), warn, error
CUMULUS_AGENT_LOG_FORMAT   auto (the default), text, json
========================== ====================================================================
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import attrs
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from cumulus_wire.grant import Tier
from cumulusd.agent.options import CHRONOS_BACKENDS, AgentOptions
from cumulusd.log import Format

PREFIX = "CUMULUS_AGENT_"
_NAMES = (
    *("URL", "CA_FILE", "NODE_ID", "HOSTNAME", "TOKEN_FILE", "ROOT", "CA_BUNDLE"),
    *("OPTIONS", "LOG_LEVEL", "LOG_FORMAT"),
)
MAX_FILE_BYTES = 1 << 20
_END = "-----END CERTIFICATE-----"


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("must be true or false")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("must be a whole number")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise ValueError("must be a number over 0")
    return float(value)


def _text_or_null(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError("must be a text or null")
    return value


def _tiers(value: Any) -> tuple[str, ...]:
    known = [tier.value for tier in Tier]
    if not isinstance(value, list) or any(name not in known for name in value):
        raise ValueError(f"must be a list of some of {', '.join(known)}")
    return tuple(value)


def _fraction(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ValueError("must be a number from 0 to less than 1")
    return float(value)


def _backend(value: Any) -> str:
    if value not in CHRONOS_BACKENDS:
        raise ValueError(f"must be one of {', '.join(CHRONOS_BACKENDS)}")
    return str(value)


#: The options that may be set, and what they must be.
OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "count_cpu_devices": _bool,
    "package_max_bytes": _whole,
    "package_max_files": _whole,
    "outputs_max_bytes": _whole,
    "journal_max_bytes": _whole,
    "segment_bytes": _whole,
    "min_free_bytes": _whole,
    "requirements_cache_max_bytes": _whole,
    "requirements_cache_owner_max_bytes": _whole,
    "stop_grace_s": _seconds,
    "expiry_grace_s": _seconds,
    "discovery_timeout_s": _seconds,
    "discovery_interval_s": _seconds,
    "job_uid": _whole,
    "job_gid": _whole,
    "tiers": _tiers,
    "prove_each_job": _bool,
    "gpu_reserve_fraction": _fraction,
    "cpu_reserve_fraction": _fraction,
    "chronos_backend": _backend,
    "chronos_library": _text_or_null,
    "engine_metrics": _text_or_null,
    "job_python": _text_or_null,
    "uv": _text_or_null,
}


class SettingsError(Exception):
    """`str()` has one line per fault."""


@attrs.frozen(kw_only=True)
class AgentSettings:
    """What the process is to be."""

    url: str
    node_id: str
    hostname: str
    token: str = attrs.field(repr=False)
    root: Path
    options: AgentOptions
    ca_file: Path | None = None
    log_level: str = "info"
    log_format: Format = "auto"


def read_settings(environ: Mapping[str, str]) -> AgentSettings:
    """The settings in those variables. Raises SettingsError with every fault."""
    look = _Look(environ)
    url = look.take("URL", _url)
    token = look.take("TOKEN_FILE", _token)
    ca_bundle = look.take("CA_BUNDLE", Path, default=None)
    options = look.take("OPTIONS", _options, default=AgentOptions())
    settings = {
        "url": url,
        "token": token,
        "node_id": look.take("NODE_ID", _name),
        "hostname": look.take("HOSTNAME", _name),
        "root": look.take("ROOT", _folder),
        "ca_file": look.take("CA_FILE", Path, default=None),
        "log_level": look.take("LOG_LEVEL", _one_of("debug", "info", "warn", "error"), "info"),
        "log_format": look.take("LOG_FORMAT", _one_of("auto", "text", "json"), "auto"),
    }
    look.refuse_unknown()
    if look.faults:
        raise SettingsError("\n".join(look.faults))
    parts = urlsplit(url)
    host = attrs.evolve(options, ca_bundle=ca_bundle, host=parts.netloc)
    return AgentSettings(options=host, **settings)


def read_options(environ: Mapping[str, str]) -> AgentOptions:
    """The options alone. Raises SettingsError."""
    look = _Look(environ)
    options: AgentOptions = look.take("OPTIONS", _options, default=AgentOptions())
    if look.faults:
        raise SettingsError("\n".join(look.faults))
    return options


def daemon_endpoint(reactor: Any, settings: AgentSettings) -> IStreamClientEndpoint:
    """Where to dial. Raises SettingsError when the CA file can't be used."""
    parts = urlsplit(settings.url)
    host = str(parts.hostname)
    plain = HostnameEndpoint(reactor, host, cast(int, parts.port))
    if parts.scheme == "ws":
        return cast(IStreamClientEndpoint, plain)
    trust = None if settings.ca_file is None else _trust(settings.ca_file)
    options = optionsForClientTLS(host, trustRoot=trust)
    return wrapClientTLS(options, plain)


def _trust(path: Path) -> Any:
    try:
        text = _read(path)
        pems = [part + _END for part in text.split(_END)[:-1]]
        if not pems:
            raise ValueError("there is no certificate in it")
        found = [Certificate.loadPEM(pem.encode()) for pem in pems]
    except Exception as error:
        # Whatever OpenSSL says of it, it can't be trusted.
        raise SettingsError(f"{PREFIX}CA_FILE: {path} can't be used: {error!r}") from error
    return trustRootFromCertificates(found)  # type: ignore[no-untyped-call]


class _Look:
    """Takes variables and gathers what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []

    def take(self, name: str, check: Callable[[str], Any], default: Any = ...) -> Any:
        """The checked value; None, with a fault noted, when it is wrong or missing."""
        text = self._environ.get(PREFIX + name, "")
        if not text:
            if default is ...:
                self.faults.append(f"{PREFIX}{name}: is not set")
                return None
            return default
        try:
            return check(text)
        except (ValueError, OSError) as error:
            self.faults.append(f"{PREFIX}{name}: {error}")
            return None

    def refuse_unknown(self) -> None:
        """A misspelt variable must not be taken for one that isn't set."""
        for name in sorted(self._environ):
            if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _NAMES:
                self.faults.append(f"{name}: is not known; known: {', '.join(_NAMES)}")


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or not parts.port:
        raise ValueError(f"{text!r} is neither ws://host:port nor wss://host:port")
    if parts.path not in ("", "/") or parts.query or parts.username:
        raise ValueError("give scheme, host and port only")
    return text


def _name(text: str) -> str:
    if len(text) > 253 or not text.isprintable() or " " in text:
        raise ValueError(f"{text[:300]!r} is no name")
    return text


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or path == Path("/"):
        raise ValueError(f"{text!r} is no absolute path of a folder")
    return path


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path} is over {MAX_FILE_BYTES} bytes")
    return data.decode()


def _token(text: str) -> str:
    token = _read(Path(text)).strip()
    if not token or not token.isprintable():
        raise ValueError(f"{text} holds no token")
    return token


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return check


def _options(text: str) -> AgentOptions:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError("must be a JSON object")
    taken = {}
    for name, value in given.items():
        if name not in OPTIONS:
            raise ValueError(f"{name!r} is not known; known: {', '.join(OPTIONS)}")
        try:
            taken[name] = OPTIONS[name](value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return AgentOptions(**taken)
