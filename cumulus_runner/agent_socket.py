"""The runner's side of `agent.sock`: JSON lines both ways, reconnecting, never in the job's way."""

from __future__ import annotations

import _socket as socket  # `socket` adds what isn't used here, and takes 2 ms of each start
import errno
import math
import os

from cumulus_wire.light_json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAX_LINE_BYTES = 64 << 10
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
#: Pokes are at least this far apart: each one tells of everything before it. A little, which may
#: be a line that somebody waits for, is told sooner than output in bulk.
POKE_INTERVAL_S = 0.005
SOON_S = 0.002
LITTLE_BYTES = 16 << 10
#: An agent that reads nothing for so many bytes is as good as gone.
MAX_UNSENT_BYTES = 16 << 10


class AgentSocket:
    """A connection that comes and goes. No call blocks, none raises for a lost agent.

    Its owner polls `fileno()` and calls `tick` at `wake_at()` or earlier. Times are seconds of
    whatever clock the owner passes as `now`.
    """

    def __init__(self, path: str, hello: dict[str, Any], now: float) -> None:
        """`path`: the socket's, of any length. `hello`: the first line on each connection."""
        self._path = path
        self._hello = hello
        self._socket: socket.socket | None = None
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._pause_s = FIRST_PAUSE_S
        self._connect_at = now
        self._end_offset = 0
        self._told_offset = 0
        self._poked_at = now - POKE_INTERVAL_S
        self._held_until = now
        #: Why the last connection ended or couldn't be made, for the runner's own log.
        self.problem: str | None = None

    def fileno(self) -> int | None:
        """What to poll for reading, or None while there is no connection."""
        return None if self._socket is None else self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Poll for writing too."""
        return bool(self._outgoing)

    def wake_at(self) -> float:
        """When `tick` has something to do, if nothing happens before."""
        if self._socket is None:
            return self._connect_at
        if self._end_offset > self._told_offset and not self._outgoing:
            return self._poke_at
        return math.inf

    @property
    def _poke_at(self) -> float:
        """From when on the agent may be told of what it doesn't know yet."""
        little = self._end_offset - self._told_offset < LITTLE_BYTES
        return max(self._held_until, self._poked_at + (SOON_S if little else POKE_INTERVAL_S))

    def poke(self, end_offset: int) -> None:
        """The journal now ends there; the agent is told at the next `tick`."""
        self._end_offset = end_offset

    def hold(self, until: float) -> None:
        """Before that the agent is told of nothing, so that what follows is told with it."""
        self._held_until = until

    def tick(self, now: float) -> None:
        """Connects when it is time to, and sends what is due."""
        if self._socket is None:
            if now < self._connect_at:
                return
            self._connect(now)
        due = self._end_offset > self._told_offset and now >= self._poke_at
        if self._socket is not None and due and not self._outgoing:
            self._told_offset = self._end_offset
            self._poked_at = now
            self._queue({"t": "poke", "end": self._end_offset})
        if self._outgoing:
            self._flush(now)

    def receive(self, now: float) -> list[dict[str, Any]]:
        """The messages that have come. Call it when the socket is readable."""
        if self._socket is None:
            return []
        try:
            data = self._socket.recv(MAX_LINE_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            self._lost(now, error.strerror or str(error))
            return []
        if not data:
            self._lost(now, "the agent closed it")
            return []
        self._pause_s = FIRST_PAUSE_S
        self._incoming += data
        *lines, rest = bytes(self._incoming).split(b"\n")
        self._incoming = bytearray(rest)
        messages = []
        for line in lines:
            try:
                message = loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self._lost(now, f"a line from the agent is no JSON object: {line[:100]!r}")
                break
            messages.append(message)
        if len(self._incoming) > MAX_LINE_BYTES:
            self._lost(now, f"a line from the agent is over {MAX_LINE_BYTES} bytes")
        return messages

    def say_proof(self, proof: Mapping[str, Any], now: float) -> None:
        """What is known of the OpenCL layer, before anything of the job's runs: after that it may
        get at this connection. So the line goes now, or else the connection, which is the only one
        from which the agent takes it."""
        if self._socket is None:
            return
        self._queue({"t": "proof", **proof})
        self._flush(now)
        if self._outgoing:
            self._lost(now, "the agent doesn't read")

    def say_bye(self, now: float) -> None:
        """The last poke and the farewell. Nothing is owed to an agent that is away."""
        if self._socket is None:
            return
        if self._end_offset > self._told_offset:
            self._told_offset = self._end_offset
            self._queue({"t": "poke", "end": self._end_offset})
        self._queue({"t": "bye"})
        self._flush(now)

    def close(self) -> None:
        """Frees the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, now: float) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _connect_long_path(made, self._path)
        except OSError as error:
            made.close()
            self._pause(now, error.strerror or str(error))
            return
        self._socket = made
        self._incoming.clear()
        self._outgoing.clear()
        self._told_offset = 0
        self._poked_at = now - POKE_INTERVAL_S
        self._queue(self._hello)

    def _queue(self, message: dict[str, Any]) -> None:
        self._outgoing += dumps(message, compact=True).encode() + b"\n"

    def _flush(self, now: float) -> None:
        if self._socket is None:
            return
        try:
            sent = self._socket.send(self._outgoing, socket.MSG_NOSIGNAL)
            del self._outgoing[:sent]
        except (BlockingIOError, InterruptedError):
            if len(self._outgoing) > MAX_UNSENT_BYTES:
                self._lost(now, "the agent doesn't read")
        except OSError as error:
            self._lost(now, error.strerror or str(error))

    def _lost(self, now: float, why: str) -> None:
        self.close()
        self._incoming.clear()
        self._outgoing.clear()
        self._pause(now, why)

    def _pause(self, now: float, why: str) -> None:
        self.problem = why
        self._connect_at = now + self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)


def _connect_long_path(made: socket.socket, path: str) -> None:
    """Connects also where the path is over the 107 bytes that an address can hold."""
    if len(os.fsencode(path)) <= 107:
        made.connect(path)
        return
    parent, name = os.path.split(path)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{directory}/{name}"
        if len(os.fsencode(short)) > 107:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        made.connect(short)
    finally:
        os.close(directory)
