"""Runs the system's tools; what they say when they fail is told."""

import subprocess
from collections.abc import Sequence

__all__ = ["ToolError", "run"]

TOOL_TIMEOUT_S = 30.0


class ToolError(Exception):
    """A tool failed; the message has its command and its words."""


def run(*command: str, timeout_s: float = TOOL_TIMEOUT_S, ok: Sequence[int] = (0,)) -> str:
    """The command's stdout. ToolError when it fails, is missing or takes too long."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"`{' '.join(command)}` did not end within {timeout_s:g} s") from None
    if done.returncode not in ok:
        words = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ToolError(f"`{' '.join(command)}` failed ({done.returncode}): {words}")
    return done.stdout
