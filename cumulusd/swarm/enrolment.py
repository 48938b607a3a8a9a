"""How a machine becomes a worker by its provisioning token, and how it leaves again."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, DeferredLock
from twisted.logger import Logger

from cumulusd.errors import Conflict, CumulusError, NotFound
from cumulusd.jobs.ports import Clock, RunInThread
from cumulusd.provisioning import Provisioning, ProvisionToken
from cumulusd.swarm.agent_services import AgentServices
from cumulusd.swarm.answers import NodeInfo
from cumulusd.tasks import sleep

#: How long a node that leaves is waited for to be cleared of jobs that have ended.
CLEARING_S = 15.0
_LOOK_S = 0.2
#: Jobs that a refusal names.
_NAMED_JOBS = 20


class NodeEngine(Protocol):
    """What is asked of the Swarm: `Engine` has it. Errors are CumulusError subclasses."""

    async def nodes(self) -> list[NodeInfo]: ...
    async def update_node(
        self,
        node_id: str,
        *,
        labels: Mapping[str, str | None] | None = None,
        availability: str | None = None,
    ) -> None: ...
    async def remove_node(self, node_id: str) -> None: ...
    async def rotate_worker_token(self) -> None: ...


class JobsThere(Protocol):
    """The jobs on a node."""

    def running_on(self, node_id: str) -> Sequence[str]:
        """Ids of those that are there or on their way, and have not ended."""

    def clearing_on(self, node_id: str) -> Sequence[str]:
        """Ids of those that have ended, and are being cleared from it."""


class Enrolment:
    """The use cases behind `POST /provision/enroll` and `/provision/leave`."""

    _log = Logger()

    def __init__(
        self,
        *,
        provisioning: Provisioning,
        agents: AgentServices,
        engine: NodeEngine,
        jobs: JobsThere,
        clock: Clock,
        run_in_thread: RunInThread,
    ) -> None:
        self._provisioning = provisioning
        self._agents = agents
        self._engine = engine
        self._jobs = jobs
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._rotating = DeferredLock()

    async def enroll(self, token: str, node_id: str) -> dict[str, Any]:
        """`{node_id, hostname, enrolled: true}` when the node has its labels; its agent follows.

        The join token that it came with opens nothing any more then. A token that is bound to the
        node may be sent again, so an answer that was lost costs nothing. Raises NotAuthenticated,
        Conflict, NotFound, Unavailable; the token is used up only by a node that can be enrolled.
        """
        # The token comes first: who has none learns nothing of the Swarm.
        await self._run_in_thread(lambda: self._provisioning.check(token, node_id))
        await self._agents.node(node_id)
        used = await self._run_in_thread(lambda: self._provisioning.redeem(token, node_id))
        node = await self._agents.enroll(node_id)
        await self._take_back(node)
        await self._rotate()
        self._log.info(
            "provisioning token {token_id} enrolled {hostname}",
            token_id=used.token_id,
            hostname=node.hostname,
            node_id=node_id,
        )
        return {"node_id": node.node_id, "hostname": node.hostname, "enrolled": True}

    async def leave(self, token: str, node_id: str, force: bool) -> dict[str, Any]:
        """`{node_id, state}`: "left", it is no worker any more and may leave the Swarm; "removed",
        the Swarm has forgotten it.

        From the first call on it gets no new jobs. Raises Conflict while jobs are there, unless
        `force`, which ends them; NotAuthenticated, Unavailable.
        """
        used = await self._run_in_thread(lambda: self._provisioning.redeemed_by(token, node_id))
        node = await self._node(node_id)
        if node is None:
            await self._note_leaving(used)
            return {"node_id": node_id, "state": "removed"}
        if used.leaving_at is None:
            await self._dismiss(node, force)
            await self._note_leaving(used)
            self._log.info(
                "{hostname} is no worker any more, as it asked to leave",
                hostname=node.hostname,
                node_id=node_id,
                token_id=used.token_id,
            )
        removed = await self._remove_if_down(node)
        return {"node_id": node_id, "state": "removed" if removed else "left"}

    async def sweep(self) -> None:
        """Removes the nodes that were let go and have left the Swarm, and changes the join token
        where that is still due. What fails is tried at the next sweep."""
        try:
            tokens = await self._run_in_thread(self._provisioning.tokens)
            await self._rotate()
            leaving = {token.node_id for token in tokens if token.leaving_at is not None}
            for node in await self._engine.nodes() if leaving else ():
                if node.node_id in leaving:
                    await self._remove_if_down(node)
        except CancelledError:
            raise
        except CumulusError as error:
            self._log.info(
                "what is due in the Swarm (nodes that left, the join token) can't be done just "
                "now: {why}",
                why=error.message,
            )

    # -- inside

    async def _rotate(self) -> None:
        """Changes Swarm's join token where that is due: once for all that it is due for."""
        async with self._rotating:
            due = await self._run_in_thread(self._provisioning.rotation_due)
            if not due:
                return
            await self._engine.rotate_worker_token()
            await self._run_in_thread(partial(self._provisioning.rotated, *due))
            for token_id in due:
                self._log.info(
                    "Swarm's join token for workers was changed: that of provisioning token "
                    "{token_id} is used up",
                    token_id=token_id,
                )

    async def _take_back(self, node: NodeInfo) -> None:
        """A node that was let go, stayed in the Swarm and comes again gets jobs again: that it got
        none was our doing."""
        tokens = await self._run_in_thread(self._provisioning.tokens)
        was_let_go = any(
            token.node_id == node.node_id and token.leaving_at is not None for token in tokens
        )
        if was_let_go and node.availability != "active":
            await self._engine.update_node(node.node_id, availability="active")

    async def _note_leaving(self, token: ProvisionToken) -> None:
        if token.leaving_at is None:
            await self._note(partial(self._provisioning.leaving, token.token_id))

    async def _note(self, note: Callable[[], ProvisionToken]) -> None:
        try:
            await self._run_in_thread(note)
        except NotFound:
            pass  # the token was revoked meanwhile: there is nothing to note it at

    async def _node(self, node_id: str) -> NodeInfo | None:
        nodes = await self._engine.nodes()
        return next((node for node in nodes if node.node_id == node_id), None)

    async def _dismiss(self, node: NodeInfo, force: bool) -> None:
        if force:
            # Its containers end; their jobs then say that their worker was drained.
            await self._engine.update_node(node.node_id, availability="drain")
        elif node.availability == "active":
            await self._engine.update_node(node.node_id, availability="pause")
        there = [] if force or node.state == "down" else self._jobs.running_on(node.node_id)
        if there:
            named = ", ".join(there[:_NAMED_JOBS])
            more = len(there) - _NAMED_JOBS
            raise Conflict(
                f"{node.hostname} can't leave yet: {len(there)} job(s) are on it ({named}"
                + (f" and {more} more)" if more > 0 else ")"),
                details={"jobs": list(there[:_NAMED_JOBS]), "count": len(there)},
                hint="it gets no new ones: ask again when these have ended, or force it, which "
                "ends them; `docker node update --availability active` on a manager takes it back",
            )
        # Its agent is needed for that; what it doesn't get done goes with the node.
        ends_s = self._clock.seconds() + CLEARING_S
        while self._jobs.clearing_on(node.node_id) and self._clock.seconds() < ends_s:
            await sleep(self._clock, _LOOK_S)
        await self._agents.dismiss(node.node_id, availability="drain" if force else "pause")

    async def _remove_if_down(self, node: NodeInfo) -> bool:
        if node.state != "down":
            return False
        await self._engine.remove_node(node.node_id)
        self._log.info(
            "{hostname} has left the Swarm and was removed from it",
            hostname=node.hostname,
            node_id=node.node_id,
        )
        return True
