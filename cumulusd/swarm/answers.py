"""What the Engine says, as values: read from its JSON once, here. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from cumulusd.errors import (
    Conflict,
    CumulusError,
    InvalidArgument,
    NotAuthorized,
    NotFound,
    Unavailable,
)

Json = Mapping[str, Any]
ApiVersion = tuple[int, int]
_MAX_WORDS = 1000
#: Parts of Swarm's errors, sent as 500, that mean "not now": the manager has no quorum or is busy.
_NOT_NOW = ("code = Unavailable", "code = DeadlineExceeded", "does not have a leader")
_OUT_OF_SEQUENCE = "out of sequence"
_NO_MANAGER = "not a swarm manager"


def parse_version(text: str) -> ApiVersion | None:
    """`"1.41"` -> (1, 41); None when it is no version."""
    major, dot, minor = text.strip().partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        return None
    return int(major), int(minor)


def version_text(version: ApiVersion) -> str:
    """The other way round."""
    return f"{version[0]}.{version[1]}"


@attrs.frozen(kw_only=True)
class SwarmInfo:
    """The engine in a few words. `is_manager`: it can be asked for the Swarm."""

    name: str
    engine_version: str
    is_manager: bool
    node_id: str
    error: str  #: the Swarm's own words on what is wrong with it, or ""
    swarm_id: str = ""  #: of the Swarm, "" outside of one
    manager_addresses: tuple[str, ...] = ()  #: "ip:2377", where nodes join
    time: str = ""  #: its clock, RFC 3339

    @classmethod
    def read(cls, data: Json) -> "SwarmInfo":
        """From `/info`."""
        swarm = data.get("Swarm") or {}
        return cls(
            name=str(data.get("Name") or ""),
            engine_version=str(data.get("ServerVersion") or ""),
            is_manager=bool(swarm.get("ControlAvailable")),
            node_id=str(swarm.get("NodeID") or ""),
            error=str(swarm.get("Error") or ""),
            time=str(data.get("SystemTime") or ""),
            swarm_id=str((swarm.get("Cluster") or {}).get("ID") or ""),
            manager_addresses=tuple(
                sorted(str(one["Addr"]) for one in swarm.get("RemoteManagers") or ())
            ),
        )


@attrs.frozen(kw_only=True)
class JoinInfo:
    """What lets a machine join the Swarm as a worker. `spec`: the Swarm's own, for updates."""

    swarm_id: str
    version: int
    worker_token: str = attrs.field(repr=False)
    spec: Json = attrs.field(repr=False)

    @classmethod
    def read(cls, data: Json) -> "JoinInfo":
        """From `/swarm`."""
        return cls(
            swarm_id=str(data["ID"]),
            version=int(data["Version"]["Index"]),
            worker_token=str(data["JoinTokens"]["Worker"]),
            spec=data["Spec"],
        )


@attrs.frozen(kw_only=True)
class NodeInfo:
    """A node of the Swarm."""

    node_id: str
    hostname: str
    state: str  #: "ready", "down", "disconnected", "unknown"
    availability: str  #: "active", "pause", "drain"
    role: str  #: "manager", "worker"
    labels: Mapping[str, str]
    version: int  #: of its specification, for updates
    message: str
    spec: Json
    address: str = ""  #: as the manager sees it, an IP
    engine_version: str = ""
    reachability: str = ""  #: of managers: "reachable", "unreachable", "unknown"

    @classmethod
    def read(cls, data: Json) -> "NodeInfo":
        """From `/nodes`."""
        spec, status = data.get("Spec") or {}, data.get("Status") or {}
        description = data.get("Description") or {}
        engine = description.get("Engine") or {}
        return cls(
            node_id=str(data["ID"]),
            hostname=str(description.get("Hostname") or ""),
            state=str(status.get("State") or "unknown"),
            availability=str(spec.get("Availability") or "active"),
            role=str(spec.get("Role") or "worker"),
            labels=dict(spec.get("Labels") or {}),
            version=int(data["Version"]["Index"]),
            message=str(status.get("Message") or ""),
            spec=spec,
            address=str(status.get("Addr") or ""),
            engine_version=str(engine.get("EngineVersion") or ""),
            reachability=str((data.get("ManagerStatus") or {}).get("Reachability") or ""),
        )


@attrs.frozen(kw_only=True)
class ServiceInfo:
    """A service. `replicas`: None when it isn't a replicated one."""

    service_id: str
    name: str
    version: int
    labels: Mapping[str, str]
    replicas: int | None
    spec: Json

    @classmethod
    def read(cls, data: Json) -> "ServiceInfo":
        """From `/services`."""
        spec = data["Spec"]
        replicated = (spec.get("Mode") or {}).get("Replicated")
        return cls(
            service_id=str(data["ID"]),
            name=str(spec["Name"]),
            version=int(data["Version"]["Index"]),
            labels=dict(spec.get("Labels") or {}),
            replicas=None if replicated is None else int(replicated.get("Replicas", 1)),
            spec=spec,
        )


@attrs.frozen(kw_only=True)
class TaskInfo:
    """A task: one go at a service's container."""

    task_id: str
    service_id: str
    node_id: str | None
    state: str  #: "new", "pending", … "running", "complete", "failed", "rejected", …
    desired_state: str
    message: str
    error: str
    exit_code: int | None  #: when a container was there and ended
    created_at: str  #: RFC 3339: sorts as text
    labels: Mapping[str, str]  #: those of the container; a task has none of the service's
    status_at: str = ""  #: when it came to its state, by its node's clock; RFC 3339
    image: str = ""  #: as the service names it
    had_container: bool = False

    @classmethod
    def read(cls, data: Json) -> "TaskInfo":
        """From `/tasks`."""
        status = data.get("Status") or {}
        container = status.get("ContainerStatus") or {}
        state = str(status.get("State") or "new")
        # While it runs the code is 0 or -1; a task that was rejected has an empty container.
        ended = bool(container.get("ContainerID")) and state in ("complete", "failed", "shutdown")
        spec = (data.get("Spec") or {}).get("ContainerSpec") or {}
        return cls(
            task_id=str(data["ID"]),
            service_id=str(data.get("ServiceID") or ""),
            node_id=data.get("NodeID") or None,
            state=state,
            desired_state=str(data.get("DesiredState") or "running"),
            message=str(status.get("Message") or ""),
            error=str(status.get("Err") or ""),
            exit_code=int(container.get("ExitCode", 0)) if ended else None,
            created_at=str(data.get("CreatedAt") or ""),
            labels=dict(spec.get("Labels") or {}),
            status_at=str(status.get("Timestamp") or ""),
            image=str(spec.get("Image") or ""),
            had_container=bool(container.get("ContainerID")),
        )


@attrs.frozen(kw_only=True)
class SecretInfo:
    """A secret; what is in it the engine never tells."""

    secret_id: str
    name: str
    labels: Mapping[str, str]

    @classmethod
    def read(cls, data: Json) -> "SecretInfo":
        """From `/secrets`."""
        spec = data["Spec"]
        return cls(
            secret_id=str(data["ID"]), name=str(spec["Name"]), labels=dict(spec.get("Labels") or {})
        )


@attrs.frozen(kw_only=True)
class ImageInfo:
    """An image that the engine has. `digests`: `name@sha256:…`, where a registry gave them.
    `python_version`: what it says of the Python in it, "3.13.5", None where it says nothing."""

    image_id: str
    digests: tuple[str, ...]
    python_version: str | None = None
    size_bytes: int = 0  #: on the engine's disk

    @classmethod
    def read(cls, data: Json) -> "ImageInfo":
        """From `/images/{name}/json`."""
        config = data.get("Config") or {}
        return cls(
            image_id=str(data["Id"]),
            digests=tuple(data.get("RepoDigests") or ()),
            python_version=_python_version(config.get("Labels") or {}, config.get("Env") or ()),
            size_bytes=int(data.get("Size") or 0),
        )


#: On images: the version of Python in them. The official images of Python have the variable.
PYTHON_LABEL = "cumulus.python"
_PYTHON_VARIABLE = "PYTHON_VERSION="
_PYTHON_VERSION = re.compile(r"\d{1,3}\.\d{1,3}(\.\S{1,20})?\Z")


def _python_version(labels: Mapping[str, Any], environment: Sequence[Any]) -> str | None:
    told = [str(labels.get(PYTHON_LABEL) or "")]
    told += [
        each.removeprefix(_PYTHON_VARIABLE)
        for each in map(str, environment)
        if each.startswith(_PYTHON_VARIABLE)
    ]
    return next((version for version in told if _PYTHON_VERSION.match(version)), None)


@attrs.frozen(kw_only=True)
class Event:
    """Something happened in the Swarm."""

    kind: str  #: "node", "service", "secret", …
    action: str  #: "create", "update", "remove"
    actor_id: str
    name: str  #: of a service or secret; empty: the engine doesn't tell
    time_ns: int

    @classmethod
    def read(cls, data: Json) -> "Event":
        """From `/events`."""
        return cls(
            kind=str(data.get("Type") or ""),
            action=str(data.get("Action") or ""),
            actor_id=str((data.get("Actor") or {}).get("ID") or ""),
            name=str(((data.get("Actor") or {}).get("Attributes") or {}).get("name") or ""),
            time_ns=int(data.get("timeNano") or 0),
        )


def words_of(body: bytes) -> str:
    """What the engine says in an answer: JSON mostly, plain text from some versions."""
    text = body[:65_536].decode(errors="replace").strip()
    try:
        return str(json.loads(text)["message"]).strip()
    except (ValueError, KeyError, TypeError):
        return text


def error_of(status: int, words: str, what: str, name: str) -> CumulusError:
    """The error for an answer that is no success. `what` was asked of the engine `name`."""
    words = words[:_MAX_WORDS] or f"status {status}, without a word"
    message = f"the Docker Engine at {name} refused {what}"
    details = {"platform": words, "engine_status": status}
    if _NO_MANAGER in words:
        return Unavailable(
            f"the Docker Engine at {name} is no Swarm manager",
            details=details,
            hint="point platform.swarm.endpoint at a manager, or run `docker swarm init` there",
        )
    if status in (502, 503, 504) or any(part in words for part in _NOT_NOW):
        return Unavailable(message, details=details, hint="the Swarm's managers have no quorum?")
    if status == 409 or _OUT_OF_SEQUENCE in words:
        return Conflict(message, details=details)
    kinds = {400: InvalidArgument, 401: NotAuthorized, 403: NotAuthorized, 404: NotFound}
    return kinds.get(status, CumulusError)(message, details=details)
