"""An agent is its own node: at the real daemon it gets and changes nothing of others."""

from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.wamp.exception import ApplicationError
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThread

from cumulus_wire import link, uris
from tests.security.conftest import World
from tests.security.test_logins import by_ticket, log_in
from tests.unit.protocol.wamp_peers import reactor, until


class AgentLink(WebSocketClientProtocol):
    """An agent's link, which keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: Deferred[None] = Deferred()
        self.told: list[tuple[dict[str, Any], bytes]] = []
        self.gone = False

    def onOpen(self) -> None:
        self.ready.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        header, body = link.decode(payload)
        self.told.append((dict(header), body))

    def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
        self.gone = True
        if not self.ready.called:
            self.ready.errback(ConnectionError(reason))

    def say(self, body: bytes = b"", **header: Any) -> None:
        self.sendMessage(link.encode(header, body), isBinary=True)


async def agents_link(world: World, column: str) -> AgentLink:
    factory = WebSocketClientFactory(
        f"ws://127.0.0.1:{world.daemon.port}/agent",
        protocols=["cumulus.agent.1"],
        headers={"Authorization": f"Bearer {world.tokens[column]}"},
        reactor=reactor,
    )
    factory.protocol = AgentLink
    factory.noisy = False
    factory.setProtocolOptions(
        openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0
    )
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", world.daemon.port)
    made: AgentLink = await endpoint.connect(factory)
    await made.ready.addTimeout(10, reactor)
    return made


@pytest_twisted.ensureDeferred
async def test_the_journals_and_packages_of_another_node(world: World) -> None:
    """Of a job that runs on the node `local`, by the agent of the node `n9`."""
    running, ann = f"/api/jobs/{world.running}", str(world.tokens["ann"])
    before = await deferToThread(world.daemon.get, running, ann)
    made = await agents_link(world, "agent")
    sha256, size = world.package
    forged = b"forged journal bytes"
    for job_id in (world.running, world.ended, "no-such-job"):
        made.say(t="offer", job=job_id, attempt=1, start=0, end=len(forged))
        made.say(forged, t="data", job=job_id, attempt=1, offset=0)
        made.say(t="lock_free", job=job_id, attempt=1)
        made.say(forged, t="output", id=1, total=len(forged))
    made.say(t="get", id=7, sha256=sha256, offset=0, length=min(size, 1000))
    await until(lambda: len(made.told) >= 4)
    kinds = [(header["t"], header.get("job", header.get("id"))) for header, _ in made.told]
    assert sorted(map(str, kinds)) == sorted(
        map(
            str,
            [
                ("drop", world.running),
                ("drop", world.ended),
                ("drop", "no-such-job"),
                ("refused", 7),
            ],
        )
    )
    assert all(body == b"" for _, body in made.told)
    made.dropConnection(abort=True)
    await until(lambda: made.gone)
    after = await deferToThread(world.daemon.get, running, ann)
    assert (after[1]["status"], after[1]["journal"]) == (
        before[1]["status"],
        before[1]["journal"],
    )
    log = await deferToThread(world.daemon.get, f"{running}/logs", ann)
    assert log == (200, "a line of ann's\n")


@pytest.mark.parametrize("column", ["ann", "bob", "admin", "viewer"])
@pytest_twisted.ensureDeferred
async def test_no_person_gets_a_link(world: World, column: str) -> None:
    with pytest.raises(ConnectionError):
        await agents_link(world, column)


@pytest_twisted.ensureDeferred
async def test_an_agent_registers_its_own_verbs_and_no_others(world: World) -> None:
    place: Any = SimpleNamespace(port_number=world.daemon.port, _clients=[])
    peer, details, _ = await log_in(place, by_ticket(str(world.tokens["agent"])))
    assert details.authrole == "agent"
    for uri in (
        uris.agent_procedure("local", "prepare"),
        uris.agent_procedure("n9", "shell"),
        uris.agent_procedure("n9", "prepare") + ".more",
        "cumulus.job.submit",
        "anything.else",
    ):
        with pytest.raises(ApplicationError, match="not_authorized"):
            await peer.register(lambda: None, uri).addTimeout(10, reactor)
    await peer.register(lambda **_: None, uris.agent_procedure("n9", "command")).addTimeout(
        10, reactor
    )
    with pytest.raises(ApplicationError, match="not_authorized"):
        await peer.call(uris.agent_procedure("n9", "command")).addTimeout(10, reactor)
    with pytest.raises(ApplicationError, match="not_authorized"):
        await peer.call(uris.agent_procedure("local", "prepare")).addTimeout(10, reactor)
    peer.leave()
    await until(lambda: bool(peer.gone))
