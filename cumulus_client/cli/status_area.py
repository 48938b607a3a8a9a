"""Draws the lines of the live display at the end of what a terminal shows, and takes them away.

Only what was drawn here is ever erased. rich makes the lines; where they stand is kept here, since
the job's own bytes go to the terminal unseen by rich.
"""

import os
import time
from typing import TYPE_CHECKING, TextIO

from rich.console import COLOR_SYSTEMS, Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cumulus_client.cli.live_state import Told

_BAR_WIDTH = 30
_ERASE_BELOW = "\x1b[J"
#: Where a terminal doesn't say how large it is.
_SIZE = os.terminal_size((80, 24))


class StatusArea:
    """The last rows of a terminal. One thread at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(file=stream, highlight=False, markup=False)
        ascii_only = self._console.options.ascii_only
        self._spinner = Spinner("line" if ascii_only else "dots", style="cyan")
        self._between = " | " if ascii_only else " · "
        self._drawn = False

    @property
    def usable(self) -> bool:
        """Can this terminal move its cursor?"""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def draw(self, told: "Told", begun: list[str]) -> None:
        """Shows it in place of what was there. `begun`: lines of the job's that have no end yet.
        The cursor is to stand at the begin of a row, where the last `draw` left it.

        It is left at the begin of the first row: there it stays with the row when the terminal
        becomes narrower and breaks the lines, and there a typed `^C` is echoed.
        """
        size = self._size()
        # The last column stays free: at it some terminals begin a new row, some don't.
        lines = self._lines(told, begun, max(1, size.columns - 1))[: max(0, size.lines - 1)]
        up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        self._stream.write(f"\r{_ERASE_BELOW}{chr(10).join(lines)}{up}\r")
        self._stream.flush()
        self._drawn = bool(lines)

    def erase(self) -> None:
        """Takes it away; the cursor stands where it began."""
        if self._drawn:
            self._drawn = False  # also where the terminal is gone
            self._stream.write(f"\r{_ERASE_BELOW}")
            self._stream.flush()

    def abandon(self) -> None:
        """Nothing more is written."""
        self._drawn = False

    def _size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return _SIZE
        return size if size.columns > 0 and size.lines > 0 else _SIZE

    def _lines(self, told: "Told", begun: list[str], width: int) -> list[str]:
        """The lines as the terminal gets them."""
        options = self._console.options.update(width=width, height=None)
        group = Group(*self._renderables(told, begun, width))
        lines = self._console.render_lines(group, options, pad=False)
        if self._console.no_color:
            lines = [list(Segment.remove_color(line)) for line in lines]
        return [self._ansi(line) for line in lines]

    def _ansi(self, line: list[Segment]) -> str:
        system = COLOR_SYSTEMS.get(self._console.color_system or "")
        return "".join(
            segment.style.render(segment.text, color_system=system)
            if segment.style
            else segment.text
            for segment in line
            if not segment.control
        )

    def _renderables(self, told: "Told", begun: list[str], width: int) -> list[RenderableType]:
        found: list[RenderableType] = [_line(Text(text)) for text in begun]
        first = Text()
        spinner = self._spinner.render(time.monotonic())
        first.append_text(spinner if isinstance(spinner, Text) else Text(str(spinner)))
        first.append(f" {told.what}", "bold")
        for fact in told.facts:
            first.append(self._between, "dim")
            first.append(fact)
        found.append(_line(first))
        if told.detail:
            found.append(_line(Text(f"  {told.detail}", "dim")))
        if told.bar:
            found.append(self._bar(told, width))
        return found

    def _bar(self, told: "Told", width: int) -> RenderableType:
        bar_width = min(_BAR_WIDTH, max(4, width // 3))
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=bar_width + 2, no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(
            total=None if told.fraction is None else 1.0,
            completed=told.fraction or 0.0,
            width=bar_width,
            animation_time=time.monotonic(),
        )
        share = "" if told.fraction is None else f"{told.fraction:.0%} "
        label = Text(f"{share}{told.message}".strip(), no_wrap=True, overflow="ellipsis")
        padded = Table.grid()
        padded.add_column(width=2)
        padded.add_column(width=bar_width)
        padded.add_row("", bar)
        grid.add_row(padded, label)
        return grid


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
