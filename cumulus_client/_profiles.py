"""Which daemon and which key: given, from the environment, or from the configuration file.

The file is `$XDG_CONFIG_HOME/cumulus/config.toml` (`~/.config` without that variable), mode 0600::

    default_profile = "lab"

    [profiles.lab]
    server_url = "https://gpu.example.org"
    api_key = "..."
    api_key_name = "ann"
    ca_file = "lab-ca.pem"

What is given goes before `CUMULUS_SERVER_URL`, `CUMULUS_API_KEY` (with `CUMULUS_API_KEY_NAME`),
`CUMULUS_CA_FILE` and `CUMULUS_PROFILE`, those before the file. A key's name is that of the place
where the key was found. A key of the file is sent to its own profile's server and to no other; by
its CA file that server is known and no other.
"""

import contextlib
import difflib
import json
import os
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cumulus_client.connection import normalise_url

DEFAULT_SERVER_URL = "http://127.0.0.1:50051"
DEFAULT_PROFILE = "default"
#: No configuration is longer; something else stands at that path.
MAX_FILE_BYTES = 1 << 20

_KEYS = ("server_url", "api_key", "api_key_name", "ca_file")


class ProfileError(ValueError):
    """The configuration file, or what was asked of it, is wrong; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One daemon as its user calls it."""

    name: str
    server_url: str
    api_key: str | None = field(default=None, repr=False)
    api_key_name: str | None = None  #: what the daemon calls the key
    ca_file: str | None = None  #: as written: a relative path starts at the file's folder


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """The configuration file's content."""

    default: str | None = None
    profiles: Mapping[str, Profile]

    def with_profile(self, profile: Profile, *, make_default: bool) -> "Profiles":
        """With that one added or replaced. The first is the default."""
        default = profile.name if make_default or self.default is None else self.default
        return Profiles(default=default, profiles={**self.profiles, profile.name: profile})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The daemon to speak to. `origin`: where the URL was found, in words."""

    server_url: str
    api_key: str | None = field(repr=False)
    origin: str
    api_key_name: str | None = None
    ca_file: str | None = None


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the configuration file is, or would be."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CONFIG_HOME") or ""
    # The XDG specification: a relative path is invalid and to be ignored.
    folder = Path(base) if os.path.isabs(base) else Path(_home(environ)) / ".config"
    return folder / "cumulus" / "config.toml"


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def settings(
    server_url: str | None = None,
    api_key: str | None = None,
    profile: str | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    *,
    api_key_name: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The daemon's URL, key and CA file: what is given, else the environment's, else the file's,
    else this machine's daemon. `profile`: the name of one in the file, which goes before the
    environment.

    Raises ProfileError; ValueError for a URL that is none, or a CA file that can't be read.
    """
    environ = os.environ if environ is None else environ
    path = config_path(environ)
    env_url = environ.get("CUMULUS_SERVER_URL") or None
    env_key = environ.get("CUMULUS_API_KEY") or None
    wanted = profile or environ.get("CUMULUS_PROFILE") or None
    if wanted is None and (server_url or env_url) and (api_key or env_key):
        chosen = None  # nothing of the file can matter, however broken it is
    else:
        chosen = _chosen(load(path), wanted, path, environ if profile is None else None)
    if server_url:
        url, origin = server_url, "as given"
    elif profile and chosen is not None:
        url, origin = chosen.server_url, f"profile {chosen.name!r} of {path}"
    elif env_url:
        url, origin = env_url, "CUMULUS_SERVER_URL"
    elif chosen is not None:
        url, origin = chosen.server_url, f"profile {chosen.name!r} of {path}"
    else:
        url, origin = DEFAULT_SERVER_URL, "the default"
    url = normalise_url(url)
    found: list[tuple[str | None, str | None]] = [
        (env_key, environ.get("CUMULUS_API_KEY_NAME") or None)
    ]
    if chosen is not None and normalise_url(chosen.server_url) == url:
        found.insert(0 if profile else 1, (chosen.api_key, chosen.api_key_name))
    found.insert(0, (api_key or None, None))
    key, name = next((each for each in found if each[0]), (None, None))
    return Settings(
        server_url=url,
        api_key=key,
        origin=origin,
        api_key_name=api_key_name or name,
        ca_file=_ca_file(ca_file, environ, profile, chosen, path, url),
    )


def _ca_file(
    given: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    profile: str | None,
    chosen: Profile | None,
    path: Path,
    url: str,
) -> str | None:
    """As `settings` says, of an https URL by its absolute path. Raises ValueError."""
    ours = None
    if chosen is not None and chosen.ca_file and normalise_url(chosen.server_url) == url:
        ours = str(path.parent / Path(chosen.ca_file).expanduser())
    named = environ.get("CUMULUS_CA_FILE") or None
    found = (ours or named) if profile else (named or ours)
    if given is not None:
        found = os.fspath(given)
    return found if found is None or not url.startswith("https:") else _readable(found)


def _readable(ca_file: str) -> str:
    """Its absolute path. Raises ValueError."""
    path = os.path.abspath(os.path.expanduser(ca_file))
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise ValueError(
            f"the CA file {path} can't be read: {error.strerror or error} (ca_file=... or "
            "CUMULUS_CA_FILE names it)"
        ) from None


def _chosen(
    held: Profiles, wanted: str | None, path: Path, environ: Mapping[str, str] | None
) -> Profile | None:
    if wanted is None:
        return None if held.default is None else held.profiles[held.default]
    found = held.profiles.get(wanted)
    if found is None:
        said = "" if environ is None else " (CUMULUS_PROFILE)"
        near = difflib.get_close_matches(wanted, held.profiles, 1)
        if near:
            advice = f"did you mean {near[0]!r}?"
        elif held.profiles:
            advice = "these are: " + ", ".join(sorted(held.profiles))
        else:
            advice = f"make it with: cumulus login --profile {wanted}"
        raise ProfileError(f"{path} has no profile {wanted!r}{said}; {advice}")
    return found


# --- the file ---------------------------------------------------------------------------------


def load(path: Path) -> Profiles:
    """The file's content; none of a file that isn't there. Raises ProfileError: it can't be read,
    is not understood, or holds a key that others may read."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return Profiles(profiles={})
    except OSError as error:
        raise ProfileError(f"{path} can't be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ProfileError(f"{path} is no configuration: it is over {MAX_FILE_BYTES} B long")
    try:
        held = parse(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise ProfileError(f"{path}: {error}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and any(
        profile.api_key for profile in held.profiles.values()
    ):
        raise ProfileError(
            f"{path} holds API keys and can be reached by others "
            f"(mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}"
        )
    return held


def parse(text: str) -> Profiles:
    """The content of a file's text. Raises ValueError with all that is wrong first."""
    found = tomllib.loads(text)
    for key in found:
        if key not in ("default_profile", "profiles"):
            raise ValueError(f"unknown key {key!r}; known are default_profile and [profiles.NAME]")
    tables = found.get("profiles", {})
    if not isinstance(tables, dict):
        raise ValueError("profiles must be tables: [profiles.NAME]")
    profiles = {name: _profile(name, table) for name, table in tables.items()}
    default = found.get("default_profile")
    if default is None and len(profiles) == 1:
        default = next(iter(profiles))
    elif default is None and DEFAULT_PROFILE in profiles:
        default = DEFAULT_PROFILE
    if default is not None and (not isinstance(default, str) or default not in profiles):
        raise ValueError(f"default_profile is {default!r}, and there is no such profile")
    return Profiles(default=default, profiles=profiles)


def _profile(name: str, table: Any) -> Profile:
    where = f"[profiles.{name}]"
    if not isinstance(table, dict):
        raise ValueError(f"profiles.{name} must be a table: {where}")
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            also = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_KEYS)}"
            raise ValueError(f"{where} has the unknown key {key!r}{also}")
        if not isinstance(value, str):
            raise ValueError(f"{where}: {key} must be a text in quotes, not {value!r}")
    if not table.get("server_url"):
        raise ValueError(f"{where} has no server_url")
    try:
        url = normalise_url(table["server_url"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Profile(
        name=name,
        server_url=url,
        api_key=table.get("api_key") or None,
        api_key_name=table.get("api_key_name") or None,
        ca_file=table.get("ca_file") or None,
    )


def render(held: Profiles) -> str:
    """The file's text."""
    lines = ["# Written by `cumulus login`, which writes it anew: comments of yours don't stay."]
    if held.default is not None:
        lines.append(f"default_profile = {_quoted(held.default)}")
    for name, profile in held.profiles.items():
        lines += ["", f"[profiles.{_quoted(name)}]"]
        lines.append(f"server_url = {_quoted(profile.server_url)}")
        if profile.api_key is not None:
            lines.append(f"api_key = {_quoted(profile.api_key)}")
        if profile.api_key_name is not None:
            lines.append(f"api_key_name = {_quoted(profile.api_key_name)}")
        if profile.ca_file is not None:
            lines.append(f"ca_file = {_quoted(profile.ca_file)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, save that TOML wants DEL escaped too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def save(path: Path, held: Profiles) -> None:
    """Writes the file for its owner alone, whole or not at all. Raises ProfileError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Through a link (a folder of dotfiles), not in its place.
        target = Path(os.path.realpath(path))
        descriptor, temporary = tempfile.mkstemp(prefix=".config-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(render(held))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise ProfileError(f"{path} can't be written: {error.strerror or error}") from None
