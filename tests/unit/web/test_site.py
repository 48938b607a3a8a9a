"""The site over real sockets: bodies judged by their headers, no version told, sub-resources."""

import json

import pytest
import pytest_twisted
from site_kit import TOKEN, Raw, Server, server
from twisted.internet import endpoints, reactor, task
from twisted.logger import capturedLogs
from twisted.web import http

from cumulusd.errors import Conflict
from cumulusd.web import site, streaming
from cumulusd.web.rest import MAX_BODY_BYTES

__all__ = ["server"]


@pytest_twisted.ensureDeferred
async def test_answers_are_json_and_tell_no_version(server: Server) -> None:
    status, head, body = await server.ask("GET /health")
    assert status == 200
    assert json.loads(body)["parts"]["store"] == "ok"
    assert b"Server: cumulus\r\n" in head + b"\r\n"
    assert b"twisted" not in head.lower()
    assert b"Cache-Control: no-store" in head and b"nosniff" in head


@pytest_twisted.ensureDeferred
async def test_head_has_no_body(server: Server) -> None:
    status, head, body = await server.ask("HEAD /api/info", TOKEN)
    assert (status, body) == (200, b"")
    assert b"Content-Length: 37" in head


@pytest_twisted.ensureDeferred
async def test_errors_are_json(server: Server) -> None:
    status, _, body = await server.ask("GET /api/jobs/job_%32", TOKEN)
    assert status == 404 and json.loads(body)["job_id"] == "job_2"
    status, head, body = await server.ask("GET /nowhere")
    assert status == 401 and json.loads(body)["code"] == "not_authenticated"
    assert b"WWW-Authenticate: Bearer" in head
    status, _, body = await server.ask("POST /api/jobs", TOKEN, "Content-Length: 2", body=b"{}")
    assert status == 400 and "multipart/form-data" in json.loads(body)["message"]


@pytest_twisted.ensureDeferred
async def test_a_large_body_is_refused_before_it_comes(server: Server) -> None:
    """Only the headers are sent: an answer comes, and the connection closes."""
    status, head, body = await server.ask(
        "POST /api/jobs/job_1/cancel", TOKEN, f"Content-Length: {MAX_BODY_BYTES + 1}"
    )
    assert status == 413 and b"Connection: close" in head
    assert json.loads(body)["code"] == "too_large"


@pytest_twisted.ensureDeferred
async def test_a_body_of_unknown_length_is_counted(server: Server) -> None:
    chunked = "Transfer-Encoding: chunked"
    line = "POST /api/jobs/job_1/cancel"
    status, _, body = await server.ask(line, TOKEN, chunked, body=b"2\r\n{}\r\n0\r\n\r\n")
    assert status == 409, "read, and ignored"
    chunk = b"%x\r\n" % (MAX_BODY_BYTES + 1) + b"x" * (MAX_BODY_BYTES + 1)
    status, _, body = await server.ask(line, TOKEN, chunked, body=chunk)
    assert status == 413 and json.loads(body)["code"] == "too_large"


@pytest_twisted.ensureDeferred
async def test_nobodys_body_is_refused_before_it_comes(server: Server) -> None:
    status, head, _ = await server.ask("POST /api/jobs", "Content-Length: 10")
    assert status == 401 and b"WWW-Authenticate" in head


@pytest_twisted.ensureDeferred
async def test_what_follows_a_refused_request_is_not_answered(server: Server) -> None:
    smuggled = b"GET /api/info HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ann\r\n\r\n"
    for extra in (b"", b"x" * 100_000):
        received = await server.raw(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + extra + smuggled
        )
        assert received.count(b"HTTP/1.1 ") == 1
        assert received.startswith(b"HTTP/1.1 401 ")


@pytest_twisted.ensureDeferred
async def test_expect_continue_is_not_invited_when_refused(server: Server) -> None:
    status, head, _ = await server.ask(
        "POST /", TOKEN, "Content-Length: 99999999", "Expect: 100-continue"
    )
    assert status == 413 and b"100 Continue" not in head


@pytest.mark.parametrize(
    ("path", "text"), [("/ws", b"the websocket"), ("/agent", b"the link"), ("/ws/x", b"the webs")]
)
@pytest_twisted.ensureDeferred
async def test_the_websockets_have_their_places(server: Server, path: str, text: bytes) -> None:
    status, _, body = await server.ask(f"GET {path}")
    assert status == 200 and body.startswith(text)


@pytest_twisted.ensureDeferred
async def test_garbage_does_not_stop_it(server: Server) -> None:
    for garbage in (
        b"\x00\xff\xfe\r\n\r\n",
        b"GET /api/jobs\xff?\xff=%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET " + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ):
        received = await server.raw(garbage)
        assert received == b"" or received.startswith(b"HTTP/1.1 4"), received
    assert (await server.ask("GET /health"))[0] == 200


def unchunked(body: bytes) -> tuple[bytes, bool]:
    """(what chunks hold, whether the last one is there)."""
    data = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        if int(size, 16) == 0:
            return data, True
        data, body = data + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return data, False


@pytest_twisted.ensureDeferred
async def test_a_log_is_sent_as_it_is(server: Server) -> None:
    status, head, body = await server.ask("GET /api/jobs/job_1/logs", TOKEN)
    assert status == 200
    assert b"Content-Type: text/plain; charset=utf-8" in head and b"nosniff" in head
    expected = b"".join(b"%d\xff\n" % number + b"x" * 60_000 for number in range(3))
    assert unchunked(body) == (expected, True)
    status, head, body = await server.ask("HEAD /api/jobs/job_1/logs", TOKEN)
    assert (status, body) == (200, b"")
    assert (await server.ask("GET /api/jobs/job_2/logs", TOKEN))[0] == 404
    assert (await server.ask("GET /api/jobs/job_1/logs"))[0] == 401


@pytest_twisted.ensureDeferred
async def test_a_log_that_cant_be_read_to_its_end_has_none(server: Server) -> None:
    for error in (Conflict("the journal was deleted"), ZeroDivisionError("a bug")):
        server.jobs.breaks = error
        _, _, body = await server.ask("GET /api/jobs/job_1/logs", TOKEN)
        assert unchunked(body)[1] is False


@pytest_twisted.ensureDeferred
async def test_a_reader_that_takes_nothing_costs_nothing_and_is_hung_up_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STALLED_S", 1.0)
    monkeypatch.setattr(http.HTTPChannel, "abortTimeout", 0.2)
    server.jobs.pieces = 100_000  # 6 GB
    client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", server.port.getHost().port)
    peer = await endpoints.connectProtocol(client, Raw())
    peer.transport.pauseProducing()
    asked = f"GET /api/jobs/job_1/logs HTTP/1.1\r\nHost: x\r\n{TOKEN}\r\n\r\n"
    peer.transport.write(asked.encode())
    read, still = -1, 0
    for _ in range(1000):
        await task.deferLater(reactor, 0.01, lambda: None)
        still = still + 1 if server.jobs.read == read else 0
        read = server.jobs.read
        if read and still > 20:
            break
    assert 0 < read < 2000, "only what the sockets hold was read"
    peer.transport.resumeProducing()
    await task.deferLater(reactor, 0.1, lambda: None)
    assert server.jobs.read > read, "it goes on when the reader does"
    peer.transport.pauseProducing()
    for _ in range(1000):
        await task.deferLater(reactor, 0.02, lambda: None)
        if server.jobs.readers_gone:
            break
    assert server.jobs.readers_gone == 1, "hung up on"
    peer.transport.abortConnection()
    await peer.closed


@pytest_twisted.ensureDeferred
async def test_an_answer_that_cant_be_written_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(site, "_write_head", fail)
    with capturedLogs() as logged:
        received = await server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received == b""
    assert any("log_failure" in event for event in logged)


@pytest.mark.parametrize(
    "header",
    [
        b"Authorization: Bearer a\xa6n",
        b"Content-Type: \xff",
        b"Host: a\xa6",
        b"Host: a\r\nHost: \xff",
        b"Origin: http://a\xa6",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_header_that_is_no_utf8_is_refused_as_any_other(
    server: Server, header: bytes
) -> None:
    for line in (b"GET /api/jobs", b"POST /api/jobs"):
        sent = line + b" HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n" + header
        received = await server.raw(sent + b"\r\n\r\n{}")
        assert received.split()[1] in (b"401", b"403"), received
