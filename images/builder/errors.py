"""What may go wrong, and the words on the way."""

import sys


class BuildError(Exception):
    """The image can't be made; the message says why and what to do."""


def say(message: str) -> None:
    """Tells the user, on stderr: stdout is for programs."""
    print(f"images: {message}", file=sys.stderr, flush=True)
