"""The daemon's end of `/agent`: journals and outputs in, packages out, one live link a node."""

from collections.abc import Callable
from functools import partial
from typing import Any

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.logger import Logger
from twisted.web.resource import IResource

from cumulus_wire import link as wire
from cumulusd.errors import Unavailable
from cumulusd.identity import Principal
from cumulusd.web.agent_connection import AgentConnection, AgentDesk, LinkLimits


class AgentLinkFactory:
    """All agents' links. `acknowledge` what has become durable; `stop` ends them."""

    _log = Logger()

    def __init__(
        self,
        authenticate: Callable[[str | None], Principal | None],
        desk: AgentDesk,
        clock: Any,
        limits: LinkLimits | None = None,
        allow_plain_tokens: bool = False,
        refused: Callable[[str, str, str], None] = lambda host, peer, why: None,
    ) -> None:
        """`authenticate` takes the `Authorization` header. `clock`: the reactor.
        `allow_plain_tokens`: also over connections that others can read. `refused(host, peer, why)`
        is told of each handshake that isn't taken; host "": a unix socket."""
        self.refused = refused
        self.authenticate = authenticate
        self.desk = desk
        self.clock = clock
        self.limits = limits or LinkLimits()
        self.allow_plain_tokens = allow_plain_tokens
        self._links: dict[str, AgentConnection] = {}  #: by node id
        self._by_job: dict[str, AgentConnection] = {}
        self._made: dict[AgentConnection, None] = {}  #: in the order of coming
        factory = WebSocketServerFactory(  # type: ignore[no-untyped-call]
            server="cumulusd", reactor=clock
        )
        factory.setProtocolOptions(  # type: ignore[no-untyped-call]
            webStatus=False,
            maxFramePayloadSize=wire.MAX_MESSAGE_BYTES,
            maxMessagePayloadSize=wire.MAX_MESSAGE_BYTES,
            openHandshakeTimeout=10,
            autoPingInterval=0,
            maxConnections=self.limits.max_links,
        )
        make: Any = partial(AgentConnection, self)
        factory.protocol = make
        factory.noisy = False
        self._factory = factory

    def resource(self) -> IResource:
        """For the site, as child `agent`."""
        resource: IResource = WebSocketResource(self._factory)  # type: ignore[no-untyped-call]
        return resource

    def acknowledge(self, job_id: str, offset: int) -> None:
        """This journal is on disk up to `offset`: told to the node that sends it, if any."""
        connection = self._by_job.get(job_id)
        if connection is not None:
            connection.acknowledge(job_id, offset)

    def fetch(
        self, node_id: str, job_id: str, attempt: int, name: str, offset: int, length: int
    ) -> Deferred[tuple[bytes, int]]:
        """A range of an output of the job on that node, as `OutputFetches.fetch`."""
        connection = self._links.get(node_id)
        if connection is None:
            return fail(Unavailable(f"the link to the agent of node {node_id} is down"))
        return connection.fetches.fetch(job_id, attempt, name, offset, length)

    def end_links(self, name: str, why: str) -> int:
        """Drops the links of that principal; how many there were."""
        ending = [connection for connection in self._made if connection.name == name]
        for connection in ending:
            self._log.warn(
                "the link of node {node_id} is cut: {why}", node_id=connection.node_id, why=why
            )
            connection.drop()
        return len(ending)

    async def stop(self) -> None:
        """Drops all links; fires when they are gone."""
        gone = [connection.when_gone() for connection in list(self._made)]
        for connection in list(self._made):
            connection.drop()
        await DeferredList(gone, consumeErrors=True)

    # -- the connections' side

    def made(self, connection: AgentConnection) -> None:
        """A connection that may become a link."""
        self._made[connection] = None

    def opened(self, connection: AgentConnection) -> None:
        """A link is up; an older one of that node is dropped."""
        older = self._links.get(connection.node_id)
        self._links[connection.node_id] = connection
        if older is not None:
            older.drop()

    def closed(self, connection: AgentConnection) -> None:
        """It is gone."""
        self._made.pop(connection, None)
        if self._links.get(connection.node_id) is connection:
            del self._links[connection.node_id]
        for job_id in connection.jobs:
            if self._by_job.get(job_id) is connection:
                del self._by_job[job_id]

    def sends(self, connection: AgentConnection, job_id: str) -> None:
        """That journal comes over this link."""
        self._by_job[job_id] = connection

    def sends_no_more(self, connection: AgentConnection, job_id: str) -> None:
        """That journal isn't wanted."""
        if self._by_job.get(job_id) is connection:
            del self._by_job[job_id]
