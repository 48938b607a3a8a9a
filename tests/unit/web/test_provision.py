"""The paths under `/provision`: the token in the body is the only key; little is read before."""

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import endpoints, protocol, reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.web.resource import Resource
from web_relay import Jobs

from cumulusd.errors import Conflict, CumulusError, InvalidArgument, NotAuthenticated
from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.metrics import Metrics, MetricsSnapshot
from cumulusd.web import provision
from cumulusd.web.answers import Send
from cumulusd.web.provision_bodies import read_body
from cumulusd.web.site import make_site

MAX_BYTES = 4096
PIECE = b"tar!" * 16_384


class Pool:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.raising: Exception | None = None
        self.waiting: Deferred[None] | None = None
        self.cancelled = 0
        self.pieces = 3
        self.sent = 0
        self.breaks = False

    async def enroll(self, token: str, node_id: str) -> dict[str, Any]:
        self.asked.append((token, node_id))
        if self.raising is not None:
            raise self.raising
        if self.waiting is not None:
            try:
                await self.waiting
            except CancelledError:
                self.cancelled += 1
                raise
        return {"node_id": node_id, "hostname": "gpu-1", "enrolled": True}

    async def script(self, name: str) -> bytes:
        return f"#!/bin/sh\n# {name}\n".encode()

    async def join(self, token: str, machine_id: str, hostname: str) -> dict[str, Any]:
        return {"told": [token, machine_id, hostname]}

    async def status(self, token: str, node_id: str, retry: bool) -> dict[str, Any]:
        return {"told": [token, node_id, retry]}

    async def leave(self, token: str, node_id: str, force: bool) -> dict[str, Any]:
        return {"told": [token, node_id, force]}

    async def image(self, token: str, image_id: str) -> Callable[[Send], Awaitable[None]]:
        if self.raising is not None:
            raise self.raising
        self.asked.append((token, image_id))

        async def send_all(send: Send) -> None:
            for _ in range(self.pieces):
                await send(PIECE)
                self.sent += 1
            if self.breaks:
                raise CumulusError("the engine went")

        return send_all


class Asking(protocol.Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)


class Server:
    def __init__(self, port: Any, pool: Pool) -> None:
        self._port = port
        self.pool = pool

    async def connect(self) -> Any:
        where = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", self._port.getHost().port)
        return await endpoints.connectProtocol(where, Asking())

    async def ask(
        self, body: bytes, method: str = "POST", path: str = "/provision/enroll", head: str = ""
    ) -> tuple[int, dict[str, Any]]:
        peer = await self.connect()
        head = head or f"Content-Length: {len(body)}\r\n"
        lines = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n"
        peer.transport.write(lines.encode() + body)
        await peer.closed.addTimeout(5.0, reactor)
        status, _, answer = peer.received.partition(b"\r\n\r\n")
        return int(status.split()[1]), json.loads(answer) if answer else {}

    async def raw(self, method: str, path: str, head: str = "") -> tuple[bytes, bytes]:
        peer = await self.connect()
        lines = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n"
        peer.transport.write(lines.encode())
        await peer.closed.addTimeout(30.0, reactor)
        head_bytes, _, body = peer.received.partition(b"\r\n\r\n")
        return head_bytes, body


async def serve(pool: Pool | None) -> Any:
    who = Principal(name="ann", owner="ann", role=Role.CLIENT)
    site = make_site(
        relay=Jobs(),
        authenticator=Authenticator([(hash_token("secret"), who)]),
        metrics=Metrics(MetricsSnapshot),
        ws=Resource(),
        agent=Resource(),
        clock=reactor,
        provision=pool,
    )
    return await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)


@pytest.fixture
def server() -> Iterator[Server]:
    pool = Pool()
    port = pytest_twisted.blockon(Deferred.fromCoroutine(serve(pool)))
    yield Server(port, pool)
    pytest_twisted.blockon(port.stopListening())


GOOD = b'{"token": "cpt_x", "node_id": "n1"}'


@pytest_twisted.ensureDeferred
async def test_a_node_is_enrolled_without_another_token(server: Server) -> None:
    assert await server.ask(GOOD) == (
        200,
        {"node_id": "n1", "hostname": "gpu-1", "enrolled": True},
    )
    assert server.pool.asked == [("cpt_x", "n1")]


@pytest.mark.parametrize(
    "error", [NotAuthenticated("not known"), Conflict("another node"), CumulusError("x")]
)
@pytest_twisted.ensureDeferred
async def test_errors_are_told_with_their_status(server: Server, error: CumulusError) -> None:
    server.pool.raising = error
    status, answer = await server.ask(GOOD)
    assert status == error.status and answer["message"] == error.message


@pytest_twisted.ensureDeferred
async def test_a_bug_is_told_by_its_log_id_only(server: Server) -> None:
    server.pool.raising = RuntimeError("the cpt_x of it")
    status, answer = await server.ask(GOOD)
    assert status == 500 and "cpt_x" not in json.dumps(answer) and answer["details"]["log_id"]


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b"", None),
        (b"\xff", None),
        (b"[" * 4000, None),
        (b"[]", None),
        (b'{"node_id": "n1"}', "token"),
        (b'{"token": "cpt_x"}', "node_id"),
        (b'{"token": "cpt_x", "node_id": 1}', "node_id"),
        (b'{"token": "cpt_x", "node_id": "n\\n1"}', "node_id"),
        (b'{"token": "cpt_x", "node_id": "n1", "role": "admin"}', "role"),
        (json.dumps({"token": "cpt_x" * 50, "node_id": "n"}).encode(), "token"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_body_that_is_wrong(server: Server, body: bytes, key: str | None) -> None:
    status, answer = await server.ask(body)
    assert status == 400 and server.pool.asked == []
    if key is not None:
        assert [fault["key"] for fault in answer["details"]["faults"]] == [key]
    assert "cpt_x" not in json.dumps(answer), "a token must not be repeated"


def test_every_fault_of_a_body_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_body(b'{"x": 1, "token": ""}', ("token", "node_id"))
    assert [one["key"] for one in caught.value.details["faults"]] == ["x", "token", "node_id"]


@pytest_twisted.ensureDeferred
async def test_a_large_body_is_refused_by_its_header(server: Server) -> None:
    status, _ = await server.ask(b"", head=f"Content-Length: {MAX_BYTES + 1}\r\n")
    assert status == 413
    status, _ = await server.ask(b"", head="Transfer-Encoding: chunked\r\n")
    assert status == 413
    assert server.pool.asked == []


@pytest.mark.parametrize("path", ["/provision/enroll/x", "/provision/other", "/provision"])
@pytest_twisted.ensureDeferred
async def test_nothing_is_beside_it(server: Server, path: str) -> None:
    status, _ = await server.ask(GOOD, path=path)
    assert status in (401, 404) and server.pool.asked == []


@pytest_twisted.ensureDeferred
async def test_only_post(server: Server) -> None:
    status, _ = await server.ask(b"", method="GET")
    assert status == 405 and server.pool.asked == []


@pytest_twisted.ensureDeferred
async def test_other_paths_still_want_a_token_before_a_body(server: Server) -> None:
    status, _ = await server.ask(b"x" * 10, path="/api/jobs")
    assert status == 401


@pytest_twisted.ensureDeferred
async def test_who_leaves_ends_the_work(server: Server) -> None:
    server.pool.waiting = Deferred()
    peer = await server.connect()
    lines = f"POST /provision/enroll HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n\r\n"
    peer.transport.write(lines.encode() + GOOD)
    await until(lambda: server.pool.asked)
    peer.transport.abortConnection()
    await peer.closed
    await until(lambda: server.pool.cancelled)


@pytest_twisted.ensureDeferred
async def test_how_many_are_under_way_is_bounded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "MAX_UNDER_WAY", 1)
    server.pool.waiting = waiting = Deferred()
    first = Deferred.fromCoroutine(server.ask(GOOD))
    await until(lambda: server.pool.asked)
    status, _ = await server.ask(GOOD)
    assert status == 429
    waiting.callback(None)
    assert (await first)[0] == 200


@pytest_twisted.ensureDeferred
async def test_without_a_pool_all_of_it_says_why() -> None:
    port = await serve(None)
    try:
        for method, path in (
            *(("POST", f"/provision/{name}") for name in ("join", "enroll", "status", "leave")),
            ("GET", "/provision/images/sha256:1"),
            ("GET", "/provision/worker.sh"),
        ):
            body = GOOD if method == "POST" else b""
            status, answer = await Server(port, Pool()).ask(body, method=method, path=path)
            assert status == 409 and "platform: local" in answer["message"], path
    finally:
        await port.stopListening()


@pytest.mark.parametrize("name", ["worker.sh", "manager.sh", "firewall.sh"])
@pytest_twisted.ensureDeferred
async def test_scripts_are_for_everybody(server: Server, name: str) -> None:
    head, body = await server.raw("GET", f"/provision/{name}")
    assert b" 200 " in head and b"text/x-shellscript" in head
    assert body == f"#!/bin/sh\n# {name}\n".encode()


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("join", {"machine_id": "m" * 8, "hostname": "g"}, ["cpt_x", "m" * 8, "g"]),
        ("status", {"node_id": "n1"}, ["cpt_x", "n1", False]),
        ("status", {"node_id": "n1", "retry": True}, ["cpt_x", "n1", True]),
        ("leave", {"node_id": "n1", "force": True}, ["cpt_x", "n1", True]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_posted_is_handed_on(
    server: Server, path: str, body: dict[str, Any], told: list[Any]
) -> None:
    data = json.dumps({"token": "cpt_x", **body}).encode()
    assert await server.ask(data, path=f"/provision/{path}") == (200, {"told": told})


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("join", {"machine_id": "m" * 7, "hostname": "g"}, "machine_id"),
        ("join", {"machine_id": "m" * 129, "hostname": "g"}, "machine_id"),
        ("join", {"machine_id": "m" * 8}, "hostname"),
        ("status", {"node_id": "n1", "retry": "yes"}, "retry"),
        ("leave", {"node_id": "n1", "force": 1}, "force"),
        ("leave", {"node_id": "n1", "retry": True}, "retry"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_posted_wrongly(
    server: Server, path: str, body: dict[str, Any], key: str
) -> None:
    data = json.dumps({"token": "cpt_x", **body}).encode()
    status, answer = await server.ask(data, path=f"/provision/{path}")
    assert (status, [one["key"] for one in answer["details"]["faults"]]) == (400, [key])


BEARER = "Authorization: Bearer cpt_x\r\n"


@pytest_twisted.ensureDeferred
async def test_an_image_is_sent_as_it_comes(server: Server) -> None:
    head, body = await server.raw("GET", "/provision/images/sha256:1", BEARER)
    assert b" 200 " in head and b"application/x-tar" in head
    assert body.count(PIECE) == 3 and body.endswith(b"0\r\n\r\n"), "chunked, and whole"
    assert server.pool.asked == [("cpt_x", "sha256:1")]


@pytest_twisted.ensureDeferred
async def test_an_image_that_breaks_off_does_not_look_whole(server: Server) -> None:
    server.pool.breaks = True
    head, body = await server.raw("GET", "/provision/images/sha256:1", BEARER)
    assert b" 200 " in head and not body.endswith(b"0\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_an_image_is_not_sent_ahead_of_its_reader(server: Server) -> None:
    server.pool.pieces = 10_000
    peer = await server.connect()
    peer.transport.write(
        f"GET /provision/images/sha256:1 HTTP/1.1\r\nHost: x\r\n{BEARER}\r\n".encode()
    )
    await until(lambda: peer.received)
    peer.transport.pauseProducing()
    await until(lambda: server.pool.sent)
    before = -1
    while before != server.pool.sent:  # until the sockets between are full
        before = server.pool.sent
        await deferLater(reactor, 0.2)
    assert server.pool.sent < 1000
    peer.transport.abortConnection()
    await peer.closed


@pytest.mark.parametrize("head", ["", "Authorization: Basic eA==\r\n", "Authorization: Bearer\r\n"])
@pytest_twisted.ensureDeferred
async def test_an_image_needs_the_machines_token(server: Server, head: str) -> None:
    answer, _ = await server.raw("GET", "/provision/images/sha256:1", head)
    assert b" 401 " in answer and server.pool.asked == []


async def until(true: Any) -> None:
    for _ in range(500):
        if true():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it never became true")


@pytest.mark.parametrize(
    ("error", "lines"),
    [(NotAuthenticated("no such token"), 0), (Conflict("bound to another machine"), 1)],
    ids=["guessed", "stolen"],
)
@pytest_twisted.ensureDeferred
async def test_who_only_guesses_fills_no_log(
    server: Server, error: CumulusError, lines: int
) -> None:
    """A token that is somebody's is another matter: that is to be seen."""
    server.pool.raising = error
    with capturedLogs() as logged:
        status, _ = await server.ask(GOOD)
    assert status == error.status
    warned = [one for one in logged if one["log_level"] >= LogLevel.info and "why" in one]
    assert len(warned) == lines
