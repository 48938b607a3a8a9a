"""Connections never take the last files that the process may open."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.web.resource import Resource
from wamp_peers import SelfSigned, reactor, until, with_tokens

from cumulusd.metrics import Metrics, MetricsSnapshot
from cumulusd.open_files import MAX_JOURNALS, MIN_JOURNALS, RESERVED, WANTED, OpenFiles
from cumulusd.web.site import make_site
from tests.raw_websocket import RawPeer


@pytest.fixture
def many() -> Iterator[list[int]]:
    """Descriptors that the test has opened."""
    opened: list[int] = []
    yield opened
    for number in opened:
        os.close(number)


def test_some_files_stay_free_of_connections(many: list[int]) -> None:
    lowest = os.open(os.devnull, os.O_RDONLY)
    many.append(lowest)
    files = OpenFiles(lowest + 40)
    reserved = (lowest + 40) // 4
    while files.has_room():
        many.append(os.open(os.devnull, os.O_RDONLY))
        assert len(many) < 60
    assert max(many) < lowest + 40 - reserved
    assert max(many) >= lowest + 40 - reserved - 5  # others may hold some
    os.close(many.pop(0))
    assert files.has_room()


def test_a_quarter_is_kept_of_few_and_a_fixed_number_of_many() -> None:
    assert OpenFiles(400).for_connections == 300
    assert OpenFiles(400).for_journals == OpenFiles(1024).for_journals == MIN_JOURNALS
    assert OpenFiles(1024).for_connections == 1024 - RESERVED
    many = OpenFiles(65_536)
    assert many.for_journals == MAX_JOURNALS
    # What journals may have open beyond those few is kept free for them, too.
    assert many.for_connections == 65_536 - RESERVED - (MAX_JOURNALS - MIN_JOURNALS)


@pytest.mark.parametrize(
    ("soft", "hard", "now"), [(200, 300, 300), (200, 200_000, WANTED), (70_000, 200_000, 70_000)]
)
def test_the_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int, now: int) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this machine allows fewer open files")
    code = (
        "import resource; from cumulusd.open_files import raise_limit;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(now), str(now), str(hard)]


@pytest.mark.parametrize("tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_connection_without_room_is_closed_in_the_turn_that_took_it(tls: bool) -> None:
    """Over TLS too, whose handshake would begin after it; later ones come in again."""
    room = False
    open_at_once: list[int] = []

    def has_room(peer: str) -> bool:
        assert peer == "127.0.0.1"
        open_at_once.append(len(os.listdir("/proc/self/fd")))
        return room

    nothing: Any = None
    site = make_site(
        relay=nothing,
        authenticator=with_tokens(),
        metrics=Metrics(MetricsSnapshot),
        ws=Resource(),
        agent=Resource(),
        clock=reactor,
        has_room=has_room,
    )
    if tls:
        port = reactor.listenSSL(0, site, SelfSigned(), interface="127.0.0.1")
    else:
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
    peers = [RawPeer(port.getHost().port) for _ in range(40)]
    try:
        await until(lambda: all(peer.read() for peer in peers))
        assert len(open_at_once) == 40
        assert max(open_at_once) - min(open_at_once) <= 2  # none was kept for later
        room = True
        peers.append(RawPeer(port.getHost().port))
        await until(lambda: len(open_at_once) == 41)
        assert not peers[-1].read()
    finally:
        for peer in peers:
            peer.close()
        await port.stopListening()
        await until(lambda: len(reactor.getReaders()) <= 3)
