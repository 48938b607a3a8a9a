"""Real traffic to begin with: one client's session, one browser's requests, one agent's frames."""

import http.client
import json
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import attrs

from cumulusd.protocol.codec import CODECS, JSON
from tests.e2e.harness import Daemon
from tests.e2e.proxy import Proxy
from tests.fuzz.fuzz_wire import frames_sent

#: No seed is larger: mutations of a large one hit little.
MAX_SEED_BYTES = 16 << 10
#: Stands for a token, so that what was recorded can be replayed by another one.
TOKEN = b"{TOKEN}"
_SCRIPT = """
from cumulus_client import CumulusClient

def work(n):
    print("recorded", n)
    return {"n": n}

with CumulusClient("{PROXY}", api_key="{TOKEN}") as client:
    print(client.submit(work, args=[3], gpu_memory=0.1, duration=60).result(timeout=60))
    client.list_jobs()
    client.list_workers()
    client.get_server_info()
"""


@attrs.define
class Recording:
    """What was seen."""

    package: bytes = b""
    journal: bytes = b""
    messages: list[bytes] = attrs.field(factory=list)  #: of WAMP, as JSON
    requests: list[bytes] = attrs.field(factory=list)  #: of HTTP
    handshakes: list[bytes] = attrs.field(factory=list)
    frames: list[bytes] = attrs.field(factory=list)  #: of WebSocket, a client's
    links: list[bytes] = attrs.field(factory=list)  #: of the agents' link, both ways

    def seeds(self) -> dict[str, list[bytes]]:
        """By the names under which targets look for them."""
        named = {
            "packages": [self.package],
            "journal": [self.journal],
            "wamp": self.messages,
            "http": self.requests,
            "handshakes": self.handshakes,
            "frames": self.frames,
            "agent": self.links,
        }
        return {
            name: [each[:MAX_SEED_BYTES] for each in found if each] for name, found in named.items()
        }


class RecordingProxy(Proxy):
    """Keeps what clients send, by connection."""

    def __init__(self, target_port: int) -> None:
        self.sent: list[bytearray] = []
        self._port = target_port
        super().__init__(target_port)

    def _pump(
        self, source: socket.socket, target: socket.socket, left: threading.Semaphore
    ) -> None:
        tee: Any = target
        if target.getpeername()[1] == self._port:
            self.sent.append(bytearray())
            tee = _Tee(target, self.sent[-1])
        super()._pump(source, tee, left)


class _Tee:
    """A socket that keeps a copy."""

    def __init__(self, target: socket.socket, copy: bytearray) -> None:
        self._target = target
        self._copy = copy

    def sendall(self, data: bytes) -> None:
        self._copy += data
        self._target.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def record(daemon: Daemon, token: str) -> Recording:
    """Runs a job and asks for everything, by way of a proxy. What fails here raises."""
    found = Recording()
    with RecordingProxy(daemon.port) as proxy:
        daemon.run(_SCRIPT.replace("{PROXY}", proxy.url).replace("{TOKEN}", token), timeout_s=120)
        package = next(path for path in (daemon.state_dir / "packages").iterdir() if path.is_file())
        found.package = package.read_bytes()
        folder = next(path for path in (daemon.state_dir / "journals").iterdir() if path.is_dir())
        found.journal = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
        _ask_for_everything(proxy.url, folder.name, token)
        sent = [bytes(each).replace(token.encode(), TOKEN) for each in proxy.sent]
    for data in sent:
        head, _, rest = data.partition(b"\r\n\r\n")
        if b"upgrade: websocket" in head.lower():
            found.handshakes.append(head + b"\r\n\r\n")
            codec = next(each for name, each in CODECS.items() if name.encode() in head)
            for whole, opcode, payload in frames_sent(rest):
                found.frames.append(whole)
                if opcode in (1, 2):
                    message = codec.decode(payload, opcode == 2)
                    found.messages.append(JSON.encode(message).replace(token.encode(), TOKEN))
        else:
            found.requests.append(data)
    links = daemon.folder / "links"
    if links.exists():
        found.links = [bytes.fromhex(line) for line in links.read_text().split()]
    return found


def _ask_for_everything(url: str, job_id: str, token: str) -> None:
    from tests.fuzz.fuzz_zips import form

    boundary = "recorded"
    code = form({"gpu_memory": b"7", "duration": b"1", "job_id": b"x"}, b"no zip", boundary)
    job = f"/api/jobs/{job_id}"
    of_form = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    of_json = {"Content-Type": "application/json"}
    value = json.dumps({"code": "UEsFBg==", "gpu_memory": 2, "requirements": ["six"]}).encode()
    asked: list[tuple[str, str, bytes | None, dict[str, str]]] = [
        ("GET", "/health", None, {}),
        ("GET", "/metrics", None, {}),
        ("GET", "/api/info", None, {}),
        ("GET", "/api/workers", None, {}),
        ("GET", "/api/jobs?active=1&limit=5", None, {}),
        ("GET", job, None, {}),
        ("HEAD", f"{job}/results", None, {"Range": "bytes=0-3"}),
        ("GET", f"{job}/logs", None, {}),
        ("GET", f"{job}/logs?follow=1&from_offset=0", None, {"Accept": "text/event-stream"}),
        ("GET", f"{job}/logs", None, {"Accept": "text/event-stream", "Last-Event-ID": "0"}),
        ("GET", f"{job}/outputs/a/b.txt", None, {"Range": "bytes=-5"}),
        ("GET", f"{job}/checkpoints", None, {}),
        ("POST", f"{job}/cancel", b"{}", of_json),
        ("POST", "/api/jobs", code, of_form),
        ("POST", "/api/jobs", value, of_json),
    ]
    host = urlsplit(url).netloc
    for method, path, body, headers in asked:
        connection = http.client.HTTPConnection(host, timeout=20)
        try:
            all_headers = {"Authorization": f"Bearer {token}", **headers}
            connection.request(method, path, body, all_headers)
            connection.getresponse().read()
        finally:
            connection.close()
