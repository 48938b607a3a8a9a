"""Values as people type them: shares, durations, moments, sizes, variables, secrets."""

import argparse
import datetime
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cumulus_client._quantities import parse_bytes, parse_seconds
from cumulus_client.cli.parser import UsageError

#: A file of variables or a secret is no longer.
MAX_FILE_BYTES = 1 << 20
#: What is taken for the name of a variable.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `1h30m`. Raises ArgumentTypeError."""
    try:
        seconds = parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not math.isfinite(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is more seconds than there are numbers")
    return seconds


def size(text: str) -> int:
    """Bytes of `8GiB`, `512M`. Raises ArgumentTypeError."""
    try:
        return parse_bytes(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def share(text: str) -> float:
    """`0.5` or `50%`; which ones are allowed is for the daemon to say. Raises ArgumentTypeError."""
    number, percent, rest = text.strip().partition("%")
    try:
        found = math.nan if rest else float(number) / (100 if percent else 1)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no share of a GPU's memory such as 0.5 or 50%"
        )
    return found


def cores(text: str) -> float:
    """A number of processor cores. Raises ArgumentTypeError."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or found <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of cores such as 2 or 0.5")
    return found


def count(text: str) -> int:
    """A whole number from 1 on. Raises ArgumentTypeError."""
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def moment(text: str, now: float) -> float:
    """The unix time of `10m` (so long ago), `2026-11-26T12:00` (this machine's time zone where it
    names none), or unix seconds from 1e9 on. Raises ValueError."""
    try:
        seconds = parse_seconds(text)
    except ValueError:
        seconds = None
    if seconds is not None:
        return seconds if seconds >= 1e9 else now - seconds
    try:
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no moment such as 10m (ago) or 2026-11-26T12:00") from None


# --- variables --------------------------------------------------------------------------------


def environment(
    given: Sequence[str], files: Sequence[Path], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Of `NAME=VALUE`, of `NAME` (with the value it has here) and of files with such lines; what
    is given goes before the files. Raises UsageError."""
    environ = os.environ if environ is None else environ
    found: dict[str, str] = {}
    for path in files:
        for number, line in enumerate(_file_text(path, "--env-file").splitlines(), 1):
            line = line.strip()
            if line and not line.startswith("#"):
                key, value = _variable(line, f"{path}, line {number}:", environ)
                found[key] = value
    for pair in given:
        key, value = _variable(pair, "--env", environ)
        found[key] = value
    return found


def _variable(pair: str, where: str, environ: Mapping[str, str]) -> tuple[str, str]:
    key, equals, value = pair.partition("=")
    if not _NAME.fullmatch(key):
        raise UsageError(f"{where} {pair!r} is neither NAME=VALUE nor NAME")
    if equals:
        return key, value
    if key not in environ:
        raise UsageError(f"{where} {key}: there is no such variable here; write {key}=VALUE")
    return key, environ[key]


def secrets(
    given: Sequence[str], environ: Mapping[str, str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Of `NAME` (with the value it has here), `NAME@FILE` (less a newline at its end) and
    `NAME=VALUE`; and the names of the last kind, whose values this machine's other users can read
    in the list of processes. No error shows a value. Raises UsageError."""
    environ = os.environ if environ is None else environ
    found: dict[str, str] = {}
    visible = []
    for pair in given:
        name = re.split("[=@]", pair, maxsplit=1)[0]
        kind, value = pair[len(name) : len(name) + 1], pair[len(name) + 1 :]
        if not _NAME.fullmatch(name):
            raise UsageError(
                "--secret wants NAME, NAME@FILE or NAME=VALUE, NAME of letters, digits and _"
            )
        if kind == "=":
            visible.append(name)
        elif kind == "@":
            text = _file_text(Path(value), f"--secret {name}@")
            value = re.sub(r"\r?\n\Z", "", text)
        elif name in environ:
            value = environ[name]
        else:
            raise UsageError(
                f"--secret {name}: there is no such variable here; set it, or write {name}@FILE"
            )
        found[name] = value
    return found, visible


def _file_text(path: Path, option: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UsageError(f"{option} {path}: it is over {MAX_FILE_BYTES} B long")
        return data.decode("utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{option} {path} is no UTF-8 text") from None


def files(given: Sequence[str]) -> list[str] | dict[str, str] | None:
    """Of `PATH` and `NAME=PATH`, as the client's `files` takes them. Raises UsageError."""
    if not given:
        return None
    pairs = []
    for each in given:
        # A path with = in it is one where there is such a file.
        name, equals, path = each.partition("=")
        if equals and not os.path.exists(each):
            pairs.append((name, path))
        else:
            pairs.append(("", each))
    for _, path in pairs:
        if not os.path.exists(path):
            raise UsageError(f"--file {path}: there is no such file")
    if not any(name for name, _ in pairs):
        return [path for _, path in pairs]
    return {name or _own_place(path): path for name, path in pairs}


def _own_place(path: str) -> str:
    """Where a file goes that is named by its path alone, as the client's `files` has it."""
    normal = os.path.normpath(path)
    outside = os.path.isabs(normal) or normal.split(os.sep)[0] == os.pardir
    return os.path.basename(os.path.realpath(path)) if outside else normal
