"""One agent's connection: its messages are taken, and it is told what is due, in bounds."""

from collections import deque
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from cumulus_wire import link as wire
from cumulusd.autobahn_log import STILL
from cumulusd.bulk_frames import BulkReading, header
from cumulusd.direct_write import DirectWrite
from cumulusd.errors import CumulusError
from cumulusd.identity import Role
from cumulusd.peers import PLAIN_TOKEN, is_secure
from cumulusd.pings import Silence, ping_of, pong
from cumulusd.tasks import Signal, Tasks
from cumulusd.web.output_fetches import OutputFetches
from cumulusd.web.package_reads import PackageReads

if TYPE_CHECKING:
    from cumulusd.web.agent_link import AgentLinkFactory

SUBPROTOCOL = "cumulus.agent.1"
#: A message may come in pieces; each costs memory beside its bytes, even an empty one.
_MAX_FRAMES = 4096


class AgentDesk(Protocol):
    """Who takes what agents bring. Errors other than CumulusError end the link."""

    def offered(self, node_id: str, job_id: str, attempt: int, start: int, end: int) -> int | None:
        """Where that journal is to be sent from; None: not wanted. Raises CumulusError when it
        can't be taken now."""

    def received(self, node_id: str, job_id: str, attempt: int, offset: int, data: bytes) -> bool:
        """Takes journal bytes; False: nothing more of this journal is wanted. Raises CumulusError
        when they can't be taken now: nothing of them was."""

    def lock_free(self, node_id: str, job_id: str, attempt: int) -> None:
        """No process of that attempt is left on that node."""

    async def read_package(
        self, node_id: str, sha256: str, offset: int, length: int
    ) -> tuple[bytes, int]:
        """(that range, size of the whole). Raises CumulusError."""


@attrs.frozen(kw_only=True)
class LinkLimits:
    """Bounds of one link."""

    max_links: int = 10_000  #: those too that are about to be one, or no longer
    max_gets: int = 32  #: ranges asked for and not yet answered
    read_timeout_s: float = 30.0  #: for reading one range
    outbox_bytes: int = 1 << 20  #: answers that a peer which doesn't read may pile up
    max_jobs: int = 100_000  #: journals offered by one node
    ping_s: float = 15.0  #: a silent agent is pinged after so long, and dropped after twice that
    close_timeout_s: float = 5.0  #: from its end to that of the connection


@implementer(IPushProducer)
class AgentConnection(WebSocketServerProtocol):
    """One agent's connection. What it is to be told waits in bounds while it doesn't read."""

    _log = Logger()
    log = STILL

    def __init__(self, owner: "AgentLinkFactory") -> None:
        super().__init__()
        self.node_id = ""
        self.name = ""  #: its principal's
        self.jobs: dict[str, int] = {}  #: whose journals it sends: job id -> attempt
        self._owner = owner
        self._limits = owner.limits
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._acks: dict[str, int] = {}
        self._paused = False
        self._frames = 0  #: of the message that comes
        self._owed_pong: bytes | None = None
        self._is_gone = False
        self._end: IDelayedCall | None = None
        self._lost = Signal()
        self._tasks = Tasks()
        self._reading = BulkReading(self, wire.MAX_MESSAGE_BYTES, masked=True)
        self._writing: DirectWrite | None = None
        self.fetches = OutputFetches(self._tell)
        self._reads = PackageReads(
            read=self._read_package,
            tell=self._tell,
            write=self._write,
            start=self._send_packages,
            clock=owner.clock,
            max_gets=self._limits.max_gets,
            timeout_s=self._limits.read_timeout_s,
        )
        self._silence = Silence(
            owner.clock, owner.limits.ping_s, ping=self._send_ping, dead=self._is_silent
        )

    def drop(self) -> None:
        """Ends it at once."""
        if self.state == self.STATE_CLOSED:
            # Gone for Autobahn; but it waits for a peer that doesn't read or answer TLS's end.
            self._closeConnection(abort=True)
        else:
            self.dropConnection(abort=True)

    def when_gone(self) -> Deferred[None]:
        """Fires when the connection is lost."""
        return self._lost.wait()

    def acknowledge(self, job_id: str, offset: int) -> None:
        """Only the newest matters."""
        self._acks[job_id] = offset
        self._flush()

    # -- WebSocket

    def connectionMade(self) -> None:
        super().connectionMade()
        self._owner.made(self)

    def onConnect(self, request: ConnectionRequest) -> tuple[str, dict[str, str]]:
        if request.origin:
            raise ConnectionDeny(403, "this is for agents, not for pages")  # type: ignore[no-untyped-call]
        if not (self._owner.allow_plain_tokens or is_secure(self.transport)):
            raise ConnectionDeny(401, PLAIN_TOKEN)  # type: ignore[no-untyped-call]
        principal = self._owner.authenticate(request.headers.get("authorization"))
        if principal is None:
            raise ConnectionDeny(401, "a valid token is needed")  # type: ignore[no-untyped-call]
        if principal.role is not Role.AGENT or principal.node_id is None:
            raise ConnectionDeny(403, "this token is no agent's")  # type: ignore[no-untyped-call]
        if SUBPROTOCOL not in request.protocols:
            raise ConnectionDeny(400, f"the sub-protocol is {SUBPROTOCOL}")  # type: ignore[no-untyped-call]
        self.node_id, self.name = principal.node_id, principal.name
        return SUBPROTOCOL, {}

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """Answers a handshake that isn't taken."""
        transport: Any = self.transport
        host = getattr(transport.getPeer(), "host", None) or ""
        self._owner.refused(host, str(self.peer), reason)
        super().failHandshake(reason, code, responseHeaders)

    def dropConnection(self, abort: bool = False) -> None:
        """Every end that isn't the peer's passes here: all are bounded."""
        if self._end is None and not self._is_gone:
            self._end = self._owner.clock.callLater(self._limits.close_timeout_s, self.drop)
        super().dropConnection(abort)

    def onOpen(self) -> None:
        # HTTPChannel stays the transport's producer after the upgrade: without this, ours would
        # be refused and nothing would hold back what we write.
        self.unregisterProducer()
        self.registerProducer(self, True)
        self._writing = DirectWrite(self.transport)
        self._silence.start()
        self._owner.opened(self)
        self._log.info("the link of node {node_id} is up", node_id=self.node_id)

    def dataReceived(self, data: bytes) -> None:
        self._silence.heard()
        payload = ping_of(data) if self._reading.is_between_frames else None
        if payload is None:
            self._reading.read(data)
        else:
            self.onPing(payload)

    def onPing(self, payload: bytes) -> None:
        """Answered when it is read: the newest stands for all, as WebSocket lets it."""
        if self._paused:
            self._owed_pong = payload
        else:
            self._write_frame(pong(payload))

    def onMessageBegin(self, isBinary: bool) -> None:
        self._frames = 0
        super().onMessageBegin(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        self._frames += 1
        if self._frames > _MAX_FRAMES:
            self._fail(f"it sent a message in more than {_MAX_FRAMES} frames")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary:
            self.message_received(payload)
        else:
            self._fail("it sent what is no message: text instead of a binary message")

    def message_received(self, payload: bytes | memoryview) -> None:
        """One message of the agent's."""
        try:
            self._received(*wire.decode(payload))
        except wire.LinkError as error:
            self._fail(f"it sent what is no message: {error}")
        except Exception:
            # Nothing is awaited here, so this is no cancellation.
            self._log.failure("the desk failed at a message of node {id}", id=self.node_id)
            self._fail("the daemon failed at a message of it")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_gone = True
        self._silence.stop()
        if self._end is not None and self._end.active():
            self._end.cancel()
        super().connectionLost(reason)
        self._owner.closed(self)
        self.fetches.lost()
        self._outbox.clear()
        self._acks.clear()
        self._reads.lost()
        Deferred.fromCoroutine(self._tasks.stop())
        self._lost.fire()
        if self.node_id:
            self._log.info(
                "the link of node {node_id} is down: {why}",
                node_id=self.node_id,
                why=self.wasNotCleanReason or reason.getErrorMessage(),
            )

    # -- messages

    def _received(self, header: Mapping[str, Any], body: bytes) -> None:
        kind, desk = header["t"], self._owner.desk
        if kind == "data":
            job_id, attempt = wire.text(header, "job"), wire.number(header, "attempt")
            if self.jobs.get(job_id) != attempt:
                return  # dropped, or followed by another attempt, while this was on its way
            offset = wire.number(header, "offset")
            try:
                wanted = desk.received(self.node_id, job_id, attempt, offset, body)
            except CumulusError:
                self._let_wait(job_id, attempt)
                return
            if not wanted:
                self._drop_journal(job_id, attempt)
        elif kind == "offer":
            self._offered(
                wire.text(header, "job"),
                wire.number(header, "attempt"),
                wire.number(header, "start"),
                wire.number(header, "end"),
            )
        elif kind == "lock_free":
            desk.lock_free(self.node_id, wire.text(header, "job"), wire.number(header, "attempt"))
        elif kind == "get":
            self._reads.asked(header)
        elif kind in ("output", "no_output"):
            self.fetches.received(header, body)
        else:
            raise wire.LinkError(f"unknown message {kind!r}")

    def _offered(self, job_id: str, attempt: int, start: int, end: int) -> None:
        if len(self.jobs) >= self._limits.max_jobs:
            raise wire.LinkError(f"more than {self._limits.max_jobs} journals")
        try:
            offset = self._owner.desk.offered(self.node_id, job_id, attempt, start, end)
        except CumulusError:
            self._let_wait(job_id, attempt)
            return
        if offset is None:
            self._drop_journal(job_id, attempt)
            return
        self.jobs[job_id] = attempt
        self._owner.sends(self, job_id)
        self._tell({"t": "from", "job": job_id, "attempt": attempt, "offset": offset})

    def _let_wait(self, job_id: str, attempt: int) -> None:
        """It can't be taken now (who refuses has told why): the agent keeps it, and offers it again
        in a moment."""
        self._forget_journal(job_id, attempt)
        self._tell({"t": "wait", "job": job_id, "attempt": attempt})

    def _drop_journal(self, job_id: str, attempt: int) -> None:
        self._forget_journal(job_id, attempt)
        self._tell({"t": "drop", "job": job_id, "attempt": attempt})

    def _forget_journal(self, job_id: str, attempt: int) -> None:
        if self.jobs.get(job_id) in (attempt, None):
            self.jobs.pop(job_id, None)
            self._acks.pop(job_id, None)
            self._owner.sends_no_more(self, job_id)

    def _read_package(
        self, sha256: str, offset: int, length: int
    ) -> Coroutine[Any, Any, tuple[bytes, int]]:
        return self._owner.desk.read_package(self.node_id, sha256, offset, length)

    def _send_packages(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.start(work, "sending packages", node_id=self.node_id)

    # -- sending

    def _tell(self, header: Mapping[str, Any]) -> None:
        message = wire.encode(header)
        self._outbox.append(message)
        self._outbox_bytes += len(message)
        if self._outbox_bytes > self._limits.outbox_bytes:
            self._fail("it doesn't read what it is told")
            return
        self._flush()

    def _flush(self) -> None:
        while not self._paused and self._outbox:
            message = self._outbox.popleft()
            self._outbox_bytes -= len(message)
            self._write(message)
        while not self._paused and self._acks:
            job_id, offset = self._acks.popitem()
            attempt = self.jobs.get(job_id)
            if attempt is not None:
                ack = {"t": "ack", "job": job_id, "attempt": attempt, "offset": offset}
                self._write(wire.encode(ack))

    def _write(self, message: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.write_message(message)

    def write_message(self, message: bytes) -> None:
        """One message to the agent, while it is open."""
        assert self._writing is not None
        self._writing.write(header(len(message), masked=False) + message)

    def _write_frame(self, frame: bytes) -> None:
        if self.state == self.STATE_OPEN and self._writing is not None:
            self._writing.write(frame)

    def _send_ping(self) -> None:
        self.sendPing()

    def _is_silent(self) -> None:
        self.wasNotCleanReason = f"no answer to a ping within {self._limits.ping_s:g} s"
        self.drop()

    def _fail(self, why: str) -> None:
        self._log.error(
            "the link of node {node_id} is dropped: {why}", node_id=self.node_id, why=why
        )
        self.drop()

    def pauseProducing(self) -> None:
        self._paused = True
        self._reads.pause()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._owed_pong is not None:
            owed, self._owed_pong = self._owed_pong, None
            self._write_frame(pong(owed))
        self._flush()
        self._reads.go_on()

    def stopProducing(self) -> None:
        self.pauseProducing()
