"""What a Swarm does with services, as far as Cumulus meets it: measured on Docker 20.10 to 28.

Times are those of the clock that is handed in; the steps take a fraction of the real ones.
"""

import functools
import itertools
import re
import shlex
from collections.abc import Callable
from typing import Any

import attrs

Json = dict[str, Any]
_NAME = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*")
#: From one state to the next.
STEP_S = 0.01
#: TERM takes a second to arrive in a real task.
TERM_S = 0.5
#: The same for what a node that comes back is told to end: tests see it alive before.
RETURNED_TERM_S = 1.5
_DONE = ("complete", "failed", "rejected", "shutdown", "remove", "orphaned")


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


@attrs.define(eq=False)
class Task:
    """One container, and what is written of it."""

    task_id: str
    service: Json
    spec: Json
    number: int
    state: str = "new"
    desired: str = "running"
    message: str = "created"
    error: str = ""
    node_id: str | None = None
    container_id: str = ""
    exit_code: int = 0
    ignores_term: bool = False
    listed: bool = True
    log: list[tuple[int, bytes]] = attrs.field(factory=list)
    call: Any = None  # the next step

    @property
    def done(self) -> bool:
        return self.state in _DONE

    def as_json(self) -> Json:
        status: Json = {"State": self.state, "Message": self.message}
        if self.error:
            status["Err"] = self.error
        if self.node_id is not None:
            status["ContainerStatus"] = {
                "ContainerID": self.container_id,
                "PID": 0,
                "ExitCode": self.exit_code if self.done else -1,
            }
        return {
            "ID": self.task_id,
            "Version": {"Index": 1},
            "CreatedAt": f"2026-01-01T00:00:00.{self.number:09d}Z",
            "Labels": {},
            "Spec": self.spec,
            "ServiceID": self.service["ID"],
            "Slot": 1,
            **({} if self.node_id is None else {"NodeID": self.node_id}),
            "Status": status,
            "DesiredState": self.desired,
        }


class FakeSwarm:
    """Owns its tasks' timers: `close` it."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        self.nodes: dict[str, Json] = {}
        self.units: dict[str, dict[str, int]] = {}  # node id -> kind -> how many
        self.services: dict[str, Json] = {}
        self.tasks: list[Task] = []
        self.secrets: dict[str, Json] = {}
        self.images: dict[str, Json] = {}
        self.lacking: set[str] = set()  # images that the manager has, and the workers don't
        self.archives: dict[str, bytes] = {}  # image id -> what `docker save` gives
        self.version = 1  # of the Swarm's own specification
        self.spec: Json = {"Name": "default", "Labels": {}, "Orchestration": {}}
        self.rotations = 0
        self.paths: set[str] = set()  # what bind mounts find on the workers
        self.listeners: list[Callable[[Json], None]] = []

    def close(self) -> None:
        for task in self.tasks:
            if task.call is not None and task.call.active():
                task.call.cancel()

    @property
    def worker_token(self) -> str:
        return f"SWMTKN-1-worker-{self.rotations}"

    def new_id(self) -> str:
        return f"{next(self._numbers):025d}"

    def add_node(self, hostname: str, *, role: str = "worker", **units: int) -> str:
        node_id = self.new_id()
        self.nodes[node_id] = {
            "ID": node_id,
            "Version": {"Index": 1},
            "Spec": {"Labels": {}, "Role": role, "Availability": "active"},
            "Description": {"Hostname": hostname},
            "Status": {"State": "ready", "Addr": "127.0.0.1"},
        }
        if role == "manager":
            status = {"Leader": True, "Reachability": "reachable", "Addr": "127.0.0.1:2377"}
            self.nodes[node_id]["ManagerStatus"] = status
        self.units[node_id] = dict(units)
        return node_id

    def add_image(self, *tags: str, digests: tuple[str, ...] = ()) -> str:
        image_id = f"sha256:{next(self._numbers):064d}"
        image = {"Id": image_id, "RepoTags": list(tags), "RepoDigests": list(digests)}
        for name in (image_id, *tags, *digests):
            self.images[name] = image
        return image_id

    # -- nodes

    def node_down(self, node_id: str) -> None:
        """The Swarm gives its tasks up, and hears no more of them."""
        self.nodes[node_id]["Status"] = {"State": "down", "Message": "heartbeat failure"}
        self._tell("node", "update", node_id)
        for task in self.tasks:
            if task.node_id == node_id and not task.done:
                task.desired = "shutdown"
                self._cancel(task)

    def forget_node(self, node_id: str) -> None:
        """`docker node rm --force`, of one that is down."""
        del self.nodes[node_id]
        self._tell("node", "remove", node_id)

    def node_up(self, node_id: str) -> None:
        """What ran there is killed, as the Swarm does."""
        self.nodes[node_id]["Status"] = {"State": "ready"}
        self._tell("node", "update", node_id)
        for task in self.tasks:
            if task.node_id == node_id and not task.done and task.desired != "running":
                self._later(task, RETURNED_TERM_S, lambda task=task: self._exit(task, 143))

    def update_node(self, node_id: str, version: int, spec: Json) -> None:
        node = self.nodes.get(node_id)
        if node is None:
            raise Refused(404, f"node {node_id} not found")
        self._in_sequence(node, version)
        node["Spec"] = spec
        self._tell("node", "update", node_id)

    # -- services

    def create(self, spec: Json) -> str:
        name = spec.get("Name", "")
        if not _NAME.fullmatch(name) or len(name) > 63:
            raise Refused(
                400,
                "rpc error: code = InvalidArgument desc = name must be valid as a DNS name "
                "component",
            )
        if self.find(name) is not None:
            raise Refused(
                409,
                "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
                f"service {name} already exists",
            )
        service = {"ID": self.new_id(), "Version": {"Index": 1}, "Spec": _as_go_reads(spec)}
        self.services[service["ID"]] = service
        self._tell("service", "create", service["ID"])
        self._clock.callLater(0, self._make_task, service)
        return str(service["ID"])

    def find(self, name_or_id: str) -> Json | None:
        for service in self.services.values():
            if name_or_id in (service["ID"], service["Spec"]["Name"]):
                return service
        return None

    def update(self, service_id: str, version: int, spec: Json) -> None:
        service = self.find(service_id)
        if service is None:
            raise Refused(404, f"service {service_id} not found")
        self._in_sequence(service, version)
        service["Spec"] = spec = _as_go_reads(spec)
        self._tell("service", "update", service["ID"])
        if spec["Mode"]["Replicated"]["Replicas"] == 0:
            for task in self._of(service):
                task.desired = "remove"
                if task.done or task.node_id is None:
                    self._forget(task)
                else:
                    self._terminate(task)

    def remove(self, name_or_id: str) -> None:
        """At once, while what runs runs on until TERM and KILL have reached it."""
        service = self.find(name_or_id)
        if service is None:
            raise Refused(404, f"service {name_or_id} not found")
        del self.services[service["ID"]]
        self._tell("service", "remove", service["ID"])
        for task in self._of(service):
            task.desired, task.listed = "remove", False
            if not task.done:
                self._terminate(task)

    def logs(self, name_or_id: str) -> list[tuple[int, bytes]]:
        service = self.find(name_or_id)
        if service is None:
            raise Refused(404, f"service {name_or_id} not found")
        return [line for task in self._of(service) for line in task.log]

    # -- tasks

    def _of(self, service: Json) -> list[Task]:
        return [task for task in self.tasks if task.service is service and task.listed]

    def _make_task(self, service: Json) -> None:
        if service["ID"] not in self.services:
            return
        if service["Spec"]["Mode"]["Replicated"]["Replicas"] == 0:
            return
        number = next(self._numbers)
        task = Task(f"{number:025d}", service, service["Spec"]["TaskTemplate"], number)
        self.tasks.append(task)
        self._later(task, STEP_S, lambda: self._schedule(task))

    def _schedule(self, task: Task) -> None:
        """Again and again while no node fits."""
        task.state, task.message = "pending", "pending task scheduling"
        wanted = [text.partition("node.id==")[2] for text in task.spec["Placement"]["Constraints"]]
        node_id = wanted[0]
        node = self.nodes.get(node_id)
        needs = self._needs(task)
        if node is None:
            task.error = "no suitable node (scheduling constraints not satisfied on 1 node)"
        elif node["Status"]["State"] != "ready" or node["Spec"]["Availability"] != "active":
            task.error = "no suitable node (1 node not available for new tasks)"
        elif any(self._free(node_id, kind) < units for kind, units in needs.items()):
            task.error = "no suitable node (insufficient resources on 1 node)"
        else:
            task.state, task.message, task.error = "assigned", "scheduler assigned task to node", ""
            task.node_id = node_id
            self._later(task, STEP_S, lambda: self._prepare(task))
            return
        self._later(task, STEP_S, lambda: self._schedule(task))

    def _needs(self, task: Task) -> dict[str, int]:
        wanted = task.spec.get("Resources", {}).get("Reservations", {}).get("GenericResources", [])
        each = [one["DiscreteResourceSpec"] for one in wanted]
        return {one["Kind"]: one["Value"] for one in each}

    def _free(self, node_id: str, kind: str) -> int:
        used = sum(
            self._needs(task).get(kind, 0)
            for task in self.tasks
            if task.node_id == node_id and not task.done
        )
        return self.units[node_id].get(kind, 0) - used

    def _prepare(self, task: Task) -> None:
        task.state, task.message = "preparing", "preparing"
        container = task.spec["ContainerSpec"]
        if container["Image"] not in self.images or container["Image"] in self.lacking:
            self._end(task, "rejected", f"No such image: {container['Image']}")
            return
        for mount in container.get("Mounts", ()):
            if mount["Type"] == "bind" and mount["Source"] not in self.paths:
                words = f"bind source path does not exist: {mount['Source']}"
                self._end(task, "rejected", f'invalid mount config for type "bind": {words}')
                return
        self._later(task, STEP_S, lambda: self._run(task))

    def _run(self, task: Task) -> None:
        task.container_id = f"{task.number:064x}"
        task.state, task.message = "running", "started"
        program, *arguments = task.spec["ContainerSpec"]["Command"]
        if program != "/bin/sh":
            task.log.append((2, f"[FATAL tini (7)] exec {program} failed: No such file\n".encode()))
            self._exit(task, 127)
            return
        self._steps(task, [part.strip() for part in arguments[1].split(";")])

    def _steps(self, task: Task, steps: list[str]) -> None:
        """Of the shell, as much as tests use."""
        for place, step in enumerate(steps):
            word, *rest = shlex.split(step)
            if word == "echo":
                stream = 2 if rest[-1:] == [">&2"] else 1
                text = " ".join(each for each in rest if each != ">&2")
                task.log.append((stream, text.encode() + b"\n"))
            elif word == "trap":
                task.ignores_term = True
            elif word == "sleep":
                left = steps[place + 1 :]
                self._later(task, float(rest[0]), functools.partial(self._steps, task, left))
                return
            elif word == "exit":
                self._exit(task, int(rest[0]))
                return
            else:
                raise AssertionError(f"the fake's shell doesn't know {word!r}")
        self._exit(task, 0)

    def _terminate(self, task: Task) -> None:
        node = self.nodes.get(task.node_id or "")
        if node is None or node["Status"]["State"] != "ready":
            return  # nobody there to hear it
        grace_s = task.spec["ContainerSpec"]["StopGracePeriod"] / 1e9
        code = 137 if task.ignores_term else 143
        delay_s = grace_s + TERM_S if task.ignores_term else TERM_S
        self._later(task, delay_s, lambda: self._exit(task, code))

    def _exit(self, task: Task, code: int) -> None:
        task.exit_code = code
        if code == 0:
            self._end(task, "complete", "", message="finished")
        else:
            self._end(task, "failed", f"task: non-zero exit ({code})", message="started")

    def _end(self, task: Task, state: str, error: str, message: str = "preparing") -> None:
        self._cancel(task)
        task.state, task.error, task.message = state, error, message
        if task.desired == "remove":
            self._forget(task)
        else:
            task.desired = "shutdown"

    def _forget(self, task: Task) -> None:
        self._cancel(task)
        self.tasks.remove(task)

    def _later(self, task: Task, delay_s: float, step: Callable[[], None]) -> None:
        self._cancel(task)
        task.call = self._clock.callLater(delay_s, step)

    def _cancel(self, task: Task) -> None:
        if task.call is not None and task.call.active():
            task.call.cancel()

    def _in_sequence(self, thing: Json, version: int) -> None:
        if thing["Version"]["Index"] != version:
            raise Refused(500, "rpc error: code = Unknown desc = update out of sequence")
        thing["Version"]["Index"] += 1

    def _tell(self, kind: str, action: str, actor: str) -> None:
        event = {"Type": kind, "Action": action, "Actor": {"ID": actor}, "scope": "swarm"}
        for listener in list(self.listeners):
            listener({**event, "timeNano": next(self._numbers)})


def _as_go_reads(spec: Json) -> Json:
    """Go takes a key in whatever case; docker.types writes this one in lower case."""
    return {**spec, "Mode": {key.capitalize(): value for key, value in spec["Mode"].items()}}
