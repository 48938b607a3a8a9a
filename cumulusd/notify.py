"""What the service manager (systemd) is told of this process: sd_notify(3), without blocking.

Nothing is said where nobody listens: without NOTIFY_SOCKET, on a terminal, every call does nothing.
"""

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

SOCKET = "NOTIFY_SOCKET"
WATCHDOG = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"
#: Messages that wait while the manager is busy; beyond it the oldest goes.
MAX_WAITING = 32
#: How long until they are tried again.
RETRY_S = 0.2
MAX_STATUS_CHARACTERS = 1_000


@attrs.frozen(kw_only=True)
class Asked:
    """What the manager asks of this process, by its environment."""

    address: str | None = None  #: where it listens; None: there is none, or it doesn't ask
    watchdog_s: float | None = None  #: it acts when it hears nothing for so long


def asked(environ: Mapping[str, str], pid: int) -> Asked:
    """Reads the variables. Pure."""
    address = environ.get(SOCKET)
    if not address:
        return Asked()
    told, whose = environ.get(WATCHDOG, ""), environ.get(WATCHDOG_PID, "")
    watches = told.isdecimal() and int(told) > 0 and whose in ("", str(pid))
    return Asked(address=address, watchdog_s=int(told) / 1e6 if watches else None)


class Notifier:
    """Sends messages to the manager, in order."""

    _log = Logger()

    def __init__(self, address: str | None, clock: Any) -> None:
        """`address`: a path, or "@name" in the abstract namespace; None: says nothing."""
        self._clock = clock
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._retry: IDelayedCall | None = None
        self._socket: socket.socket | None = None
        self._address = ""
        if address is not None:
            self._address = "\0" + address[1:] if address.startswith("@") else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @property
    def is_heard(self) -> bool:
        """Is there a manager that listens?"""
        return self._socket is not None

    def starting(self, status: str, extend_s: float) -> None:
        """The start goes on, and may take `extend_s` from now."""
        self._tell(f"STATUS={_line(status)}", _extend(extend_s))

    def ready(self, status: str) -> None:
        """Everything is taken up and listening; also: what `reloading` began is over."""
        self._tell("READY=1", f"STATUS={_line(status)}")

    def reloading(self, status: str) -> None:
        """The configuration is being read again; `ready` ends it."""
        # The moment, by which Type=notify-reload (systemd 253) tells this one from earlier ones.
        moment_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={moment_us}", f"STATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        """The ordered stop has begun, or goes on."""
        self._tell("STOPPING=1", f"STATUS={_line(status)}")

    def status(self, status: str) -> None:
        """What `systemctl status` shows."""
        self._tell(f"STATUS={_line(status)}")

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._tell("WATCHDOG=1")

    def close(self) -> None:
        """The last that waited is tried once more; then nothing is said any more."""
        self._send_waiting()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._waiting.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # -- inside

    def _tell(self, *lines: str) -> None:
        if self._socket is None:
            return
        message = "\n".join(lines).encode(errors="replace")
        # Of what is only a status, or only a sign of life, the newest counts.
        if self._waiting and _is_passing(self._waiting[-1]) and _is_passing(message):
            self._waiting.pop()
        self._waiting.append(message)
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._socket is not None and self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._address)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
                    self._try_again()
                    return
                self._log.error(
                    "the service manager can't be told at {address}: {error}; it may take this"
                    " process for hung",
                    address=self._address.replace("\0", "@"),
                    error=str(error),
                )
                self._waiting.clear()
                return
            self._waiting.popleft()

    def _try_again(self) -> None:
        if self._retry is None or not self._retry.active():
            self._retry = self._clock.callLater(RETRY_S, self._send_waiting)


def notifier_of(environ: Mapping[str, str], clock: Any) -> tuple[Notifier, float | None]:
    """This process' notifier, and how often its manager wants to hear of it, in seconds."""
    wanted = asked(environ, os.getpid())
    return Notifier(wanted.address, clock), wanted.watchdog_s


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"


def _is_passing(message: bytes) -> bool:
    return message.startswith((b"STATUS=", b"WATCHDOG=")) and b"\n" not in message


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_STATUS_CHARACTERS else line[:MAX_STATUS_CHARACTERS] + "…"
