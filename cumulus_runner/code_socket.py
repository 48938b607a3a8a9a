"""What the code tells the runner while it runs: datagrams on `runtime.sock` in the control folder.

A datagram is JSON, `{"t": "progress", "fraction": 0..1 | null, "message": text | null}` or
`{"t": "checkpoint"}`. Whatever else comes is dropped: it is the code's own doing.
"""

from __future__ import annotations

import _socket as socket  # `socket` adds what isn't used here, and takes 2 ms of each start
import os

from cumulus_wire.light_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "runtime.sock"
MAX_DATAGRAM_BYTES = 8 << 10
MAX_MESSAGE_CHARS = 500
#: Datagrams taken at a time: then the runner looks at the rest.
_TURN = 64
#: Progress is recorded at most so often; the latest wins, and the last one always.
PROGRESS_INTERVAL_S = 0.1


class CodeSocket:
    """Bound for as long as the code runs. No call blocks, none raises for what the code sends.

    Its owner polls `fileno()`, calls `receive` when that is readable, and records what
    `take_progress` gives, at `wake_at()` or earlier.
    """

    def __init__(self, folder: str) -> None:
        """`folder`: the control folder, its path of any length. Raises OSError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._progress: dict[str, Any] | None = None
        self._next_at = float("-inf")
        self._checkpoint = False
        try:
            handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                try:
                    os.unlink(NAME, dir_fd=handle)
                except FileNotFoundError:
                    pass
                # By way of the descriptor: an address holds 107 bytes.
                self._socket.bind(f"/proc/self/fd/{handle}/{NAME}")
            finally:
                os.close(handle)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._socket.fileno()

    def close(self) -> None:
        """Frees the socket."""
        self._socket.close()

    def receive(self) -> bool:
        """Takes what has come, a bounded number of datagrams; whether there may be more."""
        for _ in range(_TURN):
            try:
                data = self._socket.recv(MAX_DATAGRAM_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                return False  # nothing that a datagram's sender could do to us matters
            if len(data) <= MAX_DATAGRAM_BYTES:
                self._take(data)
        return True

    def wake_at(self) -> float:
        """When there is progress to record, if nothing happens before."""
        return float("inf") if self._progress is None else self._next_at

    def take_progress(self, now: float, last: bool = False) -> dict[str, Any] | None:
        """What is to be recorded now; None: nothing. `last`: however short ago the one before."""
        progress = self._progress
        if progress is None or (now < self._next_at and not last):
            return None
        self._progress, self._next_at = None, now + PROGRESS_INTERVAL_S
        return progress

    def put_back(self, progress: dict[str, Any]) -> None:
        """It could not be recorded now; one that came since wins."""
        if self._progress is None:
            self._progress = progress

    def take_checkpoint(self) -> bool:
        """Whether the code told of a checkpoint since the last time."""
        told, self._checkpoint = self._checkpoint, False
        return told

    def _take(self, data: bytes) -> None:
        try:
            value = loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        if value.get("t") == "checkpoint":
            self._checkpoint = True
        elif value.get("t") == "progress":
            message = value.get("message")
            self._progress = {
                "fraction": _fraction(value.get("fraction")),
                "message": _text(message) if isinstance(message, str) else "",
            }


def _fraction(value: object) -> float | None:
    """Within 0 and 1; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return float(min(1, max(0, value)))


def _text(value: str) -> str:
    """What every reader can take: whole characters, no NUL."""
    return value[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode().replace("\0", "\\0")
