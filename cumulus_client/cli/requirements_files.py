"""Reads requirements.txt files as pip writes and takes them."""

import os
import re
from pathlib import Path

from cumulus_client.cli.parser import UsageError


def read_requirements(
    path: Path, _from: tuple[Path, ...] = (), _named: str | None = None
) -> list[str]:
    """The requirements of a requirements.txt; `-r` lines are followed. Raises UsageError."""
    # Made absolute, not resolved: `-r <(command)` is a link that leads to no path.
    path = Path(os.path.abspath(path))
    if path in _from:
        raise UsageError(f"{path} includes itself")
    where = f"{_named}: " if _named else ""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UsageError(f"{where}there is no requirements file {path}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{where}the requirements file {path} is no UTF-8 text") from None
    except OSError as error:
        raise UsageError(
            f"{where}the requirements file {path} can't be read: {error.strerror or error}"
        ) from None
    found: list[str] = []
    # A backslash at a line's end joins the next one; the mark keeps the count of lines.
    joined = re.sub(r"\\\r?\n", " \x00", text)
    number = 0
    for joined_line in joined.split("\n"):
        number += 1
        start, number = number, number + joined_line.count("\x00")
        line = re.sub(r"(^|\s)#.*$", "", joined_line.replace("\x00", "")).strip()
        if not line:
            continue
        named = f"{path}, line {start}"
        included = re.fullmatch(r"(?:-r|--requirement)[\s=]*(.+)", line)
        if included:
            inner = path.parent / included.group(1).strip()
            found += read_requirements(inner, (*_from, path), named)
        elif line.startswith("-"):
            raise UsageError(
                f"{named}: the option {line.split()[0]!r} is not supported; "
                "only requirements and -r are"
            )
        else:
            found.append(line)
    return found
