"""The unix socket in a job's folder, on which the runner says hello, pokes, and takes commands."""

import json
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IPushProducer, IReadDescriptor
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from cumulusd.agent.job_folder import JobFolder
from cumulusd.agent.layer_proofs import valid_fingerprint

MAX_LINE_BYTES = 64 << 10
MAX_CONNECTIONS = 8  #: the runner has one; the job's code may play with the rest
_ACCEPTS_A_TURN = 8


class RunnerSocket:
    """Listens in one job's folder. What connects is the job's, so nothing it says is trusted
    beyond that job.

    `poked()` when something was appended, `came()` when a runner said hello, `left()` when the
    last one said that it leaves, or its connection is gone.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        folder: JobFolder,
        attempt: int,
        *,
        poked: Callable[[], None],
        came: Callable[[], None],
        left: Callable[[], None],
        proved: Callable[[str, bool], None] | None = None,
    ) -> None:
        """`proved(fingerprint, anew)` when the runner of a new attempt says that the OpenCL layer
        is in force, before anything of the job's runs: proven anew, or as is known. None: what is
        said of that here can be anyone's."""
        self._reactor = reactor
        self._folder = folder
        self._attempt = attempt
        self.poked = poked
        self._came = came
        self._left = left
        self._proved = proved
        #: The first connection of all is the runner's, as nothing of the job's runs before it. What
        #: it says of the proof counts, once: after that the job may get at it.
        self._first: _RunnerConnection | None = None
        self._listener: _Listener | None = None
        self._connections: set[_RunnerConnection] = set()
        self._runners: set[_RunnerConnection] = set()
        self.has_left = False  #: the runner was there, and said that it leaves or was cut off

    @property
    def nobody_came(self) -> bool:
        """The attempt is new, and no runner has connected yet."""
        return self._proved is not None and self._first is None

    @property
    def runner_is_there(self) -> bool:
        """A runner has said hello, is connected, and isn't leaving."""
        return bool(self._runners)

    def open(self) -> None:
        """Binds the socket, in place of a stale one. Raises OSError."""
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._folder.remove_socket()
            bound.bind(self._folder.socket_path())
            self._folder.own_socket()
            bound.listen(MAX_CONNECTIONS)
        except BaseException:
            bound.close()
            raise
        self._listener = _Listener(self._reactor, bound, self)
        self._reactor.addReader(self._listener)

    def close(self) -> None:
        """Stops listening and drops the connections; may be called twice."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.abort()

    def stop(self, reason: str, grace_s: float) -> bool:
        """Tells the runner to end its job; whether one was told."""
        return self._tell({"t": "stop", "reason": reason, "grace_s": grace_s})

    def pause(self, wanted: bool) -> bool:
        """Tells the runner whether its code is to pause; whether one was told."""
        return self._tell({"t": "pause", "wanted": wanted})

    def _tell(self, message: dict[str, Any]) -> bool:
        line = json.dumps(message).encode()
        told = [one for one in self._runners if one.send(line)]
        return bool(told)

    # -- the connections' side

    def build(self) -> "_RunnerConnection | None":
        """One more connection, if there is room."""
        if len(self._connections) >= MAX_CONNECTIONS or self._listener is None:
            return None
        return _RunnerConnection(self)

    def made(self, connection: "_RunnerConnection") -> None:
        """It is connected."""
        self._connections.add(connection)
        if self._proved is not None and self._first is None:
            self._first = connection

    def lost(self, connection: "_RunnerConnection") -> None:
        """It is gone."""
        self._connections.discard(connection)
        if connection is self._first:
            self._proved = None
        self._gone(connection)

    def said(self, connection: "_RunnerConnection", message: dict[str, Any]) -> None:
        """A line of that connection. Raises ValueError for what is no message."""
        kind = message.get("t")
        if kind == "hello":
            whose = (message.get("job_id"), message.get("attempt"))
            if whose != (self._folder.job_id, self._attempt):
                raise ValueError(f"hello of job {whose[0]!r}, attempt {whose[1]!r}")
            self._runners.add(connection)
            self.has_left = False
            self._came()
        elif kind == "poke":
            connection.has_poked = True
        elif kind == "proof":
            self._take_proof(connection, message)
        elif kind == "bye":
            connection.has_poked = False
            self.poked()
            self._gone(connection)
        else:
            raise ValueError(f"unknown message {kind!r}")

    def _take_proof(self, connection: "_RunnerConnection", message: dict[str, Any]) -> None:
        """Raises ValueError for what is no proof. One that comes late isn't counted."""
        found = [message[how] for how in ("proven", "remembered") if how in message]
        if len(found) > 1 or not all(valid_fingerprint(one) for one in found):
            raise ValueError("a proof without its fingerprint")
        proved = self._proved
        if connection is not self._first or connection not in self._runners or proved is None:
            self._log.info(
                "what was said late of the OpenCL layer's proof for job {job_id} isn't counted",
                job_id=self._folder.job_id,
            )
            return
        self._proved = None
        if found:
            proved(found[0], "proven" in message)

    def _gone(self, connection: "_RunnerConnection") -> None:
        """Its runner is not there any more, or about to leave: it takes no command."""
        if connection in self._runners:
            self._runners.discard(connection)
            if not self._runners and self._listener is not None:
                self.has_left = True
                self._left()

    def refused(self, why: str) -> None:
        """A connection was dropped for what it said."""
        self._log.warn(
            "a connection on the runner's socket of job {job_id} was dropped: {why}",
            job_id=self._folder.job_id,
            why=why,
        )


@implementer(IReadDescriptor)
class _Listener:
    """Accepts. Twisted's own unix port would unlink and chmod by path, and the path isn't ours:
    the job can put a link there."""

    _log = Logger()

    def __init__(self, reactor: Any, bound: socket.socket, owner: RunnerSocket) -> None:
        self._reactor = reactor
        self._socket = bound
        self._factory = _RunnerFactory(owner)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "runner socket"

    def doRead(self) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                accepted, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._log.error("a runner's connection can't be accepted: {error}", error=error)
                return
            with accepted:  # the reactor works on a duplicate
                accepted.setblocking(False)
                try:
                    self._reactor.adoptStreamConnection(
                        accepted.fileno(), socket.AF_UNIX, self._factory
                    )
                except OSError as error:
                    self._log.debug("a runner's connection went at once: {error}", error=error)

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def close(self) -> None:
        self._reactor.removeReader(self)
        self._socket.close()


class _RunnerFactory(Factory):
    noisy = False

    def __init__(self, owner: RunnerSocket) -> None:
        self._owner = owner

    def buildProtocol(self, addr: IAddress | None) -> "_RunnerConnection | None":
        return self._owner.build()


@implementer(IPushProducer)
class _RunnerConnection(LineOnlyReceiver):
    """JSON lines of bounded length, both ways; a peer that doesn't read is dropped."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE_BYTES

    def __init__(self, owner: RunnerSocket) -> None:
        self._owner = owner
        self._clogged = False
        self.has_poked = False

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.registerProducer(self, True)
        self._owner.made(self)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        if self.has_poked:  # once for all that came while others had their turn
            self.has_poked = False
            self._owner.poked()

    def lineReceived(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("a line that is no JSON object")
            self._owner.said(self, message)
        except (ValueError, RecursionError) as error:
            self._refuse(str(error))

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(f"a line over {MAX_LINE_BYTES} B")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._owner.lost(self)

    def send(self, line: bytes) -> bool:
        """Sends one line; False, and the connection dropped, when the peer doesn't read."""
        if self._clogged:
            self._refuse("it doesn't read what it is told")
            return False
        transport: Any = self.transport
        transport.write(line + b"\n")
        return True

    def abort(self) -> None:
        """Ends it at once."""
        transport: Any = self.transport
        transport.abortConnection()

    def _refuse(self, why: str) -> None:
        self._owner.refused(why)
        self.abort()

    def pauseProducing(self) -> None:
        self._clogged = True

    def resumeProducing(self) -> None:
        self._clogged = False

    def stopProducing(self) -> None:
        self._clogged = True
