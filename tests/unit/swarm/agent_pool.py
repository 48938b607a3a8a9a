"""A Swarm in memory, as far as the agents' services need one."""

from collections.abc import Mapping
from typing import Any

import attrs

from cumulusd.errors import Conflict, InvalidArgument, NotFound, Unavailable
from cumulusd.swarm import labels
from cumulusd.swarm.answers import ImageInfo, NodeInfo, SecretInfo, ServiceInfo, TaskInfo

IMAGE = "cumulus-agent:latest"
IMAGE_ID = "sha256:" + "1" * 64


def node(node_id: str, hostname: str, state: str = "ready", **node_labels: str) -> NodeInfo:
    return NodeInfo(
        node_id=node_id,
        hostname=hostname,
        state=state,
        availability="active",
        role="worker",
        labels={key.replace("_", "."): value for key, value in node_labels.items()},
        version=1,
        message="",
        spec={},
    )


def task(node_id: str, state: str, error: str = "", created_at: str = "1") -> TaskInfo:
    return TaskInfo(
        task_id=f"t-{node_id}-{created_at}",
        service_id="s",
        node_id=node_id,
        state=state,
        desired_state="running",
        message="",
        error=error,
        exit_code=None,
        created_at=created_at,
        labels={labels.AGENT: node_id},
    )


class Pool:
    """`AgentEngine`; keeps what an engine would, and every secret's data for the test."""

    def __init__(self, *nodes: NodeInfo) -> None:
        self.node_table = {one.node_id: one for one in nodes}
        self.service_table: dict[str, ServiceInfo] = {}
        self.secret_table: dict[str, SecretInfo] = {}
        self.data: dict[str, bytes] = {}
        self.task_list: list[TaskInfo] = []
        self.images = {IMAGE: ImageInfo(image_id=IMAGE_ID, digests=())}
        self.calls: list[str] = []
        #: call -> what it raises
        self.failing: dict[str, Exception] = {}
        #: calls that are carried out, and whose answer is then lost
        self.losing: set[str] = set()
        self._last = 0

    async def nodes(self) -> list[NodeInfo]:
        self._call("nodes")
        return list(self.node_table.values())

    async def update_node(
        self, node_id: str, *, labels: Mapping[str, str | None] | None = None
    ) -> None:
        self._call(f"update_node {node_id}")
        there = self.node_table[node_id]
        merged = {**there.labels, **(labels or {})}
        kept = {key: value for key, value in merged.items() if value is not None}
        self.node_table[node_id] = attrs.evolve(there, labels=kept)

    async def services(self, labels: Mapping[str, str] | None = None) -> list[ServiceInfo]:
        self._call("services")
        return [one for one in self.service_table.values() if _has(one.labels, labels)]

    async def create_service(self, payload: Mapping[str, Any]) -> str:
        self._call(f"create_service {payload['Name']}")
        if any(one.name == payload["Name"] for one in self.service_table.values()):
            raise Conflict("name conflicts with an existing object")
        service_id = self._id()
        self._put(service_id, 1, payload)
        self._lose("create_service")
        return service_id

    async def update_service(
        self, service_id: str, version: int, payload: Mapping[str, Any]
    ) -> None:
        self._call(f"update_service {payload['Name']}")
        if self.service_table[service_id].version != version:
            raise Conflict("update out of sequence")
        self._put(service_id, version + 1, payload)

    async def remove_service(self, name_or_id: str) -> None:
        self._call("remove_service")
        self.service_table.pop(name_or_id, None)

    async def tasks(self, labels: Mapping[str, str]) -> list[TaskInfo]:
        self._call("tasks")
        return self.task_list

    async def secrets(self, labels: Mapping[str, str] | None = None) -> list[SecretInfo]:
        self._call("secrets")
        return [one for one in self.secret_table.values() if _has(one.labels, labels)]

    async def create_secret(self, name: str, data: bytes, labels: Mapping[str, str]) -> str:
        self._call(f"create_secret {name}")
        if any(one.name == name for one in self.secret_table.values()):
            raise Conflict("name conflicts with an existing object")
        secret_id = self._id()
        self.secret_table[secret_id] = SecretInfo(
            secret_id=secret_id, name=name, labels=dict(labels)
        )
        self.data[name] = data
        self._lose("create_secret")
        return secret_id

    async def remove_secret(self, name_or_id: str) -> None:
        self._call("remove_secret")
        for service in self.service_table.values():
            if any(one["SecretID"] == name_or_id for one in secrets_of(service)):
                raise InvalidArgument("secret is in use")
        self.secret_table.pop(name_or_id, None)

    async def image(self, reference: str) -> ImageInfo:
        self._call("image")
        if reference not in self.images:
            raise NotFound(f"no such image: {reference}")
        return self.images[reference]

    # -- for the test

    def service_of(self, node_id: str) -> ServiceInfo:
        (found,) = [
            one for one in self.service_table.values() if one.labels[labels.AGENT] == node_id
        ]
        return found

    def secret_names(self) -> list[str]:
        return sorted(one.name for one in self.secret_table.values())

    def token_of(self, node_id: str) -> str:
        """The token that the agent there finds in its container."""
        (token,) = [
            one["SecretName"]
            for one in secrets_of(self.service_of(node_id))
            if one["File"]["Name"] == "cumulus_agent_token"
        ]
        return self.data[token].decode()

    def changes(self) -> list[str]:
        """What was changed since the last time this was asked."""
        made, self.calls = self.calls, []
        return [one for one in made if one.split()[0] not in _READS]

    def _call(self, what: str) -> None:
        self.calls.append(what)
        error = self.failing.get(what) or self.failing.get(what.split()[0])
        if error is not None:
            raise error

    def _lose(self, what: str) -> None:
        if what in self.losing:
            raise Unavailable("the connection was lost")

    def _id(self) -> str:
        self._last += 1
        return f"id{self._last}"

    def _put(self, service_id: str, version: int, payload: Mapping[str, Any]) -> None:
        self.service_table[service_id] = ServiceInfo(
            service_id=service_id,
            name=payload["Name"],
            version=version,
            labels=dict(payload["Labels"]),
            replicas=1,
            spec=payload,
        )


_READS = ("nodes", "services", "secrets", "tasks", "image")


def secrets_of(service: ServiceInfo) -> list[Mapping[str, Any]]:
    container = (service.spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}
    return list(container.get("Secrets") or ())


def _has(there: Mapping[str, str], wanted: Mapping[str, str] | None) -> bool:
    return (wanted or {}).items() <= dict(there).items()
