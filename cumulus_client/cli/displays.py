"""How a job is shown while it runs: live on a terminal, else as lines."""

import os
import stat
import sys
from typing import TextIO

from cumulus_client.display import PREFIX, Display


class PlainDisplay(Display):
    """The library's, for one who has a shell."""

    come_back = "cumulus attach {}"


def make_display(*, quiet: bool, fresh: bool) -> Display:
    """The display that fits where this command's output goes: live where stderr is a terminal that
    can move its cursor, and stdout is no pipe. `fresh`: the job is being submitted now."""
    if not quiet and sys.stderr.isatty() and _is_left_alone(sys.stdout):
        try:
            # Not before: rich takes longer to import than all the rest.
            from cumulus_client.cli.live import LiveDisplay
            from cumulus_client.cli.status_area import StatusArea
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "rich":
                raise
        else:
            area = StatusArea(sys.stderr)
            if area.usable:
                return LiveDisplay(area, sys.stdout, sys.stderr, fresh=fresh)
    return PlainDisplay(quiet=quiet, raw=True)


def _is_left_alone(stream: TextIO) -> bool:
    """False for a pipe: what is at its other end often writes to this very terminal (`| tee`), and
    would write into the live display."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))


def warn(text: str) -> None:
    """One `[cumulus]` line on stderr."""
    print(f"{PREFIX}{text}", file=sys.stderr, flush=True)
