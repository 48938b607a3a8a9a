"""Looks for OpenCL devices in a process of its own, because drivers hang and crash."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulusd.chronos.devices import Discovered, ProbeAnswerInvalid, Selection, read_answer

PROBE = Path(__file__).with_name("probe.py")
MAX_OUTPUT_BYTES = 1 << 20
MAX_ERROR_BYTES = 4096


class DiscoveryFailed(Exception):
    """The probe hung, crashed or printed nonsense; the message says which."""


class Discovery:
    """Runs the probe, one at a time per instance.

    `reactor`: IReactorTime and IReactorProcess. `python`: an interpreter with pyopencl.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        selection: Selection,
        timeout_s: float = 30.0,
        python: str = sys.executable,
        probe: Path = PROBE,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._reactor = reactor
        self._selection = selection
        self._timeout_s = timeout_s
        self._python = python
        self._probe = probe
        self._environment = environment

    async def look(self) -> Discovered:
        """The devices there are now. Raises DiscoveryFailed; cancelling it kills the probe."""
        environment = dict(os.environ if self._environment is None else self._environment)
        command = [self._python, "-I", str(self._probe)]
        output = await run_probe(
            self._reactor, command, environment, self._timeout_s, "for OpenCL devices"
        )
        try:
            return read_answer(output, self._selection)
        except ProbeAnswerInvalid as error:
            raise DiscoveryFailed(str(error)) from None


async def run_probe(
    reactor: Any,
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float,
    what: str,
) -> bytes:
    """What a short program prints. `what` it looks for, for messages.

    Raises DiscoveryFailed; cancelling it kills the program.
    """
    run = _Run(reactor, timeout_s, what)
    try:
        reactor.spawnProcess(run, command[0], list(command), env=dict(environment))
    except OSError as error:
        raise DiscoveryFailed(f"{command[0]} can't be started: {error}") from error
    return await run.finished


class _Run(ProcessProtocol):
    """One run: collects bounded output, ends it after `timeout_s`, reports once it is gone."""

    _log = Logger()
    transport: IProcessTransport

    def __init__(self, reactor: Any, timeout_s: float, what: str) -> None:
        self._reactor = reactor
        self._timeout_s = timeout_s
        self._what = what
        self._output = bytearray()
        self._errors = bytearray()
        self._timer: Any = None
        self._pid: int | None = None
        self._ended_why: str | None = None
        self.finished: Deferred[bytes] = Deferred(lambda _: self._end("it was cancelled"))

    def connectionMade(self) -> None:
        self._pid = self.transport.pid
        self.transport.closeStdin()
        self._timer = self._reactor.callLater(
            self._timeout_s,
            self._end,
            f"the probe {self._what} gave no answer within {self._timeout_s:g} s",
        )

    def outReceived(self, data: bytes) -> None:
        self._output += data
        if len(self._output) > MAX_OUTPUT_BYTES:
            self._output.clear()
            self._end(f"it printed more than {MAX_OUTPUT_BYTES} bytes")

    def errReceived(self, data: bytes) -> None:
        self._errors += data
        del self._errors[:-MAX_ERROR_BYTES]

    def processExited(self, reason: Failure) -> None:
        # A helper may still hold the pipes: without this, `processEnded` might never come.
        self._kill()

    def processEnded(self, reason: Failure) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self.finished.called:
            return
        if self._ended_why is None and isinstance(reason.value, ProcessDone):
            self.finished.callback(bytes(self._output))
            return
        why = self._ended_why or f"the probe {self._what} crashed: {reason.value}"
        said = self._errors.decode(errors="replace").strip()
        self.finished.errback(DiscoveryFailed(f"{why}; it said: {said}" if said else why))

    def _end(self, why: str) -> None:
        if self._ended_why is None:
            self._ended_why = why
        self._kill()

    def _kill(self) -> None:
        pid = self._pid
        if pid is None:
            return
        try:
            # The probe leads its own group from its first line on.
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            self._log.warn("probe {pid} can't be killed: {error}", pid=pid, error=error)
        if self.transport.pid is not None:
            try:
                self.transport.signalProcess("KILL")
            except Exception as error:  # it may have gone just now
                self._log.debug("probe {pid}: {error}", pid=pid, error=error)
