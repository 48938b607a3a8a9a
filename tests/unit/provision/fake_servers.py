"""What worker.sh talks to, as HTTP servers: a daemon that takes workers, and a Docker engine."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "cpt_" + "t" * 43
JOIN_TOKEN = "SWMTKN-1-" + "j" * 49
NODE_ID = "node0123456789abcdefghijk"
AGENT_IMAGE = "sha256:" + "a" * 64
JOB_IMAGE = "sha256:" + "b" * 64

#: (status, body): bytes as they are, else JSON. None: the connection is closed without a word.
Answer = tuple[int, Any] | None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def _serve(self) -> None:
        path, body = self.path, self._body()
        answer = self.server.answer(self.command, path, body, dict(self.headers))
        if answer is None:
            self.close_connection = True
            return
        status, value = answer
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if data:
            self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def address_string(self) -> str:
        return "a client"

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    answer: Callable[[str, str, bytes, Mapping[str, str]], Answer]


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "docker", 0


class _Serving:
    """A server in a thread of its own, for the length of a `with`."""

    def __init__(self, server: _Server) -> None:
        self.server = server
        server.answer = self.answer
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,))

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        raise NotImplementedError

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


class FakeOrchestrator(_Serving):
    """The daemon's side of docs/protocol.md's provisioning. `answers` overrides it by path."""

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(_Server(("127.0.0.1", 0), _Handler))
        self.port = self.server.server_port
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.answers: dict[str, Answer] = {}
        self.busy = 0  #: how often an image's answer holds
        self.requests: list[tuple[str, str, Any]] = []
        self.tokens_in_headers: list[str | None] = []
        self.status: list[dict[str, Any]] = [
            {"state": "agent", "message": "its agent starts", "job_id": None},
            {"state": "ready", "message": "a job ran here", "job_id": "job-1"},
        ]
        self.plan: dict[str, Any] = {
            "swarm": {
                "join_token": JOIN_TOKEN,
                "manager_addresses": [f"127.0.0.1:{self.port}"],
                "swarm_id": "swarm-1",
            },
            "daemon": {"addresses": ["127.0.0.1:50051"], "url": "ws://127.0.0.1:50051"},
            "worker_root": "/var/lib/cumulus",
            "images": [
                {"name": "cumulus-job:latest", "id": JOB_IMAGE}
                | {"size_bytes": 1000, "registry_reference": None},
                {"name": "cumulus-agent:latest", "id": AGENT_IMAGE}
                | {"size_bytes": 1000, "registry_reference": None},
            ],
            "deny": ["10.7.0.0/16"],
            "units_per_device": 10000,
            "chronos": {"source": None, "sha256": None},
            "remote_api": None,
            "agent_options": {"count_cpu_devices": True},
        }

    def asked(self, path: str) -> list[Any]:
        """The bodies that came to that path."""
        return [body for _, asked, body in self.requests if asked == path]

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.requests.append((method, path, json.loads(body) if body else None))
        if path in self.answers and path.startswith("/provision/images/") and self.busy:
            self.busy -= 1
            answer = self.answers[path]
            if not self.busy:
                del self.answers[path]
            return answer
        if path in self.answers:
            return self.answers[path]
        if path == "/health/live":
            return 200, {"status": "ok"}
        if path == "/provision/join":
            return 200, self.plan
        if path == "/provision/enroll":
            return 200, {"node_id": NODE_ID, "hostname": "bare", "enrolled": True}
        if path == "/provision/status":
            return 200, self.status[0] if len(self.status) == 1 else self.status.pop(0)
        if path == "/provision/leave":
            return 200, {"node_id": NODE_ID, "state": "left"}
        if path == "/provision/firewall.sh":
            return 200, FIREWALL.encode()
        if path.startswith("/provision/images/"):
            self.tokens_in_headers.append(headers.get("Authorization"))
            return 200, b"archive of " + path.rpartition("/")[2].encode()
        return 404, error("there is nothing there")


def error(message: str, hint: str | None = None) -> dict[str, Any]:
    """As the daemon's HTTP API says it."""
    return {"error": message, "message": message, "hint": hint}


#: It notes what it is called with, and is where the real one installs itself.
FIREWALL = """#!/usr/bin/env bash
echo "firewall.sh $*" >>"$FAKE/calls"
[ ! -e "$FAKE/firewall-fails" ] || { echo "firewall: iptables said no"; exit 1; }
copy=$CUMULUS_PROVISION_ROOT/usr/local/lib/cumulus/firewall.sh
if [ "$1" = install ]; then mkdir -p "${copy%/*}"; cp "$0" "$copy"; else rm -f "$copy"; fi
"""


class FakeEngine(_Serving):
    """A Docker engine that a service manager starts and stops by `/_fake/start|restart|stop`."""

    def __init__(self, path: Path, daemon_json: Path) -> None:
        super().__init__(_UnixServer(str(path), _Handler))  # type: ignore[arg-type]
        self._daemon_json = daemon_json
        self.running = False
        self.starts_with: Callable[[dict[str, Any]], bool] = lambda settings: True
        self.settings: dict[str, Any] = {}  #: those that it runs with
        self.starts = 0
        self.images: dict[str, list[str]] = {}
        self.registry: dict[str, str] = {}  #: reference -> image id
        self.swarm = "inactive"
        self.managers: list[str] = []
        self.joins: list[dict[str, Any]] = []
        self.join_error: str | None = None
        self.old_token: str | None = None  #: one that has been changed meanwhile
        self.when_refused: Callable[[], object] = lambda: None
        self.containers: list[dict[str, Any]] = []
        self.version = {"Version": "20.10.24", "ApiVersion": "1.41"}
        self.security_options: list[str] = []
        self.devices: Any = {
            "devices": [
                {"index": 0, "device_id": "uuid-0", "name": "GPU A", "kind": "gpu"},
                {"index": 1, "device_id": "uuid-1", "name": "GPU B", "kind": "gpu"},
            ],
            "reason": None,
        }
        self.chronos_loads = True

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/_fake/"):
            return self._service(parts.path.removeprefix("/_fake/"))
        if not self.running:
            return None
        value = json.loads(body) if headers.get("Content-Type") == "application/json" else None
        match method, *parts.path.strip("/").split("/"):
            case "GET", "_ping":
                return 200, b"OK"
            case "GET", "version":
                return 200, self.version
            case "GET", "info":
                return 200, self._info()
            case "GET", "images", image_id, "json":
                return (200, {}) if image_id in self.images else (404, {"message": "no such image"})
            case "POST", "images", "load":
                self.images.setdefault(body.decode().removeprefix("archive of "), [])
                return 200, {"stream": "Loaded image"}
            case "POST", "images", "create":
                if query["fromImage"] in self.registry:
                    self.images.setdefault(self.registry[query["fromImage"]], [])
                return 200, {"status": "as far as it went"}
            case "POST", "images", image_id, "tag":
                self.images[image_id].append(f"{query['repo']}:{query['tag']}")
                return 201, b""
            case "DELETE", "images", image_id:
                return (200, []) if self.images.pop(image_id, None) is not None else (404, {})
            case "POST", "containers", "create":
                self.containers.append(value)
                return 201, {"Id": str(len(self.containers) - 1)}
            case "POST", "containers", _, "start":
                return 204, b""
            case "POST", "containers", number, "wait":
                return 200, {"StatusCode": self._run(int(number))[0]}
            case "GET", "containers", number, "logs":
                return 200, self._run(int(number))[1].encode()
            case "DELETE", "containers", _:
                return 204, b""
            case "POST", "swarm", "join":
                if self.join_error is not None:
                    return 503, {"message": self.join_error}
                if value["JoinToken"] == self.old_token:
                    self.when_refused()
                    return 400, {"message": "A valid join token is necessary to join this cluster"}
                self.joins.append(value)
                self.swarm, self.managers = "active", value["RemoteAddrs"]
                return 200, b""
            case "POST", "swarm", "leave":
                self.swarm = "inactive"
                return 200, b""
        return 404, {"message": f"page not found: {method} {path}"}

    def _service(self, verb: str) -> Answer:
        self.running = False
        if verb == "stop":
            return 200, b""
        text = self._daemon_json.read_text() if self._daemon_json.exists() else "{}"
        settings = json.loads(text)
        if not self.starts_with(settings):
            return 500, b""
        self.running, self.settings = True, settings
        self.starts += 1
        return 200, b""

    def _info(self) -> dict[str, Any]:
        active = self.swarm == "active"
        managers = [{"Addr": one} for one in self.managers] if active else None
        return {
            "ContainersRunning": 0,
            "DockerRootDir": "/var/lib",
            "SecurityOptions": self.security_options,
            "Swarm": {
                "LocalNodeState": self.swarm,
                "NodeID": NODE_ID if active else "",
                "RemoteManagers": managers,
                "Error": "",
            },
        }

    def _run(self, number: int) -> tuple[int, str]:
        if "cumulusd.agent.show_devices" in self.containers[number]["Cmd"]:
            if isinstance(self.devices, str):
                return 1, self.devices
            return 0, json.dumps(self.devices) + "\r\n"
        return (0, "") if self.chronos_loads else (1, "OSError: version `GLIBC_2.99' not found")
