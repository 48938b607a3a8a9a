"""The fake Swarm of the contract tests for thousands of tasks: jobs end when they are told to.

What it tells goes to `tell` as JSON objects: `{"t": "agent", "node_id", "token"}` when the task of
an agent starts, `{"t": "run", "job_id", "attempt", "node_id"}` when a job's does.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from cumulusd.swarm import labels
from tests.contract.fake_engine import FakeEngine
from tests.contract.fake_swarm import FakeSwarm, Json, Task

#: Of each device; what is reserved there isn't summed up, the agents' ledgers say who has what.
UNITS = 10_000


class _Tasks:
    """As the list it stands for; what belongs to a service is found at once."""

    def __init__(self) -> None:
        self._of: dict[str, list[Task]] = {}

    def append(self, task: Task) -> None:
        self._of.setdefault(task.service["ID"], []).append(task)

    def remove(self, task: Task) -> None:
        own = self._of[task.service["ID"]]
        own.remove(task)
        if not own:
            del self._of[task.service["ID"]]

    def of(self, service: Json) -> list[Task]:
        return list(self._of.get(service["ID"], ()))

    def __iter__(self) -> Iterator[Task]:
        return (task for own in list(self._of.values()) for task in own)


class _Anything:
    """Every path is there."""

    def __contains__(self, path: object) -> bool:
        return True


class PoolSwarm(FakeSwarm):
    """`nodes` workers of `devices` devices each, and a manager."""

    def __init__(
        self, clock: Any, workers: int, devices: int, tell: Callable[[Json], None]
    ) -> None:
        super().__init__(clock)
        self._tell_pool = tell
        self._by_name: dict[str, str] = {}
        self._of_job: dict[tuple[str, int], Task] = {}
        self.values: dict[str, bytes] = {}  #: of secrets, by id
        self._task_index = _Tasks()
        self.tasks = self._task_index  # type: ignore[assignment]
        self.paths = _Anything()  # type: ignore[assignment]
        self.add_node("manager", role="manager")
        for number in range(workers):
            units = {f"cumulus_gpu{index}": UNITS for index in range(devices)}
            node_id = self.add_node(worker_name(number), **units)
            # As an operator enrols it: the daemon takes it from there.
            self.nodes[node_id]["Spec"]["Labels"][labels.WORKER] = "true"
        for image in ("cumulus-job:latest", "cumulus-agent:latest"):
            self.add_image(image)

    def end(self, job_id: str, attempt: int) -> None:
        """The runner of that attempt has ended by itself."""
        task = self._of_job.get((job_id, attempt))
        if task is not None and not task.done:
            self._exit(task, 0)

    def find(self, name_or_id: str) -> Json | None:
        service = self.services.get(name_or_id)
        return service or self.services.get(self._by_name.get(name_or_id, ""))

    def create(self, spec: Json) -> str:
        service_id = super().create(spec)
        self._by_name[spec["Name"]] = service_id
        return service_id

    def _of(self, service: Json) -> list[Task]:
        return [task for task in self._task_index.of(service) if task.listed]

    def _free(self, node_id: str, kind: str) -> int:
        return self.units[node_id].get(kind, 0)

    def _forget(self, task: Task) -> None:
        super()._forget(task)
        self._drop(task)

    def remove(self, name_or_id: str) -> None:
        service = self.find(name_or_id)
        super().remove(name_or_id)
        if service is not None:
            self._by_name.pop(service["Spec"]["Name"], None)
            for task in self._task_index.of(service):
                if task.done:
                    self._forget(task)

    def _run(self, task: Task) -> None:
        task.container_id = f"{task.number:064x}"
        task.state, task.message = "running", "started"
        of = task.service["Spec"]["Labels"]
        if labels.AGENT in of:
            secret = task.spec["ContainerSpec"]["Secrets"][0]["SecretID"]
            token = self.values[secret].decode()
            self._tell_pool({"t": "agent", "node_id": of[labels.AGENT], "token": token})
        elif labels.JOB in of:
            job_id, attempt = of[labels.JOB], int(of[labels.ATTEMPT])
            self._of_job[job_id, attempt] = task
            run = {"t": "run", "job_id": job_id, "attempt": attempt, "node_id": task.node_id}
            self._tell_pool(run)

    def _drop(self, task: Task) -> None:
        of = task.service["Spec"]["Labels"]
        if labels.JOB in of:
            self._of_job.pop((of[labels.JOB], int(of[labels.ATTEMPT])), None)


class _Asked:
    """Counts requests by method and kind of thing, in place of a list of all."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def append(self, what: str) -> None:
        method, _, path = what.partition(" ")
        parts = path.strip("/").split("/")
        kind = parts[1] if len(parts) > 1 and parts[0].startswith("v") else parts[0]
        last = parts[-1] if parts[-1] in ("create", "update", "logs", "json") else ""
        one = len(parts) > 2 and not last
        self.counts[f"{method} /{kind}{'/' + last if last else ''}{'/ID' if one else ''}"] += 1


class PoolEngine(FakeEngine):
    """The engine over it. `counts`: requests; `sent_bytes`: of JSON in its answers."""

    def __init__(self, swarm: PoolSwarm) -> None:
        super().__init__(swarm)
        self._counted = _Asked()
        self.asked = self._counted  # type: ignore[assignment]
        self.sent_bytes = 0

    @property
    def counts(self) -> Counter[str]:
        return self._counted.counts

    def _json(self, request: Any, value: Any) -> bytes:
        body = super()._json(request, value)
        self.sent_bytes += len(body)
        return body

    def _secrets(self, request: Any, method: str, rest: list[str]) -> Any:
        data = b""
        if rest == ["create"]:
            data = base64.b64decode(json.loads(request.content.read())["Data"])
            request.content.seek(0)
        answer = super()._secrets(request, method, rest)
        if rest == ["create"]:
            swarm = self.swarm
            assert isinstance(swarm, PoolSwarm)
            swarm.values[answer["ID"]] = data
        return answer


def worker_name(number: int) -> str:
    """The host name of that worker, from 0 on."""
    return f"worker{number:05d}"
