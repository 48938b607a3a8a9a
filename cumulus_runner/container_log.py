"""The container's own log: a bounded copy of the job's output, for Docker's tools."""

from __future__ import annotations

import os
import select
import stat

MAX_BYTES = 1 << 20
#: The last line is worth a short wait; nothing else is.
LAST_LINE_WAIT_S = 0.5


class ContainerLog:
    """Writes to the runner's own stdout (1) and stderr (2) without ever blocking on them.

    What doesn't fit at once, or is over `MAX_BYTES` of a stream, is dropped: the journal has it.
    """

    def __init__(self, out: int = 1, err: int = 2) -> None:
        self._left = {out: MAX_BYTES, err: MAX_BYTES}
        self._line_open = dict.fromkeys(self._left, False)
        self._out, self._err = out, err
        for fd in self._left:
            mode = os.fstat(fd).st_mode
            # A terminal is shared with whoever started us and isn't ours to change.
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                os.set_blocking(fd, False)

    def out(self, data: bytes | memoryview) -> None:
        """A copy of the job's stdout."""
        self._write(self._out, data)

    def err(self, data: bytes | memoryview) -> None:
        """A copy of the job's stderr."""
        self._write(self._err, data)

    def note(self, message: str) -> None:
        """A line of the runner's own on stderr."""
        self._write(self._err, self._own_line(self._err, f"cumulus_runner: {message}"))

    def last_line(self, text: str) -> None:
        """The result, on stdout, over the bound too."""
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

    def _write(self, fd: int, data: bytes | memoryview) -> None:
        data = data[: self._left[fd]]
        if not data:
            return
        self._left[fd] -= len(data)
        try:
            written = os.write(fd, data)
        except OSError:
            return  # full or closed: this copy is allowed to have holes, the journal has none
        if written:
            self._line_open[fd] = data[written - 1] != 0x0A
