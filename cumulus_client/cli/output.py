"""What commands write for people, in columns, and for programs, as JSON."""

import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own. Text that is no UTF-8 comes escaped."""
    print(json.dumps(value), flush=True)


#: A long name leaves the last column this much, and is not cut below that much itself.
_LAST_COLUMN_CHARS = 16
_LEAST_NAME_CHARS = 12


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, names: str) -> None:
    """Columns with two blanks between them. On a terminal those of the head `names` and then the
    last one are cut to what fits."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table(heads, rows, width, names=names):
        print(line)


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    width: int | None = None,
    *,
    names: str | None = None,
) -> list[str]:
    """The table's lines, at most `width` characters where the last column can give way. That of
    the head `names` gives way before it, so that a long name hides no other column."""
    cells = [list(heads), *([_one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    if width is not None and names is not None:
        column = heads.index(names)
        last = min(widths[-1], _LAST_COLUMN_CHARS)
        over = sum(widths[:-1]) + last + 2 * (len(heads) - 1) - width
        widths[column] = min(widths[column], max(widths[column] - over, _LEAST_NAME_CHARS))
        for row in cells:
            row[column] = shortened(row[column], widths[column])
    lines = []
    for row in cells:
        line = "  ".join(cell.ljust(widths[column]) for column, cell in enumerate(row)).rstrip()
        lines.append(line if width is None else shortened(line, width))
    return lines


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def shortened(text: str, width: int) -> str:
    """At most `width` characters of `text`."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def duration_told(seconds: float) -> str:
    """`42s`, `3m05s`, `2h10m`, `3d04h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size_told(size_bytes: float) -> str:
    """`512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError


def time_told(unix_s: float | None) -> str:
    """A moment in this machine's time zone."""
    if unix_s is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


def share_told(view: Mapping[str, Any]) -> str:
    """What a job has, or asks, of a device's memory: `25%`."""
    units = view.get("units") or (view.get("partition") or {}).get("units")
    if isinstance(units, int):
        return f"{units / 100:g}%"
    asked = view.get("gpu_memory")
    return f"{100 * asked:g}%" if isinstance(asked, int | float) else ""


def ran_s(view: Mapping[str, Any], now: float) -> float | None:
    """How long a job has run, None before it does."""
    started, ended = view.get("started_at"), view.get("completed_at")
    return None if started is None else (ended or now) - started
