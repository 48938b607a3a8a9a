"""The site over real sockets, for tests: a server, and peers that send bytes as they are."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer, endpoints, protocol, reactor, task
from twisted.web.resource import Resource
from web_relay import Jobs, authenticator

from cumulusd.errors import NotFound
from cumulusd.identity import Principal
from cumulusd.metrics import Metrics, MetricsSnapshot
from cumulusd.web import bounded_request
from cumulusd.web.site import CumulusSite, make_site

TOKEN = "Authorization: Bearer ann"


class LogJobs(Jobs):
    """Counts what is read of a log."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0  #: pieces of the log
        self.readers_gone = 0
        self.pieces = 3
        self.breaks: Exception | None = None

    def logs(self, who: Principal, job_id: str) -> Iterator[bytes]:
        if job_id != "job_1":
            raise NotFound(f"There is no job {job_id}")
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        try:
            for number in range(self.pieces):
                self.read += 1
                yield b"%d\xff\n" % number + b"x" * 60_000
                yield b""  # a stretch without output
            if self.breaks is not None:
                raise self.breaks
        finally:
            self.readers_gone += 1


class Says(Resource):
    isLeaf = True

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.text = text

    def render(self, request: Any) -> bytes:
        return self.text


def site(jobs: LogJobs) -> CumulusSite:
    return make_site(
        relay=jobs,
        authenticator=authenticator(),
        metrics=Metrics(MetricsSnapshot),
        ws=Says(b"the websocket"),
        agent=Says(b"the link"),
        clock=reactor,
    )


class Raw(protocol.Protocol):
    """Sends bytes as they are; collects what comes until the other end closes."""

    def __init__(self) -> None:
        self.received = b""
        self.closed: defer.Deferred[None] = defer.Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)


class Server:
    def __init__(self, port: Any, jobs: LogJobs, site: CumulusSite) -> None:
        self.port = port
        self.site = site
        self.jobs = jobs

    async def raw(self, sent: bytes, timeout_s: float = 5.0) -> bytes:
        client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        peer = await endpoints.connectProtocol(client, Raw())
        peer.transport.write(sent)
        try:
            await peer.closed.addTimeout(timeout_s, reactor)
        finally:
            peer.transport.abortConnection()
        return peer.received

    async def ask(self, line: str, *headers: str, body: bytes = b"") -> tuple[int, bytes, bytes]:
        head = [line + " HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        received = await self.raw("\r\n".join(head).encode() + body)
        top, _, rest = received.partition(b"\r\n\r\n")
        return int(top.split()[1]), top, rest


@pytest_twisted.async_yield_fixture()
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(bounded_request, "LINGER_IDLE_S", 0.2)
    jobs = LogJobs()
    served = site(jobs)
    port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(served)
    yield Server(port, jobs, served)
    await port.stopListening()
    # Connections close a turn after their last byte.
    await task.deferLater(reactor, 0, lambda: None)
