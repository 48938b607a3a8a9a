"""Keeps exactly one agent service of ours on every node that this daemon has enrolled.

The enrolment itself is the node's labels: `cumulus.worker=true` and our instance. A look at the
Swarm every few seconds, and after each nudge, compares and mends; what belongs to another daemon
is never touched. Taking the label `cumulus.worker` off a node ends its enrolment.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulusd.errors import Conflict, CumulusError, NotFound
from cumulusd.jobs.ports import Clock
from cumulusd.swarm import agent_plan, labels
from cumulusd.swarm.agent_plan import Seen
from cumulusd.swarm.agent_spec import (
    TOKEN_FILE,
    AgentSettings,
    SecretUse,
    agent_service,
)
from cumulusd.swarm.agent_tokens import AgentTokens
from cumulusd.swarm.answers import ImageInfo, NodeInfo, SecretInfo, ServiceInfo, TaskInfo
from cumulusd.swarm.image_reference import resolve_image
from cumulusd.tasks import Signal, Tasks, wait_at_most

INTERVAL_S = 5.0
#: While every look finds the Swarm as the one before did, the next comes later, up to this: who
#: nudges is told of what changes.
MAX_INTERVAL_S = 60.0
RETRY_S = 1.0
NOT_YET = "the workers in the configuration are not enrolled yet"


class AgentEngine(Protocol):
    """What is asked of the Swarm: `Engine` has it. Errors are CumulusError subclasses."""

    async def nodes(self) -> list[NodeInfo]: ...
    async def update_node(
        self,
        node_id: str,
        *,
        labels: Mapping[str, str | None] | None = None,
        availability: str | None = None,
    ) -> None: ...
    async def services(self, labels: Mapping[str, str] | None = None) -> list[ServiceInfo]: ...
    async def create_service(self, payload: Mapping[str, Any]) -> str: ...
    async def update_service(
        self, service_id: str, version: int, payload: Mapping[str, Any]
    ) -> None: ...
    async def remove_service(self, name_or_id: str) -> None: ...
    async def tasks(self, labels: Mapping[str, str]) -> list[TaskInfo]: ...
    async def secrets(self, labels: Mapping[str, str] | None = None) -> list[SecretInfo]: ...
    async def create_secret(self, name: str, data: bytes, labels: Mapping[str, str]) -> str: ...
    async def remove_secret(self, name_or_id: str) -> None: ...
    async def image(self, reference: str) -> ImageInfo: ...


class AgentServices:
    """`start` it; `stop` ends the looking, the agents go on."""

    _log = Logger()

    def __init__(
        self,
        *,
        engine: AgentEngine,
        settings: AgentSettings,
        tokens: AgentTokens,
        names: Sequence[str],
        clock: Clock,
        enrolled: Callable[[], Awaitable[None]],
    ) -> None:
        """`names`: host names or ids of nodes to enrol as soon as they are there, each once.
        `enrolled` is awaited after nodes got their labels: the pool has changed."""
        self._engine = engine
        self._settings = settings
        self._tokens = tokens
        self._names = list(names)
        self._clock = clock
        self._enrolled = enrolled
        self._tasks = Tasks()
        self._wake = Signal()
        self._woken = False
        self._pool_told = False
        self._said: dict[str, str] = {}
        self._seen: Seen | None = None  #: by the last look
        self._pause_s = INTERVAL_S
        #: Node id -> (what its service was made of, its payload).
        self._payloads: dict[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = {}
        #: What keeps all agents from being looked after; None when nothing does.
        self.error: str | None = NOT_YET

    def start(self) -> None:
        """Begins to look."""
        self._tasks.start(self._run(), "looking after the agents")

    async def stop(self) -> None:
        """Ends it."""
        await self._tasks.stop()

    def nudge(self) -> None:
        """Something changed: look now."""
        self._woken = True
        self._wake.fire()

    async def enroll(self, node_id: str) -> NodeInfo:
        """Makes the node a worker of ours; its agent follows. Fires when the labels are set.

        Raises NotFound, Conflict when another daemon has its agent there, Unavailable.
        """
        node = await self.node(node_id)
        await self._label([node])
        self.nudge()
        return node

    async def dismiss(self, node_id: str, *, availability: str) -> None:
        """Ends the enrolment: the node loses its labels, gets that availability, and its agent
        goes. Nothing is done to a node that isn't ours. Raises NotFound, Unavailable."""
        seen = await self._look()
        ours = {node.node_id for node in agent_plan.members(seen.nodes, self._settings.instance_id)}
        if node_id in ours:
            bare: dict[str, str | None] = dict.fromkeys(self._mark())
            await self._engine.update_node(node_id, labels=bare, availability=availability)
            await self._enrolled()
        service = agent_plan.agent_services(seen, self._settings.instance_id).get(node_id)
        if service is not None:
            await self._engine.remove_service(service.service_id)
        self.nudge()

    async def trouble(self, node_id: str) -> str | None:
        """Why no agent runs on that node, in Swarm's words; None: nothing is known to be wrong."""
        mine = {labels.KIND: labels.KIND_AGENT, labels.INSTANCE: self._settings.instance_id}
        return agent_plan.troubles(await self._engine.tasks(mine)).get(node_id)

    async def node(self, node_id: str) -> NodeInfo:
        """The node, if it may be enrolled here. Raises as `enroll` does."""
        seen = await self._look()
        for node in seen.nodes:
            if node.node_id == node_id:
                why = agent_plan.someone_elses(node, seen, self._settings.instance_id)
                if why is not None:
                    raise Conflict(why, details={"node_id": node_id})
                return node
        raise NotFound(
            f"no node {node_id[:80]!r} is in the Swarm",
            hint="join the Swarm first; `docker info` on the node shows its id",
        )

    async def reconcile(self) -> None:
        """One look and all that follows from it. What fails for one node doesn't keep it from
        the others. Raises CumulusError when nothing could be done."""
        settings = self._settings
        seen = await self._look()
        seen = await self._enroll_names(seen)
        image = await resolve_image(self._engine, settings.image, settings.image_by)
        files = await self._keep_files(seen)
        running = agent_plan.agent_services(seen, settings.instance_id)
        members = agent_plan.members(seen.nodes, settings.instance_id)
        held: dict[str, str] = {}
        # Once for all: there are as many as nodes.
        own = {one.name: one for one in agent_plan.own_secrets(seen, settings.instance_id)}
        known = {node_id: name for node_id, name in self._tokens.secret_names() if name in own}
        fresh, refused = self._new_tokens(agent_plan.new_secret_names(members, known, seen))
        for node in members:
            try:
                if refused is not None and node.node_id not in known:
                    raise refused
                use = await self._keep_token(node, fresh.get(node.node_id), own)
                await self._keep_service(node, running.get(node.node_id), image, [use, *files])
                self._tokens.retire(node.node_id)
                self._say(node.node_id, None)
            except CumulusError as error:
                self._say(node.node_id, f"the agent of {node.hostname}: {_words(error)}")
            token = self._tokens.get(node.node_id)
            if token is not None:
                held[node.node_id] = token.secret_name
        ids = {node.node_id for node in members}
        for node_id, service in running.items():
            if node_id not in ids:
                await self._engine.remove_service(service.service_id)
                self._log.info("node {node_id} is no worker any more", node_id=node_id)
        for node_id in self._payloads.keys() - ids:
            del self._payloads[node_id]
        for node_id in self._tokens.node_ids():
            # Its token goes a look after its service: until its container has ended, it clears what
            # jobs have just left.
            if node_id not in ids and node_id not in running:
                self._tokens.forget(node_id)
                self._said.pop(node_id, None)
        await self._remove_unused(seen, held, [one.secret_name for one in files])
        is_well = await self._tell_troubles(members)
        is_quiet = is_well and seen == self._seen and not self._said
        self._seen = seen
        self._pause_s = min(2 * self._pause_s, MAX_INTERVAL_S) if is_quiet else INTERVAL_S

    # -- inside

    async def _run(self) -> None:
        while True:
            self._woken = False
            try:
                await self.reconcile()
                self.error = None
                self._say("", None)
            except CumulusError as error:
                self.error = f"the agents can't be looked after: {_words(error)}"
                self._say("", self.error)
            except CancelledError:
                raise
            except Exception as error:
                # One bad look must not end the looking; the next one comes.
                self.error = f"the agents can't be looked after: {error!r}"
                self._log.failure("looking after the agents failed, going on")
            pause_s = self._pause_s if self.error is None else RETRY_S
            if not self._woken:
                await wait_at_most(self._clock, pause_s, self._wake.wait())

    async def _look(self) -> Seen:
        return Seen(
            nodes=await self._engine.nodes(),
            services=await self._engine.services({labels.KIND: labels.KIND_AGENT}),
            secrets=await self._engine.secrets(),
        )

    async def _enroll_names(self, seen: Seen) -> Seen:
        """Labels the nodes that the configuration names, each once in this daemon's life, and
        those that an operator labelled as workers by hand."""
        names = [*self._names, *agent_plan.unclaimed(seen.nodes)]
        plan = agent_plan.enrolling(names, seen, self._settings.instance_id)
        for name in names:
            if name in plan.refused:
                self._say(f"name {name}", f"{name} can't be enrolled: {plan.refused[name]}")
            elif name in plan.absent:
                self._say(f"name {name}", f"{name} is not in the Swarm yet, and waited for")
            else:
                self._said.pop(f"name {name}", None)
        fresh = await self._label(plan.nodes)
        if not self._pool_told:
            # Also where all were enrolled already: the pool is known before we are called well.
            await self._enrolled()
            self._pool_told = True
        self._names = [name for name in self._names if name in plan.absent or name in plan.refused]
        return attrs.evolve(seen, nodes=await self._engine.nodes()) if fresh else seen

    async def _label(self, nodes: Sequence[NodeInfo]) -> list[NodeInfo]:
        """Those that had to be labelled."""
        ours = self._mark()
        fresh = [node for node in nodes if not ours.items() <= dict(node.labels).items()]
        for node in fresh:
            await self._engine.update_node(node.node_id, labels=ours)
            self._log.info(
                "node {hostname} is enrolled as a worker",
                hostname=node.hostname,
                node_id=node.node_id,
            )
        if fresh:
            await self._enrolled()
        return fresh

    def _mark(self) -> dict[str, str | None]:
        return {labels.WORKER: "true", labels.INSTANCE: self._settings.instance_id}

    def _new_tokens(
        self, names: Mapping[str, str]
    ) -> tuple[Mapping[str, str], CumulusError | None]:
        """(node id -> new token, None), or none and why they can't be written. On disk before they
        are in the Swarm: an agent never holds a token that we don't know."""
        try:
            return self._tokens.rotate(names), None
        except CumulusError as error:
            return {}, error

    async def _keep_token(
        self, node: NodeInfo, token: str | None, own: Mapping[str, SecretInfo]
    ) -> SecretUse:
        """The secret with the node's token; `token`: a new one, which has none yet. `own`: our
        secrets by name."""
        known = self._tokens.get(node.node_id)
        assert known is not None
        name = known.secret_name
        if token is None:
            return SecretUse(secret_id=own[name].secret_id, secret_name=name, file=TOKEN_FILE)
        of = {labels.INSTANCE: self._settings.instance_id, labels.AGENT: node.node_id}
        secret_id = await self._engine.create_secret(name, token.encode(), of)
        self._log.info(
            "the agent of {hostname} has a new token, secret {secret}",
            hostname=node.hostname,
            node_id=node.node_id,
            secret=name,
        )
        return SecretUse(secret_id=secret_id, secret_name=name, file=TOKEN_FILE)

    async def _keep_files(self, seen: Seen) -> list[SecretUse]:
        """The secrets that all agents share."""
        settings = self._settings
        own = {one.name: one for one in agent_plan.own_secrets(seen, settings.instance_id)}
        uses = []
        for file, content in sorted(settings.files.items()):
            name = file_secret_name(settings.instance_id, file, content)
            if name in own:
                secret_id = own[name].secret_id
            else:
                of = {labels.INSTANCE: settings.instance_id, labels.FILE: file}
                secret_id = await self._engine.create_secret(name, content, of)
            uses.append(SecretUse(secret_id=secret_id, secret_name=name, file=file))
        return uses

    async def _keep_service(
        self,
        node: NodeInfo,
        service: ServiceInfo | None,
        image: str,
        secrets: Sequence[SecretUse],
    ) -> None:
        payload = self._payload(node, image, tuple(secrets))
        if service is None:
            await self._engine.create_service(payload)
            self._log.info("{hostname} gets an agent", hostname=node.hostname, node_id=node.node_id)
        elif service.labels.get(labels.SPEC) != payload["Labels"][labels.SPEC] or (
            service.replicas != 1
        ):
            await self._engine.update_service(service.service_id, service.version, payload)
            self._log.info(
                "the agent of {hostname} is replaced by one as configured",
                hostname=node.hostname,
                node_id=node.node_id,
            )

    def _payload(
        self, node: NodeInfo, image: str, secrets: tuple[SecretUse, ...]
    ) -> Mapping[str, Any]:
        """The node's service as it is to be: made and hashed once for as long as it is the same,
        for it is looked at every few seconds."""
        of = (node.hostname, image, secrets)
        known = self._payloads.get(node.node_id)
        if known is None or known[0] != of:
            payload = agent_service(
                self._settings,
                node_id=node.node_id,
                hostname=node.hostname,
                image=image,
                secrets=secrets,
            )
            self._payloads[node.node_id] = known = (of, payload)
        return known[1]

    async def _remove_unused(
        self, seen: Seen, held: Mapping[str, str], files: Sequence[str]
    ) -> None:
        for secret in agent_plan.unused_secrets(seen, self._settings.instance_id, held, files):
            key = f"secret {secret.name}"
            try:
                await self._engine.remove_secret(secret.secret_id)
                self._said.pop(key, None)
            except CumulusError as error:
                # A service that has not been updated yet may use it: the next look tries again.
                self._say(key, f"the secret {secret.name} can't be removed yet: {_words(error)}")

    async def _tell_troubles(self, members: Sequence[NodeInfo]) -> bool:
        """Whether there are none."""
        mine = {labels.KIND: labels.KIND_AGENT, labels.INSTANCE: self._settings.instance_id}
        troubles = agent_plan.troubles(await self._engine.tasks(mine))
        for node in members:
            why = troubles.get(node.node_id)
            text = None if why is None else f"the agent of {node.hostname} does not run: {why}"
            self._say(f"task {node.node_id}", text)
        return not troubles

    def _say(self, key: str, text: str | None) -> None:
        """Warns once of what goes on being wrong, and says when it is well again."""
        before = self._said.get(key)
        if text is None:
            if before is not None:
                del self._said[key]
                self._log.info("is well again: {before}", before=before)
        elif text != before:
            self._said[key] = text
            self._log.warn("{text}", text=text)


def file_secret_name(instance_id: str, file: str, content: bytes) -> str:
    """Named by its content: another content is another secret, and a new service."""
    digest = hashlib.sha256(file.encode() + b"\0" + content).hexdigest()
    return f"cumulus-file-{instance_id[:8]}-{digest[:16]}"


def _words(error: CumulusError) -> str:
    """The message, with what the engine itself said and what can be done."""
    said = error.details.get("platform")
    text = f"{error.message} ({said})" if said and str(said) not in error.message else error.message
    return f"{text}; {error.hint}" if error.hint else text
