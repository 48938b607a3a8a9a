"""Enrolling a node by a provisioning token: checked, bound to the node, then labelled."""

from typing import Any

from twisted.logger import Logger

from cumulusd.jobs.ports import RunInThread
from cumulusd.provisioning import Provisioning
from cumulusd.swarm.agent_services import AgentServices


class Enrolment:
    """The use case behind `POST /provision/enroll`."""

    _log = Logger()

    def __init__(
        self, provisioning: Provisioning, agents: AgentServices, run_in_thread: RunInThread
    ) -> None:
        self._provisioning = provisioning
        self._agents = agents
        self._run_in_thread = run_in_thread

    async def enroll(self, token: str, node_id: str) -> dict[str, Any]:
        """`{node_id, hostname, enrolled: true}` when the node has its labels; its agent follows.

        A token that is bound to the node may be sent again, so an answer that was lost costs
        nothing. Raises NotAuthenticated, Conflict, NotFound, Unavailable; the token is used up
        only by a node that can be enrolled.
        """
        # The token comes first: who has none learns nothing of the Swarm.
        await self._run_in_thread(lambda: self._provisioning.check(token, node_id))
        await self._agents.node(node_id)
        used = await self._run_in_thread(lambda: self._provisioning.redeem(token, node_id))
        node = await self._agents.enroll(node_id)
        self._log.info(
            "provisioning token {token_id} enrolled {hostname}",
            token_id=used.token_id,
            hostname=node.hostname,
            node_id=node_id,
        )
        return {"node_id": node.node_id, "hostname": node.hostname, "enrolled": True}
