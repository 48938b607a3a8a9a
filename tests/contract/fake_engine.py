"""A Docker Engine on the wire: an HTTP resource over `FakeSwarm`, for the real client.

It answers as engines do, with their status codes and words, and can be told to misbehave.
"""

import base64
import json
import re
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from cumulusd.swarm.answers import ApiVersion, parse_version, version_text
from tests.contract.fake_swarm import FakeSwarm, Json, Refused

_VERSIONED = re.compile(r"/v(\d+\.\d+)(/.*)")


@attrs.define
class Fault:
    """How the next request to a matching path fares."""

    path: str  #: found anywhere in "METHOD /path"
    action: str  #: "drop", "hang", "stall" and "cut" (in half a body), "answer"
    status: int = 500
    words: str = ""
    after: bool = False  #: only after the request was carried out


class FakeEngine(Resource):
    """Its Swarm is `swarm`; `asked` has every request; `faults` are used up one by one."""

    isLeaf = True

    def __init__(
        self, swarm: FakeSwarm, *, oldest: ApiVersion = (1, 12), newest: ApiVersion = (1, 41)
    ) -> None:
        super().__init__()
        self.swarm = swarm
        self.oldest, self.newest = oldest, newest
        self.is_manager = True
        self.clock_ahead_s = 0.0
        self.asked: list[str] = []
        self.faults: list[Fault] = []
        self._hanging: list[Any] = []
        self._connections: set[Any] = set()
        self._port: IListeningPort | None = None

    async def listen(self, reactor: Any, path: str) -> None:
        site = Site(self)
        endpoint = UNIXServerEndpoint(reactor, path)
        self._port = await endpoint.listen(site)

    async def close(self) -> None:
        """Nobody is answered any more."""
        if self._port is not None:
            port, self._port = self._port, None
            await port.stopListening()
        for connection in self._connections:
            if connection.connected:
                connection.abortConnection()
        self._connections.clear()
        self._hanging.clear()

    # -- HTTP

    def render(self, request: Any) -> Any:
        method, path = request.method.decode(), unquote(request.path.decode())
        request.setHeader("Api-Version", version_text(self.newest))
        what = f"{method} {path}"
        self.asked.append(what)
        self._connections.add(request.transport)
        fault = next((one for one in self.faults if one.path in what), None)
        if fault is not None:
            self.faults.remove(fault)
            if not fault.after:
                return self._misbehave(request, fault)
        try:
            answer = self._answer(request, method, path)
        except Refused as refused:
            answer = self._refusal(request, refused.status, refused.words)
        if fault is not None:
            return self._misbehave(request, fault)
        return answer

    def _misbehave(self, request: Any, fault: Fault) -> Any:
        if fault.action == "answer":
            return self._refusal(request, fault.status, fault.words)
        if fault.action == "drop":
            request.transport.abortConnection()
        elif fault.action == "cut":
            request.setHeader("Content-Length", "1000")
            request.write(b'[{"ID": "')
            request.transport.loseConnection()
        else:
            if fault.action == "stall":
                request.write(b'[{"ID": "')
            self._hang(request)
        return NOT_DONE_YET

    def _hang(self, request: Any) -> None:
        self._hanging.append(request)
        ended: Deferred[Any] = request.notifyFinish()

        def gone(_: object) -> None:
            if request in self._hanging:
                self._hanging.remove(request)

        ended.addErrback(gone)

    def _refusal(self, request: Any, status: int, words: str) -> bytes:
        request.setResponseCode(status)
        return self._json(request, {"message": words})

    def _json(self, request: Any, value: Any) -> bytes:
        request.setHeader("Content-Type", "application/json")
        return json.dumps(value).encode() + b"\n"

    # -- the API

    def _answer(self, request: Any, method: str, path: str) -> Any:
        versioned = _VERSIONED.fullmatch(path)
        if versioned is None:
            if path == "/_ping":
                return b"OK"
            if path == "/version":
                data = {"Version": "fake", "ApiVersion": version_text(self.newest)}
                return self._json(request, {**data, "MinAPIVersion": version_text(self.oldest)})
            raise Refused(404, "page not found")
        version = parse_version(versioned[1])
        assert version is not None
        if version > self.newest:
            words = f"client version {versioned[1]} is too new. Maximum supported API version is "
            raise Refused(400, words + version_text(self.newest))
        if version < self.oldest:
            words = f"client version {versioned[1]} is too old. Minimum supported API version is "
            raise Refused(400, words + version_text(self.oldest))
        _, first, *rest = versioned[2].split("/")
        handlers: dict[str, Callable[..., Any]] = {
            "info": self._info,
            "events": self._events,
            "nodes": self._nodes,
            "services": self._services,
            "tasks": self._tasks,
            "secrets": self._secrets,
            "images": self._images,
            "swarm": self._swarm,
        }
        if not self.is_manager and first in ("swarm", "nodes", "services", "tasks", "secrets"):
            raise Refused(
                503,
                'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
                "to connect this node to swarm and try again.",
            )
        answer = handlers[first](request, method, rest)
        if answer is NOT_DONE_YET or isinstance(answer, bytes):
            return answer
        return self._json(request, answer)

    def _info(self, request: Any, method: str, rest: list[str]) -> Json:
        swarm: Json = {"NodeID": "n1", "ControlAvailable": self.is_manager, "Error": ""}
        if self.is_manager:
            swarm["RemoteManagers"] = [{"NodeID": "n1", "Addr": "10.0.0.1:2377"}]
            swarm["Cluster"] = {"ID": "swarm1"}
        now = datetime.fromtimestamp(time.time() + self.clock_ahead_s, UTC)
        said = now.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")  # nanoseconds, as Go writes them
        return {"Name": "fake", "ServerVersion": "fake", "Swarm": swarm, "SystemTime": said}

    def _swarm(self, request: Any, method: str, rest: list[str]) -> Json:
        swarm = self.swarm
        if rest == ["update"]:
            if _version(request) != swarm.version:
                raise Refused(500, "rpc error: code = Unknown desc = update out of sequence")
            assert _body(request) == swarm.spec
            swarm.version += 1
            if _argument(request, "rotateWorkerToken") == "true":
                swarm.rotations += 1
            return {}
        tokens = {"Worker": swarm.worker_token, "Manager": "SWMTKN-1-manager"}
        return {
            "ID": "swarm1",
            "Version": {"Index": swarm.version},
            "Spec": swarm.spec,
            "JoinTokens": tokens,
        }

    def _nodes(self, request: Any, method: str, rest: list[str]) -> Any:
        if method == "DELETE":
            if self.swarm.nodes.get(rest[0], {}).get("Status", {}).get("State") == "ready":
                words = f"node {rest[0]} is not down and can't be removed"
                raise Refused(400, f"rpc error: code = FailedPrecondition desc = {words}")
            if self.swarm.nodes.pop(rest[0], None) is None:
                raise Refused(404, f"node {rest[0]} not found")
            return {}
        if method == "POST":
            self.swarm.update_node(rest[0], _version(request), _body(request))
            return {}
        if not rest:
            return list(self.swarm.nodes.values())
        if rest[0] not in self.swarm.nodes:
            raise Refused(404, f"node {rest[0]} not found")
        return self.swarm.nodes[rest[0]]

    def _services(self, request: Any, method: str, rest: list[str]) -> Any:
        swarm = self.swarm
        if rest == ["create"]:
            service_id = swarm.create(_body(request))
            request.setResponseCode(201)
            return {"ID": service_id}
        if method == "POST":
            swarm.update(rest[0], _version(request), _body(request))
            return {"Warnings": None}
        if method == "DELETE":
            swarm.remove(rest[0])
            return b""
        if rest[1:] == ["logs"]:
            lines = swarm.logs(rest[0])[-int(_argument(request, "tail")) :]
            return b"".join(struct.pack(">BxxxI", kind, len(data)) + data for kind, data in lines)
        if rest:
            service = swarm.find(rest[0])
            if service is None:
                raise Refused(404, f"service {rest[0]} not found")
            return service
        return [each for each in swarm.services.values() if _fits(each["Spec"], request)]

    def _tasks(self, request: Any, method: str, rest: list[str]) -> list[Json]:
        for name in _filters(request).get("service", ()):
            if self.swarm.find(name) is None:
                raise Refused(404, f"service {name} not found")
        services = _filters(request).get("service")
        return [
            task.as_json()
            for task in self.swarm.tasks
            if task.listed
            and _fits(task.service["Spec"], request)
            and (services is None or task.service["ID"] in services)
        ]

    def _secrets(self, request: Any, method: str, rest: list[str]) -> Any:
        secrets = self.swarm.secrets
        if rest == ["create"]:
            spec = _body(request)
            base64.b64decode(spec.pop("Data"), validate=True)
            if any(each["Spec"]["Name"] == spec["Name"] for each in secrets.values()):
                words = (
                    f"rpc error: code = AlreadyExists desc = secret {spec['Name']} already exists"
                )
                raise Refused(409, words)
            secret = {"ID": self.swarm.new_id(), "Version": {"Index": 1}, "Spec": spec}
            secrets[secret["ID"]] = secret
            request.setResponseCode(201)
            return {"ID": secret["ID"]}
        if method == "DELETE":
            found = [
                each for each in secrets.values() if rest[0] in (each["ID"], each["Spec"]["Name"])
            ]
            if not found:
                raise Refused(404, f"secret {rest[0]} not found")
            del secrets[found[0]["ID"]]
            request.setResponseCode(204)
            return b""
        return [each for each in secrets.values() if _fits(each["Spec"], request)]

    def _images(self, request: Any, method: str, rest: list[str]) -> Any:
        name = "/".join(rest[:-1])
        if name not in self.swarm.images:
            raise Refused(404, f"no such image: {name}: No such image: {name}")
        if rest[-1] == "get":
            request.setHeader("Content-Type", "application/x-tar")
            return self.swarm.archives[name]
        return self.swarm.images[name]

    def _events(self, request: Any, method: str, rest: list[str]) -> int:
        kinds = _filters(request).get("type", ())

        def tell(event: Json) -> None:
            if event["Type"] in kinds:
                request.write(json.dumps(event).encode() + b"\n")

        self.swarm.listeners.append(tell)
        request.notifyFinish().addErrback(lambda _: self.swarm.listeners.remove(tell))
        self._hang(request)
        request.write(b"")  # the headers
        return NOT_DONE_YET


def _argument(request: Any, name: str) -> str:
    return str(request.args[name.encode()][0].decode())


def _version(request: Any) -> int:
    return int(_argument(request, "version"))


def _body(request: Request) -> Any:
    assert request.content is not None
    assert request.requestHeaders.getRawHeaders("Content-Type") == ["application/json"]
    return json.loads(request.content.read())


def _filters(request: Any) -> dict[str, list[str]]:
    if b"filters" not in request.args:
        return {}
    found: dict[str, list[str]] = json.loads(_argument(request, "filters"))
    return found


def _fits(spec: Json, request: Any) -> bool:
    labels = spec.get("Labels") or {}
    for wanted in _filters(request).get("label", ()):
        key, equals, value = wanted.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True
