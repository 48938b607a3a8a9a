"""The container's own log: a bounded copy of the job's output, for Docker's tools."""

from __future__ import annotations

import math
import os
import select
import stat

MAX_BYTES = 1 << 20
#: Writes are at least this far apart, or as much is written at once: each wakes the container's
#: shim and its engine, on the very CPUs that a line's way to its reader needs.
PAUSE_S = 0.05
HELD_BYTES = 8 << 10
#: The last line is worth a short wait; nothing else is.
LAST_LINE_WAIT_S = 0.5


class ContainerLog:
    """Writes to the runner's own stdout (1) and stderr (2) without ever blocking on them.

    What doesn't fit at once, or is over `MAX_BYTES` of a stream, is dropped: the journal has it.
    What follows quickly is held for a moment, in order; its owner calls `tick` at `wake_at()`.
    Times are seconds of whatever clock the owner passes as `now`.
    """

    def __init__(self, out: int = 1, err: int = 2) -> None:
        self._left = {out: MAX_BYTES, err: MAX_BYTES}
        self._line_open = dict.fromkeys(self._left, False)
        self._out, self._err = out, err
        self._held = bytearray()
        self._held_for = out  #: the stream it belongs to
        self._written_at = -math.inf
        for fd in self._left:
            mode = os.fstat(fd).st_mode
            # A terminal is shared with whoever started us and isn't ours to change.
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                os.set_blocking(fd, False)

    def out(self, data: bytes | memoryview, now: float) -> None:
        """A copy of the job's stdout."""
        self._copy(self._out, data, now)

    def err(self, data: bytes | memoryview, now: float) -> None:
        """A copy of the job's stderr."""
        self._copy(self._err, data, now)

    def wake_at(self) -> float:
        """When `tick` has something to do, if nothing is written before."""
        return self._written_at + PAUSE_S if self._held else math.inf

    def tick(self, now: float) -> None:
        """Writes what has been held for long enough."""
        if now >= self.wake_at():
            self._written_at = now
            self.flush()

    def flush(self) -> None:
        """Writes what is held."""
        if self._held:
            self._write(self._held_for, self._held)
            self._held = bytearray()

    def note(self, message: str) -> None:
        """A line of the runner's own on stderr."""
        self.flush()
        line = self._own_line(self._err, f"cumulus_runner: {message}")
        self._write(self._err, self._bounded(self._err, line))

    def last_line(self, text: str) -> None:
        """The result, on stdout, over the bound too."""
        self.flush()
        line = self._own_line(self._out, text)
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        while line and poll.poll(LAST_LINE_WAIT_S * 1000):
            try:
                line = line[os.write(self._out, line[: select.PIPE_BUF]) :]
            except OSError:
                return  # nobody reads this log; the journal has the result

    def _own_line(self, fd: int, text: str) -> bytes:
        start = "\n" if self._line_open[fd] else ""
        return f"{start}{text}\n".encode(errors="replace")

    def _copy(self, fd: int, data: bytes | memoryview, now: float) -> None:
        data = self._bounded(fd, data)
        if not data:
            return
        if fd != self._held_for or len(self._held) + len(data) > HELD_BYTES:
            self.flush()
        self._held_for = fd
        if len(data) > HELD_BYTES or (not self._held and now - self._written_at >= PAUSE_S):
            self._written_at = now
            self._write(fd, data)
        else:
            self._held += data

    def _bounded(self, fd: int, data: bytes | memoryview) -> bytes | memoryview:
        data = data[: self._left[fd]]
        self._left[fd] -= len(data)
        return data

    def _write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        try:
            written = os.write(fd, data)
        except OSError:
            return  # full or closed: this copy is allowed to have holes, the journal has none
        if written:
            self._line_open[fd] = data[written - 1] != 0x0A
