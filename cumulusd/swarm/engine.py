"""One Docker Engine, a Swarm manager, as typed calls. Everything it raises is a CumulusError."""

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from twisted.logger import Logger

from cumulusd.errors import Conflict, CumulusError, NotFound, Unavailable
from cumulusd.swarm.answers import (
    ApiVersion,
    Event,
    ImageInfo,
    JoinInfo,
    Json,
    NodeInfo,
    SecretInfo,
    ServiceInfo,
    SwarmInfo,
    TaskInfo,
    error_of,
    parse_version,
    version_text,
    words_of,
)
from cumulusd.swarm.endpoint import Endpoint, EndpointFactory
from cumulusd.swarm.events import follow_events
from cumulusd.swarm.transport import DEADLINE_S, Asked, Reply, Transport
from cumulusd.tasks import sleep

#: The oldest that has all we can't do without, and the newest that was read about.
OLDEST_API: ApiVersion = (1, 41)
NEWEST_API: ApiVersion = (1, 52)
_UPDATE_ATTEMPTS = 6
_UPDATE_PAUSE_S = 0.05
_LOG_BYTES = 256 << 10
_T = TypeVar("_T")


class Engine:
    """A client of one engine. `close` it.

    Lost connections are tried again within each call's deadline, which is safe: everything here is
    idempotent, by name or by version. Unavailable: the engine, or its Swarm, can't be asked now.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        endpoint: Endpoint,
        *,
        deadline_s: float = DEADLINE_S,
        asked: Asked = lambda kind, status, seconds: None,
    ) -> None:
        """`deadline_s`: for each call. `asked` is told of each. Raises InvalidArgument when TLS
        files can't be used."""
        self._reactor = reactor
        self._deadline_s = deadline_s
        factory = EndpointFactory(reactor, endpoint)
        self._transport = Transport(reactor, factory, str(endpoint), asked)
        self._version: ApiVersion | None = None

    @property
    def name(self) -> str:
        """Where the engine is, for people."""
        return self._transport.name

    async def close(self) -> None:
        """Fires when no idle connection is left."""
        await self._transport.close()

    # -- the engine itself

    async def negotiate(self) -> ApiVersion:
        """The newest version of the API that both know; asked anew after a lost connection.

        Raises CumulusError when there is none.
        """
        if self._version is None:
            self._version = await self._negotiate()
        return self._version

    async def info(self) -> SwarmInfo:
        """What it is, and whether it is a Swarm manager."""
        return self._read(SwarmInfo.read, await self._json("GET", "/info"), "/info")

    # -- the Swarm

    async def join_info(self) -> JoinInfo:
        """What lets a machine join as a worker: secret. Raises Unavailable on no manager."""
        return self._read(JoinInfo.read, await self._json("GET", "/swarm"), "/swarm")

    async def rotate_worker_token(self) -> None:
        """From now on nobody joins as a worker by the join token that there was."""

        async def rotate() -> None:
            there = await self.join_info()
            params = {"version": str(there.version), "rotateWorkerToken": "true"}
            await self._call("POST", "/swarm/update", params=params, body=there.spec)

        await self._until_in_sequence(rotate)

    # -- nodes

    async def nodes(self) -> list[NodeInfo]:
        """All of the Swarm."""
        return self._read_all(NodeInfo.read, await self._json("GET", "/nodes"), "/nodes")

    async def node(self, node_id: str) -> NodeInfo:
        """One node. Raises NotFound."""
        path = f"/nodes/{_quoted(node_id)}"
        return self._read(NodeInfo.read, await self._json("GET", path), path)

    async def update_node(
        self,
        node_id: str,
        *,
        labels: Mapping[str, str | None] | None = None,
        availability: str | None = None,
    ) -> None:
        """Sets labels (None takes one away) and availability; the rest stays."""

        async def update() -> None:
            node = await self.node(node_id)
            wanted = {**node.labels, **(labels or {})}
            spec = {
                **node.spec,
                "Labels": {key: value for key, value in wanted.items() if value is not None},
                "Availability": availability or node.availability,
            }
            if spec != {**node.spec, "Labels": dict(node.labels)}:
                path = f"/nodes/{_quoted(node_id)}/update"
                await self._call("POST", path, params={"version": str(node.version)}, body=spec)

        await self._until_in_sequence(update)

    async def remove_node(self, node_id: str) -> None:
        """Fires when the Swarm has forgotten it, or had. Raises CumulusError while it is not
        down."""
        await self._delete(f"/nodes/{_quoted(node_id)}")

    # -- services and tasks

    async def services(self, labels: Mapping[str, str | None] | None = None) -> list[ServiceInfo]:
        """Those that have all these labels; None for a value: whatever it is."""
        found = await self._json("GET", "/services", params=_filters(labels))
        return self._read_all(ServiceInfo.read, found, "/services")

    async def service(self, name_or_id: str) -> ServiceInfo:
        """One service. Raises NotFound."""
        path = f"/services/{_quoted(name_or_id)}"
        return self._read(ServiceInfo.read, await self._json("GET", path), path)

    async def create_service(self, payload: Json) -> str:
        """Its id. One of that name and with the same labels is taken for this one.

        Raises Conflict when the name is somebody else's.
        """
        try:
            made = await self._json("POST", "/services/create", body=payload)
        except Conflict as error:
            try:
                there = await self.service(payload["Name"])
            except NotFound:
                raise error from None  # it is being removed: try again
            if there.labels != payload.get("Labels", {}):
                raise
            return there.service_id
        for warning in made.get("Warnings") or ():
            self._log.warn(
                "service {name}: the engine warns: {warning}", name=payload["Name"], warning=warning
            )
        return self._read(lambda data: str(data["ID"]), made, "/services/create")

    async def update_service(self, service_id: str, version: int, payload: Json) -> None:
        """Replaces its specification. Raises Conflict when `version` isn't the current one."""
        path = f"/services/{_quoted(service_id)}/update"
        await self._call("POST", path, params={"version": str(version)}, body=payload)

    async def scale_service(self, name_or_id: str, replicas: int) -> None:
        """Sets the number of tasks that should run. Raises NotFound."""

        async def update() -> None:
            there = await self.service(name_or_id)
            if there.replicas != replicas:
                spec = {**there.spec, "Mode": {"Replicated": {"Replicas": replicas}}}
                await self.update_service(there.service_id, there.version, spec)

        await self._until_in_sequence(update)

    async def remove_service(self, name_or_id: str) -> None:
        """Fires when it is forgotten, or was; its container may run on for a moment."""
        await self._delete(f"/services/{_quoted(name_or_id)}")

    async def tasks(self, labels: Mapping[str, str | None] | None = None) -> list[TaskInfo]:
        """Tasks of all services that have these labels, in one look."""
        found = await self._json("GET", "/tasks", params=_filters(labels))
        return self._read_all(TaskInfo.read, found, "/tasks")

    async def tasks_of(self, service: ServiceInfo) -> list[TaskInfo]:
        """That service's tasks; none when it is removed, whatever still runs."""
        try:
            params = {"filters": json.dumps({"service": [service.service_id]})}
            found = await self._json("GET", "/tasks", params=params)
        except NotFound:
            return []
        return self._read_all(TaskInfo.read, found, "/tasks")

    async def service_log(self, name_or_id: str, *, tail_lines: int) -> bytes:
        """The end of what its containers wrote, as the engine's frames (`log_frames`)."""
        params = {"stdout": "1", "stderr": "1", "follow": "0", "tail": str(tail_lines)}
        path = f"/services/{_quoted(name_or_id)}/logs"
        return (await self._call("GET", path, params=params, max_bytes=_LOG_BYTES)).body

    # -- secrets and images

    async def create_secret(self, name: str, data: bytes, labels: Mapping[str, str]) -> str:
        """Its id. Raises Conflict when there is one of that name: its content can't be known."""
        body = {"Name": name, "Data": base64.b64encode(data).decode(), "Labels": dict(labels)}
        made = await self._json("POST", "/secrets/create", body=body)
        return self._read(lambda found: str(found["ID"]), made, "/secrets/create")

    async def secrets(self, labels: Mapping[str, str | None] | None = None) -> list[SecretInfo]:
        """Those that have all these labels."""
        found = await self._json("GET", "/secrets", params=_filters(labels))
        return self._read_all(SecretInfo.read, found, "/secrets")

    async def remove_secret(self, name_or_id: str) -> None:
        """Fires when it is gone. Raises InvalidArgument while a service uses it."""
        await self._delete(f"/secrets/{_quoted(name_or_id)}")

    async def image(self, reference: str) -> ImageInfo:
        """An image that this engine has. Raises NotFound."""
        path = f"/images/{quote(reference, safe='/:@')}/json"
        return self._read(ImageInfo.read, await self._json("GET", path), path)

    async def export_image(self, image_id: str, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Hands the image to `send` piece by piece, as a tar archive that `docker load` takes,
        at the pace of `send`. Raises NotFound, Unavailable, also in the middle."""
        version = version_text(await self.negotiate())
        path = f"/images/{quote(image_id, safe=':')}/get"
        refused = await self._transport.download(f"/v{version}{path}", send)
        if refused is not None:
            raise error_of(refused.status, words_of(refused.body), f"GET {path}", self.name)

    # -- events

    async def watch_events(
        self, kinds: Sequence[str], *, connected: Callable[[], None], heard: Callable[[Event], None]
    ) -> None:
        """Tells what happens to things of these kinds ("node", "service") until cancelled.

        `connected` is called when the stream (re)opens: what was before it has to be looked at.
        """

        async def path() -> str:
            return f"/v{version_text(await self.negotiate())}/events"

        await follow_events(
            self._transport, self._reactor, path, kinds, connected=connected, heard=heard
        )

    # -- inside

    async def _negotiate(self) -> ApiVersion:
        ping = await self._transport.call("GET", "/_ping", deadline_s=self._deadline_s)
        # Since 1.22 in every answer, an error's too.
        newest = parse_version(ping.headers.get("api-version", ""))
        if newest is None:
            raise CumulusError(
                f"what answers at {self.name} is no Docker Engine",
                details={"platform": f"no Api-Version in the answer to /_ping ({ping.status})"},
                hint="check platform.swarm.endpoint",
            )
        said = await self._transport.call("GET", "/version", deadline_s=self._deadline_s)
        if said.status != 200:
            raise error_of(said.status, words_of(said.body), "GET /version", self.name)
        data = self._decoded(said, "/version")
        oldest = parse_version(str(data.get("MinAPIVersion", ""))) or OLDEST_API
        if newest < OLDEST_API or oldest > NEWEST_API:
            ours = f"{version_text(OLDEST_API)} to {version_text(NEWEST_API)}"
            theirs = f"{version_text(oldest)} to {version_text(newest)}"
            old = newest < OLDEST_API
            raise CumulusError(
                f"the Docker Engine at {self.name} is too {'old' if old else 'new'}: "
                f"it speaks API {theirs}, Cumulus {ours}",
                details={"platform": f"Docker {data.get('Version', '?')}, API {theirs}"},
                hint="upgrade Docker to 20.10 or later" if old else "upgrade Cumulus",
            )
        version = min(newest, NEWEST_API)
        self._log.info(
            "the Docker Engine at {name} is {version}; speaking API {api}",
            name=self.name,
            version=data.get("Version"),
            api=version_text(version),
        )
        return version

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        max_bytes: int | None = None,
    ) -> Reply:
        bounds: dict[str, Any] = {}
        if max_bytes is not None:
            bounds = {"max_bytes": max_bytes, "keep_end": True}
        for again in (True, False):
            version = await self.negotiate()
            try:
                reply = await self._transport.call(
                    method,
                    f"/v{version_text(version)}{path}",
                    params=params,
                    body=body,
                    deadline_s=self._deadline_s,
                    **bounds,
                )
            except Unavailable:
                self._version = None  # it may come back as another version
                raise
            if reply.status < 300:
                return reply
            words = words_of(reply.body)
            if reply.status == 400 and "API version" in words and again:
                self._version = None  # it came back as another version
                continue
            raise error_of(reply.status, words, f"{method} {path}", self.name)
        raise AssertionError("unreachable")

    async def _json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Any:
        return self._decoded(await self._call(method, path, params=params, body=body), path)

    async def _delete(self, path: str) -> None:
        try:
            await self._call("DELETE", path)
        except NotFound:
            pass  # it is gone, which was the wish

    async def _until_in_sequence(self, update: Callable[[], Any]) -> None:
        """Updates name the version they change; between the look and the update another came."""
        for attempt in range(1, _UPDATE_ATTEMPTS + 1):
            try:
                await update()
                return
            except Conflict:
                if attempt == _UPDATE_ATTEMPTS:
                    raise
            await sleep(self._reactor, _UPDATE_PAUSE_S * attempt)

    def _decoded(self, reply: Reply, path: str) -> Any:
        try:
            return json.loads(reply.body)
        except ValueError as error:
            raise self._nonsense(path, error) from error

    def _read(self, read: Callable[[Json], _T], data: Any, path: str) -> _T:
        try:
            return read(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense(path, error) from error

    def _read_all(self, read: Callable[[Json], _T], data: Any, path: str) -> list[_T]:
        return [self._read(read, each, path) for each in data or ()]

    def _nonsense(self, path: str, error: Exception) -> CumulusError:
        return CumulusError(
            f"the Docker Engine at {self.name} gave an answer to {path} that can't be read",
            details={"platform": repr(error)},
            hint="is something else than Docker listening there?",
        )


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _filters(labels: Mapping[str, str | None] | None) -> dict[str, str]:
    if not labels:
        return {}
    wanted = [key if value is None else f"{key}={value}" for key, value in labels.items()]
    return {"filters": json.dumps({"label": wanted})}
