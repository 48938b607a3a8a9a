"""How far a new worker is: its agent, then a real job on it, then ready."""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs
from twisted.logger import Logger

from cumulus_wire.states import JobState
from cumulusd.errors import Conflict, CumulusError, NotFound
from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.ports import AgentView, RunInThread
from cumulusd.provisioning import MAX_SMOKE_JOBS, Provisioning, ProvisionToken
from cumulusd.swarm import labels
from cumulusd.swarm.agent_services import AgentServices
from cumulusd.swarm.answers import NodeInfo
from cumulusd.swarm.enrolment import NodeEngine

_RETRY = 'then ask for another try: {"retry": true}, or run worker.sh again'


class SmokeJobs(Protocol):
    """The jobs that try workers."""

    async def begin(self, node_id: str, key: str) -> str: ...
    def record(self, job_id: str) -> JobRecord | None: ...
    def agents(self) -> Mapping[str, AgentView]: ...


@attrs.frozen(kw_only=True)
class Seen:
    """All that tells how far the worker is."""

    token: ProvisionToken
    instance_id: str
    node: NodeInfo | None
    agent: AgentView | None
    trouble: str | None  #: why its agent doesn't run, in Swarm's words
    job: JobRecord | None  #: the last one that tried it, if it is still known


@attrs.frozen(kw_only=True)
class Stand:
    """What is told. `begin`: now is the time to try the worker."""

    state: str  #: "joining", "agent", "smoke", "ready", "failed"
    message: str
    begin: bool = False


def judge(seen: Seen, retry: bool) -> Stand:
    """How far it is. Pure."""
    node, agent, job = seen.node, seen.agent, seen.job
    if node is None or node.state != "ready":
        how = "not in the Swarm" if node is None else f"{node.state}: {node.message or 'no reason'}"
        return Stand(state="joining", message=f"the node is {how}")
    if {labels.WORKER: "true", labels.INSTANCE: seen.instance_id}.items() - node.labels.items():
        return Stand(
            state="failed",
            message="the node is no worker of this daemon any more: its label cumulus.worker was "
            "taken off, or another daemon has it. POST /provision/enroll makes it one again",
        )
    if node.availability != "active":
        return Stand(
            state="failed",
            message=f"the node is set to {node.availability} and gets no jobs: "
            f"`docker node update --availability active {node.hostname}` on a manager, {_RETRY}",
        )
    if agent is None:
        why = f": {seen.trouble}" if seen.trouble else ""
        return Stand(state="agent", message=f"its agent is not connected yet{why}")
    if not agent.devices:
        if agent.discovery_error is None:
            return Stand(state="agent", message="its agent looks for devices")
        return Stand(
            state="failed",
            message=f"its agent finds no device: {agent.discovery_error}. Mend the driver or set "
            f"count_cpu_devices where CPU devices are to count, {_RETRY}",
        )
    if agent.fault is not None:
        return Stand(state="agent", message=f"its agent takes no job now: {agent.fault}")
    return _of_job(seen.token, job, retry)


def _of_job(token: ProvisionToken, job: JobRecord | None, retry: bool) -> Stand:
    if job is None:
        if token.ready_at is not None and not retry:
            return Stand(state="ready", message="a job has run on it; it takes jobs")
        return Stand(state="smoke", message="a job is being sent to try it", begin=True)
    if job.end is None:
        wait = f": {job.wait.message}" if job.wait is not None else ""
        return Stand(state="smoke", message=f"the job {job.job_id} is {job.state}{wait}")
    if retry:
        return Stand(state="smoke", message="another job is being sent to try it", begin=True)
    if job.end.state is JobState.COMPLETED:
        return Stand(state="ready", message=f"the job {job.job_id} ran on it; it takes jobs")
    end = job.end
    hint = f" {end.hint[0].upper()}{end.hint[1:]};" if end.hint else " Mend it,"
    said = f" It printed last: {end.log_tail.strip()[-500:]}" if end.log_tail else ""
    return Stand(
        state="failed",
        message=f"the job {job.job_id} that tried it ended as {end.state} ({end.reason}): "
        f"{end.message}.{said}{hint} {_RETRY}",
    )


class Trial:
    """The use case behind `POST /provision/status`."""

    _log = Logger()

    def __init__(
        self,
        *,
        instance_id: str,
        provisioning: Provisioning,
        agents: AgentServices,
        engine: NodeEngine,
        jobs: SmokeJobs,
        run_in_thread: RunInThread,
    ) -> None:
        self._instance_id = instance_id
        self._provisioning = provisioning
        self._agents = agents
        self._engine = engine
        self._jobs = jobs
        self._run_in_thread = run_in_thread

    async def status(self, token: str, node_id: str, retry: bool) -> dict[str, Any]:
        """`{state, message, job_id}` of the node that redeemed the token. As soon as its agent is
        there the first call begins the job that tries it; `retry` begins another one, unless one
        is under way. Raises NotAuthenticated, Conflict, Unavailable.
        """
        used = await self._run_in_thread(lambda: self._provisioning.redeemed_by(token, node_id))
        if used.leaving_at is not None:
            raise Conflict(
                "the node has left the pool",
                hint="to come back it needs a new token: `cumulusd provision-token create`",
            )
        seen = await self._look(used, node_id)
        stand = judge(seen, retry)
        job_id = used.smoke_jobs[-1] if used.smoke_jobs else None
        if stand.begin:
            job_id, stand = await self._begin(used, node_id, stand)
        elif stand.state == "ready" and used.ready_at is None:
            # The job leaves the history in a day; that it completed is to be known for good.
            await self._note(lambda: self._provisioning.ready(used.token_id))
            self._log.info("worker {node_id} is ready", node_id=node_id, job_id=job_id)
        return {"state": stand.state, "message": stand.message, "job_id": job_id}

    # -- inside

    async def _look(self, used: ProvisionToken, node_id: str) -> Seen:
        nodes = await self._engine.nodes()
        agent = self._jobs.agents().get(node_id)
        return Seen(
            token=used,
            instance_id=self._instance_id,
            node=next((node for node in nodes if node.node_id == node_id), None),
            agent=agent,
            trouble=None if agent is not None else await self._agents.trouble(node_id),
            job=self._jobs.record(used.smoke_jobs[-1]) if used.smoke_jobs else None,
        )

    async def _begin(
        self, used: ProvisionToken, node_id: str, stand: Stand
    ) -> tuple[str | None, Stand]:
        tried = used.smoke_jobs
        if len(tried) >= MAX_SMOKE_JOBS:
            message = f"{len(tried)} jobs tried it already; make a new provisioning token for it"
            return tried[-1], Stand(state="failed", message=message)
        # The key makes it the same job for two who ask at once, and after a crash in between.
        key = f"provision-{used.token_id}-{len(tried) + 1}"
        try:
            job_id = await self._jobs.begin(node_id, key)
        except CumulusError as error:
            hint = f"; {error.hint}" if error.hint else ""
            message = f"no job could be sent to try it: {error.message}{hint}"
            passing = error.status in (429, 503)  # the next call tries again
            return None, Stand(state="agent" if passing else "failed", message=message)
        if job_id not in tried:
            await self._note(lambda: self._provisioning.smoked(used.token_id, [*tried, job_id]))
            self._log.info("job {job_id} tries worker {node_id}", job_id=job_id, node_id=node_id)
        return job_id, stand

    async def _note(self, note: Any) -> None:
        try:
            await self._run_in_thread(note)
        except NotFound:
            pass  # the token was revoked meanwhile: there is nothing to note it at
