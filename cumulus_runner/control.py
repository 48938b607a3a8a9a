"""The control folder: where the runner and the job's code leave each other word.

==============  ==========  ========================================================
name            written by  means
==============  ==========  ========================================================
pause           runner      the code is to pause, where it next looks
pause_seen      code        it has looked, and knows
==============  ==========  ========================================================
"""

from __future__ import annotations

import os

PAUSE = "pause"
PAUSE_SEEN = "pause_seen"


class Control:
    """One attempt's control folder. It is the code's to spoil, to its own harm only."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._asked = False

    def make(self) -> None:
        """Makes the folder. Raises OSError."""
        os.makedirs(self.path, exist_ok=True)

    def set_pause(self, wanted: bool) -> None:
        """Tells the code whether it is to pause. Raises OSError."""
        path = os.path.join(self.path, PAUSE)
        if not wanted:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            return
        self._asked = True
        # The code may have put a pipe there, which nobody reads.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))

    def has_paused(self, raised: bool, completed: bool) -> bool:
        """Whether the code's end is a pause: one was asked for, and the code raised that it pauses,
        or has come to its end in the knowledge of it. A pause that was withdrawn too late counts.
        """
        if not self._asked:
            return False
        seen = os.path.lexists(os.path.join(self.path, PAUSE_SEEN))
        return raised or (completed and seen)
