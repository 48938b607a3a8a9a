"""The effective configuration for an operator: every value, and where it comes from.

Secrets are never in it: a value that is one, or may hold one, is shown as hidden.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

import attrs
from pydantic import BaseModel

from cumulusd.config import Config, Loaded
from cumulusd.config_file import KeyPath, Lines, key_text
from cumulusd.config_tokens import Token

Source = Literal["file", "environment", "credential", "default"]

HIDDEN = "(hidden)"
#: Hashes of tokens, and what operators hand to jobs: proxies with a password, for one.
_SECRET = re.compile(r"tokens\[\d+\]\.token_sha256|jobs\.environment\..*", re.DOTALL)
#: What of a URL may be a secret: who one is there, and what is asked for.
_USER = re.compile(r"(?<=://)[^/@\s]*(?=@)")
_QUERY = re.compile(r"(?<=[?#])\S+")


@attrs.frozen(kw_only=True)
class Shown:
    """One value. `line` is set for what stands in the file, `variable` for what is taken from the
    environment, or from systemd's credential of that name."""

    key: KeyPath
    value: Any  #: as JSON has it; secrets are `HIDDEN`
    source: Source
    line: int | None = None
    variable: str | None = None

    @property
    def where(self) -> str:
        """In words."""
        if self.source == "file":
            return f"line {self.line}"
        return "default" if self.variable is None else f"{self.source} {self.variable}"


def shown(loaded: Loaded, environ: Mapping[str, str]) -> list[Shown]:
    """Every value, one by one, in the order in which the code has the keys. `environ`: what it was
    loaded with."""
    return [_named(one, environ) for one in _section(loaded.config, (), loaded.lines)]


def as_json(path: str, values: Sequence[Shown]) -> dict[str, Any]:
    """For programs."""
    return {
        "file": path,
        "values": [
            {
                "key": key_text(one.key),
                "value": one.value,
                "hidden": HIDDEN in str(one.value),
                "source": one.source,
                "line": one.line,
                "variable": one.variable,
            }
            for one in values
        ],
    }


def as_text(values: Sequence[Shown]) -> list[str]:
    """One value a line: its key, itself, where it comes from."""
    rows = [(key_text(one.key), _told(one.value), one.where) for one in values]
    keys, texts = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return [f"{key:<{keys}}  {text:<{min(texts, 48)}}  {where}" for key, text, where in rows]


def _named(one: Shown, environ: Mapping[str, str]) -> Shown:
    """A variable that isn't set was a credential."""
    if one.variable is None or environ.get(one.variable):
        return one
    return attrs.evolve(one, source="credential")


def _section(section: BaseModel, location: KeyPath, lines: Lines) -> Iterator[Shown]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(section, Config) and name == "admin_socket":
            value = section.admin_path  # null means this one
        yield from _value(section, value, (*location, name), lines)


def _value(section: BaseModel, value: Any, location: KeyPath, lines: Lines) -> Iterator[Shown]:
    if isinstance(value, BaseModel):
        yield from _section(value, location, lines)
    elif isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _value(section, inner, (*location, name), lines)
    elif isinstance(value, tuple) and value:
        for index, inner in enumerate(value):
            yield from _value(section, inner, (*location, index), lines)
    else:
        yield _leaf(section, value, location, lines)


def _leaf(section: BaseModel, value: Any, location: KeyPath, lines: Lines) -> Shown:
    written, line = _plain(value), lines.exactly(location)
    if value is not None and _SECRET.fullmatch(key_text(location)):
        written = HIDDEN
    if line is not None:
        return Shown(key=location, value=written, source="file", line=line)
    if isinstance(section, Token) and location[-1] == "token_sha256":
        variable = section.token_env or section.default_variable
        return Shown(key=location, value=written, source="environment", variable=variable)
    return Shown(key=location, value=written, source="default")


def _plain(value: Any) -> Any:
    """As JSON has it, without what a URL may hide."""
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str) and "://" in value:
        return _QUERY.sub(HIDDEN, _USER.sub(HIDDEN, value))
    return list(value) if isinstance(value, tuple) else value


def _told(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
