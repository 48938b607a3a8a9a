"""Followed jobs over real sockets: the reader sets the pace, and nobody is held for ever."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import pytest_twisted
from site_kit import TOKEN, LogJobs, Raw, Server, server
from twisted.internet import endpoints, reactor, task
from twisted.internet.defer import CancelledError, Deferred
from twisted.web import http

from cumulusd.web import event_stream

__all__ = ["server"]

ASKED = f"GET /api/jobs/job_1/logs?follow=1 HTTP/1.1\r\nHost: x\r\n{TOKEN}\r\n\r\n".encode()


class Talk:
    """Stands in for the relay's `follow`: says `count` things, then waits."""

    def __init__(self, jobs: LogJobs, count: int) -> None:
        self.said = 0
        self.cancelled = 0
        self.waiting: Deferred[None] = Deferred()
        self._count = count
        jobs.follow = self.follow  # type: ignore[method-assign]

    async def follow(
        self,
        who: Any,
        job_id: str,
        from_offset: int,
        sink: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> dict[str, Any]:
        try:
            for _ in range(self._count):
                self.said += 1
                await sink({"event": "state", "job": {"text": "x" * 60_000}})
            await self.waiting
        except CancelledError:
            self.cancelled += 1
            raise
        return {"event": "end", "job": {}}


async def connected(server: Server) -> Any:
    client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", server.port.getHost().port)
    peer = await endpoints.connectProtocol(client, Raw())
    peer.transport.write(ASKED)
    return peer


async def until(fact: Callable[[], object]) -> None:
    for _ in range(2000):
        if fact():
            return
        await task.deferLater(reactor, 0.005, lambda: None)
    raise AssertionError("it never came")


@pytest_twisted.ensureDeferred
async def test_events_are_sent_to_their_end(server: Server) -> None:
    status, head, body = await server.ask("GET /api/jobs/job_1/logs?follow=1", TOKEN)
    assert status == 200 and b"Content-Type: text/event-stream" in head
    assert b'"text":"one\\n"' in body and b"event: end" in body
    assert body.endswith(b"0\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_a_reader_that_takes_nothing_is_waited_for_then_hung_up_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STALLED_S", 1.0)
    talk = Talk(server.jobs, 100_000)  # 6 GB
    peer = await connected(server)
    peer.transport.pauseProducing()
    said, still = -1, 0
    for _ in range(1000):
        await task.deferLater(reactor, 0.01, lambda: None)
        still = still + 1 if talk.said == said else 0
        said = talk.said
        if said and still > 20:
            break
    assert 0 < said < 2000, "only what the sockets hold was asked for"
    peer.transport.resumeProducing()
    await until(lambda: talk.said > said + 10)
    peer.transport.pauseProducing()
    await until(lambda: talk.cancelled)
    peer.transport.abortConnection()
    await peer.closed


@pytest_twisted.ensureDeferred
async def test_something_is_sent_while_nothing_happens(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "KEEPALIVE_S", 0.05)
    talk = Talk(server.jobs, 0)
    peer = await connected(server)
    await until(lambda: peer.received.count(b": \n\n") > 2)
    talk.waiting.callback(None)
    await until(lambda: b"event: end" in peer.received)
    peer.transport.abortConnection()
    await peer.closed


@pytest_twisted.ensureDeferred
async def test_who_leaves_ends_its_following(server: Server) -> None:
    talk = Talk(server.jobs, 1)
    peer = await connected(server)
    await until(lambda: b"event: state" in peer.received)
    peer.transport.abortConnection()
    await peer.closed
    await until(lambda: talk.cancelled)


@pytest_twisted.ensureDeferred
async def test_the_sites_stop_ends_all_that_is_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.HTTPChannel, "abortTimeout", 0.2)
    talk = Talk(server.jobs, 1)
    peer = await connected(server)
    await until(lambda: b"event: state" in peer.received)
    await server.site.stop()
    assert talk.cancelled == 1
    await peer.closed
    assert not peer.received.endswith(b"0\r\n\r\n"), "cut, not ended"


@pytest_twisted.ensureDeferred
async def test_a_follower_whose_token_goes_is_told_and_cut(server: Server) -> None:
    talk = Talk(server.jobs, 1)
    peer = await connected(server)
    await until(lambda: b"event: state" in peer.received)
    assert server.site.end_requests("bob", "the token 'bob' was revoked") == 0
    assert server.site.end_requests("ann", "the token 'ann' was revoked") == 1
    await until(lambda: peer.received.endswith(b"0\r\n\r\n"))
    assert talk.cancelled == 1
    last = peer.received.rpartition(b"event: ")[2]
    assert last.startswith(b"error") and b"The token 'ann' was revoked" in last
    assert b'"code":"not_authenticated"' in last
    assert server.site.end_requests("ann", "again") == 0, "it is nobody's any more"
    peer.transport.abortConnection()
    await peer.closed


@pytest_twisted.ensureDeferred
async def test_one_that_waits_for_its_answer_is_refused(server: Server) -> None:
    waiting: Deferred[None] = Deferred()

    async def cancel(who: Any, job_id: str) -> dict[str, Any]:
        await waiting
        return {}

    server.jobs.cancel = cancel  # type: ignore[method-assign]
    asking = Deferred.fromCoroutine(server.ask("POST /api/jobs/job_1/cancel", TOKEN))
    asked: list[int] = []
    await until(lambda: asked.append(server.site.end_requests("ann", "gone")) or asked[-1])
    status, _, body = await asking
    assert status == 401 and b"Gone" in body and sum(asked) == 1


@pytest_twisted.ensureDeferred
async def test_a_download_is_cut_off(server: Server) -> None:
    server.jobs.pieces = 100_000  # 6 GB
    client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", server.port.getHost().port)
    peer = await endpoints.connectProtocol(client, Raw())
    peer.transport.write(
        f"GET /api/jobs/job_1/logs HTTP/1.1\r\nHost: x\r\n{TOKEN}\r\n\r\n".encode()
    )
    await until(lambda: peer.received)
    peer.transport.pauseProducing()
    assert server.site.end_requests("ann", "gone") == 1
    await until(lambda: server.jobs.readers_gone)
    peer.transport.resumeProducing()
    await peer.closed
