"""Answers that nobody reads: their connections end."""

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet import tcp
from twisted.internet.task import deferLater
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import Site

from cumulusd.web.bounded_request import BoundedRequest

reactor: Any = _reactor


class Large(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        return b"x" * (16 << 20)


class Keeper(Site):
    """Judges nothing."""

    clock = reactor
    noisy = False

    def admit(self, head: Any) -> None: ...

    def open_body(self, *_: Any) -> None: ...

    def log(self, request: Any) -> None: ...


def connections() -> int:
    known = set(reactor.getReaders()) | set(reactor.getWriters())
    return sum(isinstance(each, tcp.Server) for each in known)


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"])
@pytest_twisted.ensureDeferred
async def test_who_does_not_read_is_cut(header: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HTTPChannel, "abortTimeout", 0.2)
    site = Keeper(Large(), requestFactory=BoundedRequest, timeout=0.3)
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", port.getHost().port))
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
        seen = 0
        for _ in range(1000):
            await deferLater(reactor, 0.01)
            seen = max(seen, connections())
            if seen and not connections():
                break
        await port.stopListening()
        assert (seen, connections()) == (1, 0)
