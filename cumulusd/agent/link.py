"""The agent's end of `/agent`: journals and outputs up, packages down, on one binary WebSocket."""

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.types import ConnectionResponse
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from cumulus_wire import link as wire
from cumulusd.agent.connection import Life
from cumulusd.agent.journal_sender import JournalSender
from cumulusd.agent.loss import why_lost
from cumulusd.agent.output_sender import OutputSender
from cumulusd.autobahn_log import STILL
from cumulusd.bulk_frames import BulkReading, header
from cumulusd.direct_write import DirectWrite
from cumulusd.errors import Unavailable
from cumulusd.tasks import Signal

SUBPROTOCOL = "cumulus.agent.1"
PING_S = 15.0
#: How much is written in one turn of the reactor before others get theirs.
TURN_BYTES = 1 << 20


class AgentLink:
    """What goes over the link, whether or not it is up now."""

    _log = Logger()

    def __init__(self) -> None:
        self.progress = Signal()  #: fires when a journal was acknowledged or dropped
        self.came_up = Signal()
        self.sender = JournalSender(wake=self._wake, progress=self.progress.fire)
        self.outputs = OutputSender(wake=self._wake)
        self._output_was_last = False
        self._connection: _LinkProtocol | None = None
        self._requests: deque[bytes] = deque()
        self._parts: dict[int, Deferred[tuple[bytes, int]]] = {}
        self._last_id = 0
        self._lock_free: dict[str, int] = {}  #: job id -> attempt

    @property
    def is_up(self) -> bool:
        """The daemon can be asked."""
        return self._connection is not None

    def get(self, sha256: str, offset: int, length: int) -> Deferred[tuple[bytes, int]]:
        """A range of a package: (bytes, size of the whole). Unavailable when the daemon refuses
        or the link goes down; cancelling it forgets the answer. The caller bounds the wait."""
        self._last_id += 1
        number = self._last_id
        answer: Deferred[tuple[bytes, int]] = Deferred(lambda _: self._forget_part(number))
        if self._connection is None:
            answer.errback(Unavailable("the link to the daemon is down"))
            return answer
        self._parts[number] = answer
        header = {"t": "get", "id": number, "sha256": sha256, "offset": offset, "length": length}
        self._requests.append(wire.encode(header))
        self._wake()
        return answer

    def lock_free(self, job_id: str, attempt: int) -> None:
        """Tells the daemon that no process of it is left; again on each new connection."""
        if job_id not in self._lock_free:
            self._lock_free[job_id] = attempt
            if self._connection is not None:
                self._requests.append(_lock_free(job_id, attempt))
                self._wake()

    def forget(self, job_id: str) -> None:
        """The job's folder is gone, or a runner is at work in it again."""
        self._lock_free.pop(job_id, None)

    # -- the connection's side

    def up(self, connection: "_LinkProtocol") -> None:
        """This connection is open."""
        self._connection = connection
        self._requests.extend(
            _lock_free(job_id, attempt) for job_id, attempt in sorted(self._lock_free.items())
        )
        self.sender.connected()
        self.came_up.fire()

    def down(self, connection: "_LinkProtocol", why: str) -> None:
        """This connection is gone."""
        if self._connection is not connection:
            return
        self._connection = None
        self._requests.clear()
        self.sender.disconnected()
        self.outputs.disconnected()
        waiting, self._parts = self._parts, {}
        for answer in waiting.values():
            answer.errback(Unavailable(f"the link to the daemon went down: {why}"))

    def next_message(self) -> bytes | None:
        """What is to be sent next."""
        if self._requests:
            return self._requests.popleft()
        # Journals and outputs take turns.
        if self._output_was_last and (message := self.sender.next_message()) is not None:
            self._output_was_last = False
            return message
        message = self.outputs.next_message()
        self._output_was_last = message is not None
        return self.sender.next_message() if message is None else message

    def received(self, header: Mapping[str, Any], body: bytes) -> None:
        """A message from the daemon. Raises LinkError."""
        kind = header["t"]
        if kind == "from":
            self.sender.begin(*_journal(header), wire.number(header, "offset"))
        elif kind == "ack":
            self.sender.ack(*_journal(header), wire.number(header, "offset"))
        elif kind == "drop":
            self.sender.drop(*_journal(header))
        elif kind == "wait":
            self.sender.hold(*_journal(header))
        elif kind == "part":
            total = wire.number(header, "total")
            answer = self._parts.pop(wire.number(header, "id"), None)
            if answer is not None:
                answer.callback((body, total))
        elif kind == "fetch":
            self.outputs.fetch(header)
        elif kind == "refused":
            message = wire.text(header, "message", wire.MAX_HEADER_BYTES)
            answer = self._parts.pop(wire.number(header, "id"), None)
            if answer is not None:
                answer.errback(Unavailable(f"the daemon refused: {message}"))
        else:
            raise wire.LinkError(f"unknown message {kind!r}")

    def _forget_part(self, number: int) -> None:
        self._parts.pop(number, None)

    def _wake(self) -> None:
        if self._connection is not None:
            self._connection.pump()


def link_factory(clock: Any, link: AgentLink, token: str, host: str) -> WebSocketClientFactory:
    """Builds the link's connections. `clock`: the reactor. `host`: for the Host header."""
    factory = WebSocketClientFactory(  # type: ignore[no-untyped-call]
        url=f"ws://{host}/agent",
        protocols=[SUBPROTOCOL],
        headers={"Authorization": f"Bearer {token}"},
        useragent="cumulus-agent",
        reactor=clock,
    )
    factory.setProtocolOptions(  # type: ignore[no-untyped-call]
        maxFramePayloadSize=wire.MAX_MESSAGE_BYTES,
        maxMessagePayloadSize=wire.MAX_MESSAGE_BYTES,
        openHandshakeTimeout=10,
        autoPingInterval=PING_S,
        autoPingTimeout=PING_S,
    )
    factory.noisy = False
    make: Any = partial(_LinkProtocol, link, clock)
    factory.protocol = make
    return factory


@implementer(IPushProducer)
class _LinkProtocol(WebSocketClientProtocol):
    """One connection. Sends as fast as the transport takes it, never further."""

    _log = Logger()
    log = STILL
    #: Of the class: Autobahn sets it on the socket before it has copied the factory's options, and
    #: says nothing where it has none. Without it lines wait for a full segment or a delayed ACK.
    tcpNoDelay = True

    def __init__(self, link: AgentLink, clock: Any) -> None:
        super().__init__()
        self.life = Life()
        self._reading = BulkReading(self, wire.MAX_MESSAGE_BYTES, masked=False)
        self._writing: DirectWrite | None = None
        self._link = link
        self._clock = clock
        self._paused = False
        self._next_turn: Any = None

    def drop(self) -> None:
        """Ends it at once."""
        self.dropConnection(abort=True)

    # -- WebSocket

    def onConnect(self, response: ConnectionResponse) -> None:
        if response.protocol != SUBPROTOCOL:
            raise ValueError(f"the daemon doesn't speak {SUBPROTOCOL}")

    def dataReceived(self, data: bytes) -> None:
        self._reading.read(data)

    def onOpen(self) -> None:
        self._writing = DirectWrite(self.transport)
        self.registerProducer(self, True)
        self.life.ready()
        self._link.up(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary:
            self.message_received(payload)
        else:
            self._no_message(wire.LinkError("text instead of a binary message"))

    def write_message(self, message: bytes) -> None:
        """One message to the daemon, while it is open."""
        assert self._writing is not None
        self._writing.write(header(len(message), masked=True) + message)

    def message_received(self, payload: bytes | memoryview) -> None:
        """One message of the daemon's."""
        try:
            self._link.received(*wire.decode(payload))
        except wire.LinkError as error:
            self._no_message(error)

    def _no_message(self, error: wire.LinkError) -> None:
        self._log.error("the daemon sent what is no message: {error}", error=error)
        self.drop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        super().connectionLost(reason)
        why = why_lost(reason, self.wasNotCleanReason)
        self._link.down(self, why)
        self.life.gone(why)

    # -- back-pressure

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self.pump()

    def stopProducing(self) -> None:
        self._paused = True

    def pump(self) -> None:
        """Writes what there is, at most `TURN_BYTES` in one turn."""
        written = 0
        while not self._paused and self._next_turn is None and self.state == self.STATE_OPEN:
            message = self._link.next_message()
            if message is None:
                return
            self.write_message(message)
            written += len(message)
            if written >= TURN_BYTES:
                self._next_turn = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._next_turn = None
        self.pump()


def _lock_free(job_id: str, attempt: int) -> bytes:
    return wire.encode({"t": "lock_free", "job": job_id, "attempt": attempt})


def _journal(header: Mapping[str, Any]) -> tuple[str, int]:
    return wire.text(header, "job"), wire.number(header, "attempt")
