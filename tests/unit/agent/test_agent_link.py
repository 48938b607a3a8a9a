"""Journals over the link: complete, in order, fair, bounded, whatever is cut or hostile."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import AGENT, TOKEN, Runner, World, authenticate
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from cumulus_wire import link as wire
from cumulusd.agent.journal_sender import CHUNK_BYTES
from cumulusd.agent.link import TURN_BYTES
from cumulusd.web.agent_connection import LinkLimits
from cumulusd.web.agent_link import AgentLinkFactory

Make = Callable[..., World]


def fill(runner: Runner, frames: int, size: int = 2000, seed: int = 1) -> None:
    randomness = random.Random(seed)
    for _ in range(frames):
        runner.print(randomness.randbytes(randomness.randint(1, size)))


def arrived(world: World, runner: Runner) -> bool:
    return bytes(world.desk.journals.get(runner.job_id, b"")) == runner.written


@pytest_twisted.ensureDeferred
async def test_a_poke_brings_bytes_at_once_and_a_lost_poke_late(make: Make) -> None:
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    try:
        runner.connect()
        runner.print(b"first")
        runner.poke()
        began = reactor.seconds()  # type: ignore[attr-defined]
        await world.until(lambda: arrived(world, runner))
        assert reactor.seconds() - began < 0.4  # type: ignore[attr-defined]
        runner.print(b"second")
        await world.until(lambda: arrived(world, runner), timeout_s=3)
    finally:
        runner.close()


@pytest_twisted.ensureDeferred
async def test_segments_go_when_acknowledged_but_the_last_stays(make: Make) -> None:
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    world.desk.acking = False
    fill(runner, 400)
    segments = runner.segments()
    assert len(segments) > 3
    await world.until(lambda: arrived(world, runner))
    assert runner.segments() == segments
    world.desk.acknowledge("job-1", runner.end)
    await world.until(lambda: runner.segments() == segments[-1:])
    await deferLater(reactor, 0.1)
    assert runner.segments() == segments[-1:]


@pytest_twisted.ensureDeferred
async def test_nothing_is_lost_or_doubled_when_the_link_breaks_in_mid_stream(make: Make) -> None:
    world = await make().start()
    jobs = ["job-a", "job-b"]
    for job_id in jobs:
        await world.prepare(job_id, units=100)
    runners = [world.runner(job_id) for job_id in jobs]
    for turn in range(6):
        for number, runner in enumerate(runners):
            fill(runner, 150, 3000, seed=turn * 10 + number)
        await deferLater(reactor, 0.02)
        assert world.links is not None
        await world.links.stop()
        if turn == 2:
            await world.stop_agent()
            world.start_agent()
    await world.until(lambda: all(arrived(world, runner) for runner in runners), 30)
    for runner in runners:
        records = world.desk.records[runner.job_id]
        assert len(records) == 900
        assert records[-1].next_offset == runner.end


@pytest_twisted.ensureDeferred
async def test_a_large_journal_doesnt_starve_a_small_one(make: Make) -> None:
    world = await make().start()
    for job_id in ("large", "small"):
        await world.prepare(job_id, units=100)
    large, small = world.runner("large"), world.runner("small")
    large.segment_bytes = 64 << 20
    await world.stop_daemon()
    for _ in range(24):
        large.print(b"x" * (1 << 20))
    small.print(b"y")
    await world.start_daemon()
    await world.until(lambda: arrived(world, large) and arrived(world, small))
    # No more of the other goes first than is written in a turn.
    assert world.desk.order.index("small") <= TURN_BYTES // CHUNK_BYTES


@pytest_twisted.ensureDeferred
async def test_the_agent_holds_back_when_the_daemon_doesnt_read(make: Make) -> None:
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    runner.segment_bytes = 64 << 20
    assert world.links is not None
    (connection,) = world.links._made
    connection.transport.pauseProducing()
    for _ in range(40):
        runner.print(b"x" * (1 << 20))
    await deferLater(reactor, 1.0)
    service: Any = world.service
    link = service._agent._link
    buffered = link._connection.transport
    assert len(buffered.dataBuffer) + buffered._tempDataLen < 2 << 20
    assert link.sender._sources["job-1"].position < 8 << 20
    connection.transport.resumeProducing()
    await world.until(lambda: arrived(world, runner))


@pytest_twisted.ensureDeferred
async def test_a_daemon_whose_disk_is_full_gets_it_all_later_and_others_go_on(make: Make) -> None:
    world = await make().start()
    for job_id in ("job-1", "job-2"):
        await world.prepare(job_id)
    full, well = world.runner("job-1"), world.runner("job-2")
    world.desk.full = lambda job_id: job_id == "job-1" and world.desk.refused < 4
    for number in range(300):
        full.print(b"%d " % number * 200)
        well.print(b"%d" % number)
    await world.until(lambda: world.desk.journals.get("job-2") == well.written)
    await world.until(lambda: world.desk.refused >= 1)
    first_links = world.links and set(world.links._made)
    full.print(b"while it is full")
    await world.until(lambda: world.desk.journals.get("job-1") == full.written, 30.0)
    assert world.desk.refused == 4
    assert world.links and set(world.links._made) == first_links, "over the same link"


@pytest_twisted.ensureDeferred
async def test_an_unwanted_journal_is_not_sent(make: Make) -> None:
    world = await make().start()
    world.desk.unwanted.add("job-1")
    await world.prepare()
    runner = world.runner()
    fill(runner, 5)
    await deferLater(reactor, 0.8)
    assert world.desk.order == []


@pytest_twisted.ensureDeferred
async def test_a_torn_tail_goes_on_where_it_was_torn(make: Make) -> None:
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    runner.print(b"one")
    whole = Runner(world.root.parent / "elsewhere", "x")
    whole.folder.mkdir()
    whole.print(b"two" * 1000)
    runner.append(whole.written[:1000])
    await world.until(lambda: arrived(world, runner))
    runner.append(whole.written[1000:])
    await world.until(lambda: len(world.desk.records["job-1"]) == 2)
    assert world.desk.records["job-1"][1].payload == b"two" * 1000


def symlinked_segment(runner: Runner, secret: Path) -> None:
    (runner.folder / "journal").mkdir()
    (runner.folder / "journal" / ("0" * 20 + ".seg")).symlink_to(secret)


def fifo_segment(runner: Runner, secret: Path) -> None:
    (runner.folder / "journal").mkdir()
    os.mkfifo(runner.folder / "journal" / ("0" * 20 + ".seg"))


def symlinked_journal(runner: Runner, secret: Path) -> None:
    (secret.parent / "outside").mkdir()
    (secret.parent / "outside" / ("0" * 20 + ".seg")).write_bytes(secret.read_bytes())
    (runner.folder / "journal").symlink_to(secret.parent / "outside")


def folder_segment(runner: Runner, secret: Path) -> None:
    (runner.folder / "journal" / ("0" * 20 + ".seg")).mkdir(parents=True)


def shrinking_segment(runner: Runner, secret: Path) -> None:
    fill(runner, 3)
    os.truncate(runner.folder / "journal" / runner.segments()[0], 1)
    runner.written = b""


@pytest.mark.parametrize(
    "attack",
    [symlinked_segment, fifo_segment, symlinked_journal, folder_segment, shrinking_segment],
)
@pytest_twisted.ensureDeferred
async def test_a_hostile_folder_gives_nothing_away_and_is_cleared(
    make: Make, tmp_path: Path, attack: Callable[[Runner, Path], None]
) -> None:
    world = await make().start()
    await world.prepare()
    await world.prepare("honest", units=100)
    secret = tmp_path / "secret"
    secret.write_bytes(b"S3CRET" * 10)
    attack(world.runner(), secret)
    honest = world.runner("honest")
    honest.print(b"hello")
    await world.until(lambda: arrived(world, honest))
    await deferLater(reactor, 0.7)
    assert b"S3CRET" not in world.desk.journals["job-1"]
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True
    assert secret.exists()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
@pytest_twisted.ensureDeferred
async def test_a_lock_that_is_no_file_counts_as_held(make: Make, kind: str) -> None:
    world = await make().start()
    await world.prepare()
    lock = world.root / "jobs/job-1/lock"
    if kind == "fifo":
        os.mkfifo(lock)
    elif kind == "link":
        lock.symlink_to("/etc/passwd")
    else:
        lock.mkdir()
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    # A folder can be opened and locked no more than a pipe.
    assert answer["released"] is False


class Peer(WebSocketClientProtocol):
    """A client of `/agent` that says what the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[dict[str, Any]] = []
        self.opened: Deferred[None] = Deferred()
        self.why: Deferred[str] = Deferred()

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.got.append(wire.decode(payload)[0])

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.why.callback(str(reason))

    def say(self, header: dict[str, Any], body: bytes = b"") -> None:
        self.sendMessage(wire.encode(header, body), isBinary=True)  # type: ignore[no-untyped-call]


async def peer(world: World, token: str = TOKEN, protocol: str = "cumulus.agent.1") -> Peer:
    factory = WebSocketClientFactory(  # type: ignore[no-untyped-call]
        url="ws://localhost/agent",
        protocols=[protocol],
        headers={"Authorization": f"Bearer {token}"},
        reactor=reactor,
    )
    factory.protocol = Peer
    factory.noisy = False
    connected: Peer = await endpoints.UNIXClientEndpoint(reactor, str(world.socket)).connect(
        factory
    )
    return connected


@pytest.mark.parametrize(
    ("token", "protocol", "status"),
    [
        ("nobodys", "cumulus.agent.1", "401"),
        ("a-clients-token", "cumulus.agent.1", "403"),
        (TOKEN, "other.1", "400"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_agents_get_a_link(make: Make, token: str, protocol: str, status: str) -> None:
    world = make()
    await world.start_daemon()
    refused = await peer(world, token, protocol)
    assert status in await refused.why
    assert not refused.opened.called


@pytest_twisted.ensureDeferred
async def test_a_newer_link_of_a_node_replaces_the_older(make: Make) -> None:
    world = make()
    await world.start_daemon()
    older = await peer(world)
    await older.opened
    newer = await peer(world)
    await newer.opened
    await older.why
    assert world.links is not None
    await world.until(lambda: len(world.links._made) == 1)  # type: ignore[union-attr]
    newer.say({"t": "offer", "job": "j", "attempt": 1, "start": 0, "end": 0})
    await world.until(lambda: newer.got == [{"t": "from", "job": "j", "attempt": 1, "offset": 0}])
    world.links.acknowledge("j", 5)
    await world.until(
        lambda: newer.got[1:] == [{"t": "ack", "job": "j", "attempt": 1, "offset": 5}]
    )


@pytest.mark.parametrize(
    "header",
    [
        {"t": "mood"},
        {"t": "offer", "job": 1, "attempt": 1, "start": 0, "end": 0},
        {"t": "offer", "job": "j", "attempt": 1, "start": -1, "end": 0},
        {"t": "get", "id": 1, "sha256": "x", "offset": 0},
        {"t": "lock_free", "job": "x" * 300, "attempt": 1},
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_message_ends_the_link(make: Make, header: dict[str, Any]) -> None:
    world = make()
    await world.start_daemon()
    rude = await peer(world)
    await rude.opened
    rude.say(header)
    await rude.why


@pytest_twisted.ensureDeferred
async def test_data_that_wasnt_asked_for_is_ignored(make: Make) -> None:
    world = make()
    await world.start_daemon()
    eager = await peer(world)
    await eager.opened
    eager.say({"t": "data", "job": "never-offered", "attempt": 1, "offset": 0}, b"x")
    eager.say({"t": "get", "id": 1, "sha256": "x", "offset": 0, "length": 1 << 30})
    await world.until(lambda: eager.got)
    assert eager.got[0]["t"] == "refused"
    assert world.desk.order == []


@pytest_twisted.ensureDeferred
async def test_asking_for_too_much_at_a_time_is_refused(make: Make) -> None:
    world = make()
    world.limits = LinkLimits(max_gets=2, read_timeout_s=0.3)
    await world.start_daemon()
    stuck: Deferred[None] = Deferred()

    async def reading() -> None:
        await stuck

    world.desk.reading = reading
    greedy = await peer(world)
    await greedy.opened
    for number in range(4):
        get = {"id": number, "sha256": world.package["sha256"], "offset": 0, "length": 10}
        greedy.say({"t": "get", **get})
    await world.until(lambda: greedy.got)
    assert (greedy.got[0]["t"], greedy.got[0]["id"]) == ("refused", 3)
    await world.until(lambda: len(greedy.got) >= 2)
    assert "could not be read within 0.3 s" in greedy.got[1]["message"]


@pytest_twisted.ensureDeferred
async def test_a_peer_that_doesnt_read_is_dropped(make: Make) -> None:
    world = make()
    world.limits = LinkLimits(outbox_bytes=20_000)
    await world.start_daemon()
    deaf = await peer(world)
    await deaf.opened
    deaf.transport.pauseProducing()  # type: ignore[union-attr]
    for turn in range(300):
        for number in range(100):
            job_id = "j" * 200 + str(turn * 100 + number)
            deaf.say({"t": "offer", "job": job_id, "attempt": 1, "start": 0, "end": 0})
        await deferLater(reactor, 0)
        assert world.links is not None
        if not world.links._made:
            break
    await world.until(lambda: not world.links._made)  # type: ignore[union-attr]
    deaf.transport.abortConnection()  # type: ignore[union-attr]
    await deaf.why


def test_the_factory_needs_no_reactor_to_be_made() -> None:
    world_desk: Any = object()
    links = AgentLinkFactory(authenticate, world_desk, reactor)
    links.acknowledge("unknown", 1)
    assert authenticate(f"Bearer {TOKEN}") is AGENT


@pytest_twisted.ensureDeferred
async def test_the_links_of_a_token_that_is_gone_are_cut(make: Make) -> None:
    world = make()
    await world.start_daemon()
    link = await peer(world)
    await link.opened
    assert world.links is not None
    assert world.links.end_links("somebody-else", "gone") == 0
    assert world.links.end_links(AGENT.name, "its token was revoked") == 1
    await link.why
    await world.until(lambda: not world.links._made)  # type: ignore[union-attr]
