"""What a user of Swarm would do without us: a bare service that runs a function from a file, made
through the Engine API, its log followed there."""

import base64
import http.client
import json
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench.parts.errors import BenchError
from bench.table import Peer
from cumulusd.swarm.log_frames import FrameParser, Stream
from engines.docker_api import DockerApi, DockerError

PLACE = "/function.py"
COMMAND = ("python3", "-u", PLACE)
#: What `BareServices` does, for whoever wants to repeat it.
PEER = Peer(
    name="bare service",
    command=(
        "POST /services/create of a replicated service (Replicas 1, RestartPolicy none, image by "
        f"id, Command {' '.join(COMMAND)}, the file from a Swarm config), then "
        "GET /services/ID/logs?follow=1&stdout=1&stderr=1"
    ),
)
_LABEL = "cumulus-bench"
_OVER = ("complete", "failed", "shutdown", "rejected", "remove", "orphaned")
_READ_BYTES = 256 << 10
_CALL_S = 60.0


class BareServices:
    """Services of one file and one image. Use as a context manager: in the end none is left."""

    def __init__(self, api: DockerApi, image: str, source: str) -> None:
        """`image`: its id. `source`: the file's text."""
        self._api = api
        self._image = image
        self._tag = f"bench-{secrets.token_hex(4)}"
        self._source = source
        self._config_id = ""
        self._made: set[str] = set()

    def __enter__(self) -> "BareServices":
        data = base64.b64encode(self._source.encode()).decode()
        config = {"Name": self._tag, "Labels": {_LABEL: self._tag}, "Data": data}
        made = self._api.call("POST", "/configs/create", config)
        self._config_id = str(made["ID"])
        return self

    def __exit__(self, *_: object) -> None:
        for service in list(self._made):
            self.remove(service)
        self._api.call("DELETE", f"/configs/{self._config_id}")

    def create(self) -> str:
        """The new service's id."""
        file = {"Name": PLACE, "UID": "0", "GID": "0", "Mode": 0o444}
        config = {"ConfigID": self._config_id, "ConfigName": self._tag, "File": file}
        spec = {
            "Name": f"{self._tag}-{secrets.token_hex(4)}",
            "Labels": {_LABEL: self._tag},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self._image,
                    "Command": list(COMMAND),
                    "Configs": [config],
                },
                "RestartPolicy": {"Condition": "none"},
            },
            "Mode": {"Replicated": {"Replicas": 1}},
        }
        service = str(self._api.call("POST", "/services/create", spec)["ID"])
        self._made.add(service)
        return service

    def log(self, service: str, timeout_s: float) -> Iterator[bytes]:
        """Its output as it comes, of both streams; it never ends by itself.

        Raises BenchError when nothing more comes for so long, or the engine can't go on.
        """
        query = urlencode({"follow": 1, "stdout": 1, "stderr": 1})
        parser = FrameParser()
        with _Following(self._api.path, f"/services/{service}/logs?{query}", timeout_s) as chunks:
            for data in chunks:
                for frame in parser.feed(data):
                    if frame.stream is Stream.ENGINE:
                        raise BenchError(f"the engine's log breaks off: {frame.data!r}")
                    yield frame.data

    def wait_over(self, service: str, timeout_s: float) -> float:
        """The moment, unix, at which its task was seen to have ended. Raises BenchError."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = self._states({"service": [service]})
            if states and all(state in _OVER for state in states):
                return time.time()
            if time.monotonic() > deadline:
                raise BenchError(f"the service {service} has not ended: {states}")
            time.sleep(0.005)

    def wait_all_over(self, timeout_s: float) -> None:
        """Returns when the tasks of all that were created have ended well. Raises BenchError."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = self._states({"label": [f"{_LABEL}={self._tag}"]})
            if len(states) == len(self._made) and all(state in _OVER for state in states):
                if any(state != "complete" for state in states):
                    raise BenchError(f"bare services failed: {states}")
                return
            if time.monotonic() > deadline:
                raise BenchError(f"bare services have not ended: {states}")
            time.sleep(0.05)

    def remove(self, service: str) -> None:
        """Takes it away."""
        try:
            self._api.call("DELETE", f"/services/{service}")
        except DockerError as error:
            if error.status != 404:
                raise
        self._made.discard(service)

    def _states(self, filters: dict[str, list[str]]) -> list[str]:
        query = {"filters": json.dumps(filters)}
        tasks: list[dict[str, Any]] = self._api.call("GET", "/tasks", query=query) or []
        return [str(task["Status"]["State"]) for task in tasks]


def remove_all(api: DockerApi) -> None:
    """Removes all services and files that anybody's `BareServices` left."""
    query = {"filters": json.dumps({"label": [_LABEL]})}
    for kind in ("services", "configs"):
        for one in api.call("GET", f"/{kind}", query=query) or []:
            api.call("DELETE", f"/{kind}/{one['ID']}")


class _Following:
    """A GET whose answer has no end: its chunks as they come."""

    def __init__(self, path: Path, target: str, timeout_s: float) -> None:
        self._connection = http.client.HTTPConnection("docker", timeout=timeout_s)
        self._path = path
        self._target = target
        self._timeout_s = timeout_s

    def __enter__(self) -> Iterator[bytes]:
        try:
            return self._chunks(self._asked())
        except BaseException:
            self._connection.close()
            raise

    def _asked(self) -> http.client.HTTPResponse:
        self._connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.sock.settimeout(self._timeout_s)
        self._connection.sock.connect(str(self._path))
        self._connection.request("GET", self._target)
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise BenchError(f"GET {self._target}: {answer.status} {answer.read(2000)!r}")
        return answer

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _chunks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while data := answer.read1(_READ_BYTES):
                yield data
        except TimeoutError as error:
            raise BenchError(f"nothing more came of {self._target}") from error
