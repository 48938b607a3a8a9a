"""A Docker Swarm in memory, with the semantics that were measured on real ones.

Services, tasks and containers: a task is made 50 ms after its service, needs its pinned node and
the discrete resources there, and runs after another 0.3 s. TERM reaches a container a second after
the wish, KILL follows the grace. A removed service's tasks are forgotten at once while the
container runs on. A node that is away is `down` after a while; its tasks are condemned and go on
saying `running` until it is back, and are killed then. What a node does while the manager can't
reach it, the manager learns later.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Protocol

from cumulusd.errors import Conflict, NotFound, Unavailable
from cumulusd.swarm import labels as names
from cumulusd.swarm.answers import ImageInfo, NodeInfo, ServiceInfo, SwarmInfo, TaskInfo
from tests.sim.sim_clock import ProcessClock, SimClock

DOWN_AFTER_S = (3.0, 4.5)
TERM_DELAY_S = 1.1
IMAGE = "sha256:" + "1" * 64
_ENDED = ("complete", "shutdown", "failed", "rejected")


class Inside(Protocol):
    """What runs in a container."""

    def term(self) -> None: ...

    def kill(self) -> None: ...


class Container:
    """On its node, until it has ended."""

    def __init__(self, task: "Task", job_id: str, attempt: int, grace_s: float) -> None:
        self.task = task
        self.job_id = job_id
        self.attempt = attempt
        self.grace_s = grace_s
        self.alive = True
        self.exit_code: int | None = None
        self.stopping = False
        self.inside: Inside | None = None


class Task:
    def __init__(self, service: "Service", task_id: str, created_at: str) -> None:
        self.service = service
        self.task_id = task_id
        self.created_at = created_at
        self.state = "new"
        self.wanted = "running"
        self.error = ""
        self.assigned = False
        self.container: Container | None = None
        #: What the node knows and the manager doesn't yet: (state, error, exit code).
        self.exit_code: int | None = None

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    def info(self) -> TaskInfo:
        return TaskInfo(
            task_id=self.task_id,
            service_id=self.service.service_id,
            node_id=self.service.node_id if self.assigned else None,
            state=self.state,
            desired_state=self.wanted,
            message="",
            error=self.error,
            exit_code=self.exit_code if self.state in ("complete", "failed", "shutdown") else None,
            created_at=self.created_at,
            labels=self.service.labels,
        )


class Service:
    def __init__(self, service_id: str, payload: Mapping[str, Any]) -> None:
        self.service_id = service_id
        self.payload = payload
        self.name = str(payload["Name"])
        self.labels: Mapping[str, str] = payload["Labels"]
        self.replicas = 1
        self.version = 1
        self.removed = False
        task = payload["TaskTemplate"]
        self.node_id = str(task["Placement"]["Constraints"][0]).partition("==")[2]
        (resource,) = task["Resources"]["Reservations"]["GenericResources"]
        self.resource = str(resource["DiscreteResourceSpec"]["Kind"])
        self.units = int(resource["DiscreteResourceSpec"]["Value"])
        self.grace_s = task["ContainerSpec"]["StopGracePeriod"] / 1e9
        self.tasks: list[Task] = []

    def info(self) -> ServiceInfo:
        return ServiceInfo(
            service_id=self.service_id,
            name=self.name,
            version=self.version,
            labels=self.labels,
            replicas=self.replicas,
            spec=self.payload,
        )


class Node:
    """A worker's engine. `reached`: the manager hears of it."""

    def __init__(self, node_id: str, hostname: str, resources: Mapping[str, int]) -> None:
        self.node_id = node_id
        self.hostname = hostname
        self.resources = resources
        self.state = "ready"
        self.availability = "active"
        self.engine_up = True
        self.reached = True
        self.images_missing = False
        self.containers: list[Container] = []
        self.untold: list[Callable[[], None]] = []
        self.losses = 0

    def info(self) -> NodeInfo:
        return NodeInfo(
            node_id=self.node_id,
            hostname=self.hostname,
            state=self.state,
            availability=self.availability,
            role="worker",
            labels={names.WORKER: "true", names.INSTANCE: "sim"},
            version=1,
            message="",
            spec={},
        )


class Swarm:
    """The manager's state and the nodes'. `start(container)` gives what runs inside."""

    def __init__(
        self, clock: SimClock, random: Random, start: Callable[[Container], Inside | None]
    ) -> None:
        self._clock = clock
        self._random = random
        self._start = start
        self.nodes: dict[str, Node] = {}
        self.services: dict[str, Service] = {}
        self.all_tasks: list[Task] = []
        self._made = 0

    # -- for the API

    def by_name(self, name_or_id: str) -> Service:
        for service in self.services.values():
            if name_or_id in (service.service_id, service.name):
                return service
        raise NotFound(f"no such service: {name_or_id}")

    def create(self, payload: Mapping[str, Any]) -> str:
        for service in self.services.values():
            if service.name == payload["Name"]:
                if service.labels != payload["Labels"]:
                    raise Conflict("name conflicts with an existing object")
                return service.service_id
        self._made += 1
        service = Service(f"s{self._made}", payload)
        self.services[service.service_id] = service
        self._clock.callLater(0.05, self._orchestrate, service)
        return service.service_id

    def scale_to_zero(self, service: Service) -> None:
        service.replicas = 0
        service.version += 1
        for task in service.tasks:
            self._condemn(task)

    def remove(self, service: Service) -> None:
        service.removed = True
        self.services.pop(service.service_id, None)
        for task in service.tasks:
            self._condemn(task)
            if task in self.all_tasks:
                self.all_tasks.remove(task)

    def live_containers(self) -> list[Container]:
        return [one for node in self.nodes.values() for one in node.containers if one.alive]

    # -- nodes come and go

    def lose(self, node: Node) -> None:
        """The manager doesn't hear of it any more."""
        if node.reached:
            node.reached = False
            node.losses += 1
            self._clock.callLater(
                self._random.uniform(*DOWN_AFTER_S), self._down, node, node.losses
            )

    def find(self, node: Node) -> None:
        """It is heard of again."""
        if node.reached:
            return
        node.reached = True
        untold, node.untold = node.untold, []
        for tell in untold:
            tell()
        if node.state == "down":
            node.state = "ready"
        for container in list(node.containers):
            if container.alive and container.task.wanted != "running":
                self._clock.callLater(self._random.uniform(0.05, 0.4), self._stop, container, False)

    def engine_died(self, node: Node, power: bool) -> None:
        """`power`: its containers die with it, else they run on until it is back."""
        node.engine_up = False
        self.lose(node)
        if power:
            for container in list(node.containers):
                self.end_container(container, 137, quiet=True)

    def engine_back(self, node: Node) -> None:
        """What ran under the engine that died is ended."""
        node.engine_up = True
        for container in list(node.containers):
            self.end_container(container, 137, quiet=False)
        self.find(node)

    def drain(self, node: Node) -> None:
        """Its tasks are ended, and none comes."""
        for task in self.all_tasks:
            if task.service.node_id == node.node_id and not task.ended and task.assigned:
                self._condemn(task)

    # -- containers

    def end_container(self, container: Container, exit_code: int, quiet: bool) -> None:
        """It has ended; everything in it is gone. `quiet`: nobody is there to see it."""
        if not container.alive:
            return
        container.alive = False
        container.exit_code = exit_code
        node = self.nodes[container.task.service.node_id]
        node.containers.remove(container)
        if container.inside is not None:
            container.inside.kill()
        task = container.task
        delay = self._random.uniform(0.12, 0.2)
        self._clock.callLater(
            0 if quiet else delay, self._tell_manager, node, lambda: self._ended(task, exit_code)
        )

    # -- inside

    def _tell_manager(self, node: Node, tell: Callable[[], None]) -> None:
        if node.reached:
            tell()
        else:
            node.untold.append(tell)

    def _ended(self, task: Task, exit_code: int) -> None:
        task.exit_code = exit_code
        if task.wanted != "running":
            task.state = "shutdown" if exit_code in (0, 137, 143) else "failed"
        else:
            task.state = "failed" if exit_code else "complete"
        task.wanted = "shutdown"
        if exit_code:
            task.error = f"task: non-zero exit ({exit_code})"

    def _orchestrate(self, service: Service) -> None:
        if service.removed or service.replicas == 0 or service.tasks:
            return
        self._made += 1
        task = Task(service, f"t{self._made}", f"{self._clock.now:020.6f}")
        service.tasks.append(task)
        self.all_tasks.append(task)
        self._assign(task)

    def _assign(self, task: Task) -> None:
        if task.ended or task.wanted != "running":
            return
        node = self.nodes[task.service.node_id]
        why = self._unfit(node, task)
        if why:
            task.state, task.error = "pending", f"no suitable node ({why})"
            self._clock.callLater(0.2, self._assign, task)
            return
        task.assigned, task.state, task.error = True, "assigned", ""
        self._clock.callLater(self._random.uniform(0.1, 0.25), self._prepare, task)

    def _unfit(self, node: Node, task: Task) -> str:
        if node.state != "ready" or node.availability != "active":
            return "1 node not available for new tasks"
        held = sum(
            other.service.units
            for other in self.all_tasks
            if other.assigned
            and not other.ended
            and other.service.node_id == node.node_id
            and other.service.resource == task.service.resource
        )
        room = node.resources.get(task.service.resource, 0) - held
        return "" if room >= task.service.units else "insufficient resources on 1 node"

    def _prepare(self, task: Task) -> None:
        """The node has it, if it can be reached."""
        node = self.nodes[task.service.node_id]
        if task.wanted != "running":
            self._tell_manager(node, lambda: self._never_ran(task))
            return
        if not node.reached or not node.engine_up:
            self._clock.callLater(0.3, self._prepare, task)
            return
        if node.images_missing:
            task.state, task.error, task.wanted = "rejected", f"No such image: {IMAGE}", "shutdown"
            return
        task.state = "starting"
        self._clock.callLater(self._random.uniform(0.05, 0.2), self._run, task)

    def _never_ran(self, task: Task) -> None:
        if not task.ended and task.container is None:
            task.state = "shutdown"

    def _run(self, task: Task) -> None:
        node = self.nodes[task.service.node_id]
        if not node.engine_up:
            # What was being started died with the engine; the manager learns it when it is back.
            node.untold.append(lambda: self._ended(task, 137))
            return
        if task.wanted != "running" and node.reached:
            self._tell_manager(node, lambda: self._never_ran(task))
            return
        labels = task.service.labels
        container = Container(
            task, labels[names.JOB], int(labels[names.ATTEMPT]), task.service.grace_s
        )
        task.container = container
        node.containers.append(container)
        container.inside = self._start(container)
        self._clock.callLater(0.1, self._tell_manager, node, lambda: self._running(task))

    def _running(self, task: Task) -> None:
        if task.state == "starting":
            task.state = "running"

    def _condemn(self, task: Task) -> None:
        task.wanted = "shutdown"
        if task.ended:
            return
        if not task.assigned:
            task.state = "shutdown"
            return
        node = self.nodes[task.service.node_id]
        if task.container is not None and task.container.alive:
            self._clock.callLater(TERM_DELAY_S, self._stop, task.container, True)
        elif task.container is None and node.reached:
            # `_prepare` or `_run` finds it unwanted.
            pass

    def _stop(self, container: Container, ordered: bool) -> None:
        """TERM now and KILL after the grace, by the node's engine."""
        node = self.nodes[container.task.service.node_id]
        if not container.alive or container.stopping or not node.engine_up:
            return
        if ordered and not node.reached:
            return  # it is killed when the node is found again
        container.stopping = True
        if container.inside is None:
            self.end_container(container, 143, quiet=False)
            return
        container.inside.term()
        self._clock.callLater(container.grace_s, self._kill, container)

    def _kill(self, container: Container) -> None:
        if self.nodes[container.task.service.node_id].engine_up:
            self.end_container(container, 137, quiet=False)

    def _down(self, node: Node, losses: int) -> None:
        if node.reached or node.losses != losses:
            return
        node.state = "down"
        for task in self.all_tasks:
            if task.assigned and not task.ended and task.service.node_id == node.node_id:
                task.wanted = "shutdown"


class ManagerApi:
    """The Engine API as `SwarmPlatform` uses `Engine`: late, and away while the manager is.

    `boundary(name, job_id)` is called at every step of a call that changes something.
    """

    name = "sim"

    def __init__(
        self,
        swarm: Swarm,
        process: ProcessClock,
        random: Random,
        is_up: Callable[[], bool],
        late_s: Callable[[], float],
        boundary: Callable[[str, str], None],
        refuse: Callable[[str], Exception | None],
    ) -> None:
        self._swarm = swarm
        self._process = process
        self._random = random
        self._is_up = is_up
        self._late_s = late_s
        self._boundary = boundary
        self._refuse = refuse

    async def negotiate(self) -> tuple[int, int]:
        return (1, 51)

    async def info(self) -> SwarmInfo:
        return SwarmInfo(
            name="sim", engine_version="28.5.2", is_manager=True, node_id="m", error=""
        )

    async def image(self, reference: str) -> ImageInfo:
        return ImageInfo(image_id=IMAGE, digests=())

    async def nodes(self) -> list[NodeInfo]:
        await self._trip()
        return [node.info() for node in self._swarm.nodes.values()]

    async def services(self, labels: Mapping[str, str | None] | None = None) -> list[ServiceInfo]:
        await self._trip()
        return [service.info() for service in self._swarm.services.values()]

    async def tasks(self, labels: Mapping[str, str | None] | None = None) -> list[TaskInfo]:
        await self._trip()
        return [task.info() for task in self._swarm.all_tasks]

    async def service(self, name_or_id: str) -> ServiceInfo:
        await self._trip()
        return self._swarm.by_name(name_or_id).info()

    async def tasks_of(self, service: ServiceInfo) -> list[TaskInfo]:
        await self._trip()
        return [
            task.info()
            for task in self._swarm.all_tasks
            if task.service.service_id == service.service_id
        ]

    async def create_service(self, payload: Mapping[str, Any]) -> str:
        job_id = str(payload["Labels"][names.JOB])
        return str(await self._change("launch", job_id, lambda: self._swarm.create(payload)))

    async def scale_service(self, name_or_id: str, replicas: int) -> None:
        def scale() -> None:
            self._swarm.scale_to_zero(self._swarm.by_name(name_or_id))

        assert replicas == 0
        await self._change("stop", _job_of(name_or_id), scale)

    async def remove_service(self, name_or_id: str) -> None:
        def remove() -> None:
            try:
                self._swarm.remove(self._swarm.by_name(name_or_id))
            except NotFound:
                pass  # as Engine: gone is what was wished

        await self._change("remove", _job_of(name_or_id), remove)

    async def service_log(self, name_or_id: str, *, tail_lines: int) -> bytes:
        await self._trip()
        self._swarm.by_name(name_or_id)
        return b""

    async def close(self) -> None:
        pass

    async def _trip(self) -> None:
        """To the manager; Unavailable when nobody answers."""
        await self._process.later(self._random.uniform(0.001, 0.004 + self._late_s() / 8))
        if not self._is_up():
            await self._process.later(self._random.uniform(0.2, 1.0))
            raise Unavailable("the Docker Engine at sim can't be reached")

    async def _change(self, what: str, job_id: str, change: Callable[[], Any]) -> Any:
        self._boundary(f"{what}.before", job_id)
        await self._trip()
        refusal = self._refuse(what)
        if refusal is not None:
            raise refusal
        result = change()
        self._boundary(f"{what}.done", job_id)
        await self._process.later(self._random.uniform(0.001, 0.004 + self._late_s()))
        if not self._is_up():
            raise Unavailable("the connection to the Docker Engine at sim was lost")
        self._boundary(f"{what}.answered", job_id)
        return result


def _job_of(name: str) -> str:
    return name.removeprefix("cumulus-job-").rpartition("-")[0]
