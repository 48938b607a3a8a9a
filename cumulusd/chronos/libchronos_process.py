"""One process that calls libchronos, asked over a private pipe, one request at a time."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

CHILD = Path(__file__).with_name("libchronos_child.py")
MAX_ANSWER_BYTES = 1 << 20
MAX_WORDS_BYTES = 2048


class ChildFailed(Exception):
    """The process hung, crashed or talked nonsense, and is gone; the message says which."""


class LibchronosProcess(ProcessProtocol):
    """Started when made. `kill` or `leave` it."""

    _log = Logger()
    transport: IProcessTransport

    def __init__(self, reactor: Any, *, python: str, library: str, locks: str) -> None:
        """`locks`: the folder of the library's lock files. Raises ChildFailed."""
        self._reactor = reactor
        self._answers = bytearray()
        self._answer: Deferred[dict[str, Any]] | None = None
        self._one_at_a_time = DeferredLock()
        self._why: str | None = None  #: why it is of no use any more
        self._pid: int | None = None
        self.ended: Deferred[None] = Deferred()  #: fires when the process is gone
        # What the library says on stderr goes into this, which bounds it; the child empties it.
        memory = os.memfd_create("libchronos.stderr", os.MFD_CLOEXEC)
        try:
            self._words = os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        finally:
            os.close(memory)
        command = [python, "-I", str(CHILD), library, locks]
        try:
            reactor.spawnProcess(
                self,
                python,
                command,
                env=dict(os.environ),
                childFDs={0: "w", 1: self._words, 2: self._words, 3: "r"},
            )
        except OSError as error:
            os.close(self._words)
            self._words = -1
            raise ChildFailed(f"{python} can't be started: {error}") from error

    @property
    def usable(self) -> bool:
        """It can be asked."""
        return self._why is None

    async def hello(self, timeout_s: float) -> dict[str, Any]:
        """What it says by itself when it has loaded the library. Raises ChildFailed."""
        return await self._exchange(None, timeout_s)

    async def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Its answer. Raises ChildFailed; it has been killed then, since nothing is known of what
        it did. Cancelling this kills it too."""
        return await self._exchange(request, timeout_s)

    def leave(self) -> None:
        """Lets it give back what it holds, and end."""
        self._why = self._why or "it was left"
        self.transport.closeChildFD(0)

    def kill(self, why: str) -> None:
        """Ends it at once."""
        self._why = self._why or why
        self._kill()

    # -- ProcessProtocol

    def connectionMade(self) -> None:
        self._pid = self.transport.pid

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._answers += data
        line, newline, rest = bytes(self._answers).partition(b"\n")
        if not newline:
            if len(self._answers) > MAX_ANSWER_BYTES:
                self.kill(f"it answered with more than {MAX_ANSWER_BYTES} bytes")
            return
        self._answers[:] = rest
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or type(value.get("ok")) is not bool:
                raise ValueError("no answer")
        except ValueError:
            self.kill(f"it answered with nonsense: {line[:100]!r}")
            return
        waiting, self._answer = self._answer, None
        if waiting is not None:
            waiting.callback(value)

    def processExited(self, reason: Failure) -> None:
        # Whatever it has started may hold the pipes: without this, `processEnded` might not come.
        self._kill()

    def processEnded(self, reason: Failure) -> None:
        said = self._last_words()
        if self._why is None:
            self._why = f"its process ended: {reason.value}" + (f" ({said})" if said else "")
        os.close(self._words)
        self._words, self._pid = -1, None
        waiting, self._answer = self._answer, None
        if waiting is not None and not waiting.called:
            waiting.errback(ChildFailed(self._why))
        self.ended.callback(None)

    # -- inside

    async def _exchange(self, request: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        await self._one_at_a_time.acquire()
        try:
            if self._why is not None:
                raise ChildFailed(self._why)
            self._answer = Deferred(lambda _: self.kill("the request was given up"))
            timer = self._reactor.callLater(
                timeout_s, self.kill, f"libchronos gave no answer within {timeout_s:g} s"
            )
            try:
                if request is not None:
                    self.transport.writeToChild(0, json.dumps(request).encode() + b"\n")
                return await self._answer
            finally:
                if timer.active():
                    timer.cancel()
        finally:
            self._one_at_a_time.release()

    def _last_words(self) -> str:
        size = os.fstat(self._words).st_size
        data = os.pread(self._words, MAX_WORDS_BYTES, max(0, size - MAX_WORDS_BYTES))
        return " ".join(data.decode(errors="replace").split())

    def _kill(self) -> None:
        if self._pid is None:
            return
        try:
            os.killpg(self._pid, signal.SIGKILL)  # it leads its own group
        except ProcessLookupError:
            pass
        except PermissionError as error:
            self._log.warn("process {pid} can't be killed: {error}", pid=self._pid, error=error)
        if self.transport.pid is not None:
            try:
                self.transport.signalProcess("KILL")
            except Exception as error:  # it may have gone just now
                self._log.debug("process {pid}: {error}", pid=self._pid, error=error)
