"""How a job is shown while it runs: live on a terminal, else as lines."""

import argparse
import sys

from cumulus_client.display import PREFIX, Display


class PlainDisplay(Display):
    """The library's, for one who has a shell."""

    come_back = "cumulus attach {}"


def make_display(options: argparse.Namespace) -> Display:
    """The display that fits where this command's output goes."""
    return PlainDisplay(quiet=options.quiet, raw=True)


def warn(text: str) -> None:
    """One `[cumulus]` line on stderr."""
    print(f"{PREFIX}{text}", file=sys.stderr, flush=True)
