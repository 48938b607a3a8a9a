"""Between the code and the job's runner: pause, progress, news of checkpoints."""

from __future__ import annotations

import json
import os
import socket

from ._places import control_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET = "runtime.sock"
MAX_DATAGRAM_BYTES = 8 << 10
MAX_MESSAGE_CHARS = 1000


class CooperativePause(RuntimeError):
    """Raise it to pause the job here and now; a job that was asked to pause is then paused, its
    partition is freed, and it begins anew when it is resumed."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or ("the job pauses",)))
        _note_pause_seen()


#: By this name the runner knows it, wherever it is defined.
CooperativePause.__module__ = "runtime"


def should_pause() -> bool:
    """Is the job to pause? Then save what is needed to go on, and return or raise CooperativePause.

    Cheap: ask at each step. A job that has heard True and returns counts as paused.
    """
    if not pause_asked():
        return False
    _note_pause_seen()
    return True


def pause_asked() -> bool:
    """The same, but not counted as heard."""
    folder = control_dir()
    return folder is not None and os.path.exists(os.path.join(folder, "pause"))


def progress(fraction: float | None = None, message: str = "") -> None:
    """Shows who waits for the job how far it is.

    `fraction`: 0 to 1 (beyond it counts as the nearest), None: unknown. The latest wins, and one
    may be lost; it never blocks. Does nothing outside of a job.
    """
    if fraction is not None:
        fraction = float(fraction)
        if fraction != fraction:
            raise ValueError("progress: the fraction is no number (NaN)")
        fraction = min(1.0, max(0.0, fraction))
    _send({"t": "progress", "fraction": fraction, "message": str(message)[:MAX_MESSAGE_CHARS]})


def tell_checkpoint() -> None:
    """The index of checkpoints has changed."""
    _send({"t": "checkpoint"})


def _note_pause_seen() -> None:
    folder = control_dir()
    if folder is None or not pause_asked():
        return
    path = os.path.join(folder, "pause_seen")
    if not os.path.exists(path):
        with open(path, "ab"):
            pass


def _send(message: dict[str, Any]) -> None:
    """Sends a datagram to the runner, if it can take it now."""
    folder = control_dir()
    if folder is None:
        return
    data = json.dumps(message).encode("ascii")
    if len(data) > MAX_DATAGRAM_BYTES:  # escapes make one character up to twelve bytes
        message["message"] = message["message"][: MAX_MESSAGE_CHARS // 2]
        data = json.dumps(message).encode("ascii")
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # the runner is gone
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            # By descriptor: a socket's address takes about a hundred characters.
            sender.sendto(data, f"/proc/self/fd/{handle}/{SOCKET}")
    except OSError:
        return  # full, or nobody is there: what comes next says more
    finally:
        os.close(handle)
