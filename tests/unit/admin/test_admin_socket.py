"""The admin socket over real sockets: whose file it is, who may ask, and how much."""

import contextlib
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from cumulusd.admin import site as admin_site
from cumulusd.admin import unix_socket
from cumulusd.admin.client import AdminClient
from cumulusd.admin.site import AdminSite
from cumulusd.admin.tokens import Tokens
from cumulusd.admin.unix_socket import AdminPort, Peer, connect
from cumulusd.errors import (
    Conflict,
    InternalError,
    InvalidArgument,
    NotAuthorized,
    NotFound,
    TooLarge,
    Unavailable,
)
from cumulusd.identity import Authenticator, hash_token

_T = TypeVar("_T")
NOW = 1_795_708_000.0


class Served:
    """The site on a socket, and its client in a thread."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.path = path
        self.doors = Authenticator([], lambda: NOW)
        self.tokens = Tokens(
            folder,
            self.doors,
            clock=reactor,  # type: ignore[arg-type]  # it is a module to mypy
            wall_clock=lambda: NOW,
            run_in_thread=deferToThread,
        )
        self.site = AdminSite(self.tokens, lambda: NOW, reactor, lambda: {"version": "1"})
        self.port = AdminPort(path, self.site, reactor)

    async def ask(self, function: Callable[[AdminClient], _T]) -> _T:
        client = AdminClient(self.path)
        return await deferToThread(lambda: function(client))

    async def raw(self, sent: bytes, timeout_s: float = 10.0) -> bytes:
        def talk() -> bytes:
            received = b""
            with connect(self.path, timeout_s) as peer:
                with contextlib.suppress(BrokenPipeError):  # it is closed already
                    peer.sendall(sent)
                while data := peer.recv(65536):
                    received += data
            return received

        return await deferToThread(talk)

    async def stop(self) -> None:
        await Deferred.fromCoroutine(_stopped(self.port))
        await self.site.stop()
        await deferLater(reactor, 0, lambda: None)  # connections close a turn later


async def _stopped(port: AdminPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


@pytest_twisted.async_yield_fixture()
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(tmp_path, tmp_path / "admin.sock")
    made.port.startListening()
    yield made
    await made.stop()


@pytest_twisted.ensureDeferred
async def test_made_listed_and_revoked(served: Served) -> None:
    token, shown = await served.ask(
        lambda client: client.create_token({"name": "ann@lab", "role": "viewer", "owner": "o"})
    )
    assert served.doors.authenticate(token) is not None
    listed = await served.ask(lambda client: client.tokens())
    assert listed == [shown] and shown["role"] == "viewer" and shown["owner"] == "o"
    gone = await served.ask(lambda client: client.revoke_token("ann@lab"))
    assert gone == shown and served.doors.authenticate(token) is None
    assert await served.ask(lambda client: client.tokens()) == []


@pytest_twisted.ensureDeferred
async def test_the_daemons_own_errors_come_out_of_the_client(served: Served) -> None:
    with pytest.raises(InvalidArgument, match="role must be one of") as wrong:
        await served.ask(lambda client: client.create_token({"name": "ann", "role": "boss"}))
    assert wrong.value.details["faults"][0]["key"] == "role"
    await served.ask(lambda client: client.create_token({"name": "ann", "role": "client"}))
    with pytest.raises(Conflict) as taken:
        await served.ask(lambda client: client.create_token({"name": "ann", "role": "client"}))
    assert "revoke it first" in str(taken.value.hint)
    for name in ("bob", "../x", "a b?c#d", "é"):
        with pytest.raises(NotFound):
            await served.ask(lambda client, name=name: client.revoke_token(name))  # type: ignore[misc]


@pytest_twisted.ensureDeferred
async def test_nobody_else_may_ask(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    monkeypatch.setattr(admin_site, "peer_of", lambda connection: Peer(uid=54321, pid=7))
    for ask in (
        lambda client: client.tokens(),
        lambda client: client.create_token({"name": "ann", "role": "admin"}),
        lambda client: client.revoke_token("ann"),
    ):
        with pytest.raises(NotAuthorized, match="uid 54321"):
            await served.ask(ask)
    assert served.doors.open


@pytest_twisted.ensureDeferred
async def test_the_kernel_says_who_asks(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        admin_site, "peer_of", lambda it: (seen.append(unix_socket.peer_of(it)), seen[-1])[1]
    )
    await served.ask(lambda client: client.tokens())
    assert seen == [Peer(uid=os.geteuid(), pid=os.getpid())]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /tokens HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\n", b"403"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /tokensx HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"DELETE /tokens/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"DELETE /tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405"),
        (b"GET /tokens/ann HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405"),
        (b"POST /tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"400"),
        (
            b"POST /tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Length: 5\r\n\r\n[[[[[",
            b"400",
        ),
        (
            b"POST /tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Length: 99999\r\n\r\n",
            b"413",
        ),
        (
            b"POST /tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"413",
        ),
        (b"no HTTP at all\r\n\r\n", b"400"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_requests_are_bounded_and_answered(
    served: Served, sent: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cumulusd.web.bounded_request.LINGER_IDLE_S", 0.2)
    answer = await served.raw(sent)
    assert answer.split(b" ")[1] == status, answer
    assert served.doors.open, "nothing was made"


def test_too_large_is_an_error_of_the_tree() -> None:
    site = AdminSite(None, lambda: NOW, reactor, dict)  # type: ignore[arg-type]
    with pytest.raises(TooLarge):
        site.open_body(admin_site.Head(method="POST", path="/tokens"), 1 << 30, None)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_connections_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_site, "MAX_CONNECTIONS", 2)
    idle = [await deferToThread(connect, served.path, 5.0) for _ in range(2)]
    assert await served.raw(b"") == b"", "one too many is closed"
    for each in idle:
        each.close()
    for _ in range(100):
        await deferLater(reactor, 0.01, lambda: None)
        if served.site._connections == 0:
            break
    assert await served.ask(lambda client: client.tokens()) == []


@pytest_twisted.ensureDeferred
async def test_what_has_begun_goes_on_when_the_asker_leaves(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, done = threading.Event(), threading.Event()
    save = served.tokens._file.save

    def slow_save(records: Any) -> None:
        going.set()
        assert done.wait(10)
        save(records)

    monkeypatch.setattr(served.tokens._file, "save", slow_save)
    body = b'{"name": "ann", "role": "client"}'
    head = f"POST /tokens HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def leave() -> None:
        with connect(served.path, 5.0) as peer:
            peer.sendall(head + body)
            assert going.wait(10)

    await deferToThread(leave)
    await deferLater(reactor, 0.05, lambda: None)
    done.set()
    for _ in range(500):
        await deferLater(reactor, 0.01, lambda: None)
        if not served.doors.open:
            break
    assert [one["name"] for one in served.tokens.listing()] == ["ann"]


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_stops_ends_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path, tmp_path / "admin.sock")
    served.port.startListening()
    cancelled: list[str] = []
    waiting: Deferred[Any] = Deferred(lambda _: cancelled.append("it"))
    monkeypatch.setattr(served.tokens, "_run_in_thread", lambda function: waiting)
    asking = served.ask(lambda client: client.create_token({"name": "a", "role": "client"}))
    refused = Deferred.fromCoroutine(asking)
    while not served.tokens._changing.locked:
        await deferLater(reactor, 0.01, lambda: None)
    await served.stop()
    assert cancelled == ["it"] and not served.tokens._changing.locked
    refused.addErrback(lambda failure: failure.value)
    for channel in list(reactor.getReaders()):  # type: ignore[attr-defined]
        if type(channel).__name__ == "Server":
            channel.abortConnection()  # as the end of the process does
    error = await refused
    assert isinstance(error, Unavailable) and "cumulusd token list" in str(error.hint)


@pytest_twisted.ensureDeferred
async def test_a_dead_daemons_file_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # and nobody listens
    os.chmod(path, 0o666)
    first = Served(tmp_path, path)
    first.port.startListening()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    inode = path.stat().st_ino
    second = AdminPort(path, first.site, reactor)
    with pytest.raises(Unavailable, match="somebody listens"):
        second.startListening()
    assert path.stat().st_ino == inode
    assert await first.ask(lambda client: client.tokens()) == []
    await first.stop()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_a_file_of_somebody_elses_stays(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    port = AdminPort(path, AdminSite(None, lambda: NOW, reactor, dict), reactor)  # type: ignore[arg-type]
    with pytest.raises(InternalError, match="no socket is there"):
        port.startListening()
    assert path.read_text() == "precious"
    path.unlink()
    served = Served(tmp_path, path)
    served.port.startListening()
    path.unlink()
    path.write_text("another's by now")
    await served.stop()
    assert path.read_text() == "another's by now"


@pytest_twisted.ensureDeferred
async def test_a_path_longer_than_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    served = Served(folder, folder / "admin.sock")
    served.port.startListening()
    token, _ = await served.ask(
        lambda client: client.create_token({"name": "ann", "role": "client"})
    )
    assert hash_token(token) in (folder / "tokens.json").read_text()
    await served.stop()
    assert not served.path.exists()


def test_no_daemon_is_told_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with pytest.raises(Unavailable, match="No such file") as missing:
        AdminClient(path).tokens()
    assert str(path) in missing.value.message
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(Unavailable, match="Connection refused"):
        AdminClient(path).tokens()
    with pytest.raises(Unavailable, match="No such file"):
        AdminClient(tmp_path / "nowhere" / "admin.sock").tokens()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b"x"])
def test_half_an_answer_is_an_error(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(Unavailable, match="no whole answer"):
            AdminClient(path).create_token({"name": "ann", "role": "client"})
        serving.join()


@pytest_twisted.ensureDeferred
async def test_how_the_daemon_is(served: Served) -> None:
    assert await served.ask(lambda client: client.status()) == {"version": "1"}
    assert b"405" in await served.raw(
        b"POST /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
