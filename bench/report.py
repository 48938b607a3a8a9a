"""What one run of `script/bench` found, as a file, and as a page made of that."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.parts.machine import described
from bench.table import Met, Row, commands, markdown, row_of

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it."""

    began_at: float  #: unix
    took_s: float
    machine: Mapping[str, Any]
    options: Sequence[str]
    rows: Sequence[Row]

    def save(self, folder: Path) -> Path:
        """Under its time, and as `latest.json`; the former's path."""
        folder.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.began_at))
        value = {**vars(self), "rows": [row.as_json() for row in self.rows]}
        text = json.dumps(value, indent=1) + "\n"
        path = folder / f"{stamp}.json"
        path.write_text(text)
        (folder / "latest.json").write_text(text)
        return path

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Raises OSError, ValueError, KeyError, TypeError."""
        value = json.loads(path.read_text())
        return cls(**{**value, "rows": [row_of(row) for row in value["rows"]]})

    def summary(self) -> str:
        """How many rows met their goals, in words."""
        met = [row.met for row in self.rows]
        unknown = sum(row.met is Met.UNKNOWN or bool(row.why_not) for row in self.rows)
        words = [
            f"{met.count(Met.YES)} goals met",
            f"{met.count(Met.NO)} not met",
            f"{unknown} not measured",
        ]
        return f"{', '.join(words)}, in {self.took_s / 60:.0f} min"

    def page(self) -> str:
        """Markdown: the machine, the table, the peers' commands."""
        day = time.strftime("%-d %B %Y", time.gmtime(self.began_at))
        options = f" with `{' '.join(self.options)}`" if self.options else ""
        return (
            f"`script/bench`{options} on {day}: {described(dict(self.machine))}. Medians with "
            f"quartiles; ratios are medians of paired rounds. {self.summary()}.\n\n"
            f"{markdown(self.rows)}\n\nThe peers:\n\n{commands(self.rows)}\n"
        )


def written_into(document: str, page: str) -> str:
    """The document with the page between its two marks. Raises ValueError where they aren't."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{page}{END}{after}"
