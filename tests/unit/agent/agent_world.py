"""A daemon's end for the agent's tests: a router and a desk in memory, on a real unix socket."""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WampWebSocketServerFactory
from autobahn.wamp import message, role
from autobahn.wamp.serializer import CBORSerializer
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import Site

from cumulus_wire import folder as names
from cumulus_wire import journal, uris
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.service import AgentService
from cumulusd.chronos.boot_clock import BootClock
from cumulusd.errors import NotFound, Unavailable
from cumulusd.identity import Principal, Role
from cumulusd.web.agent_connection import LinkLimits
from cumulusd.web.agent_link import AgentLinkFactory

TOKEN = "an-agents-token-of-some-length"
NODE = "node-1"
DEVICE = {
    "platform": "P",
    "name": "Fake card",
    "kind": "gpu",
    "ordinal": 0,
    "memory_bytes": 16 << 30,
    "uuid": "ab" * 16,
    "pci": None,
}
DEVICE_ID = "uuid-" + "ab" * 16
PACKAGE = bytes(range(256)) * 6000  # three ranges
AGENT = Principal(name="a", owner="agents", role=Role.AGENT, node_id=NODE)
CLIENT = Principal(name="c", owner="c", role=Role.CLIENT)


def authenticate(header: str | None) -> Principal | None:
    return {f"Bearer {TOKEN}": AGENT, "Bearer a-clients-token": CLIENT}.get(header or "")


class CallFailed(Exception):
    """An ERROR from the agent."""

    def __init__(self, uri: str, args: Any, kwargs: dict[str, Any]) -> None:
        super().__init__(uri, args, kwargs)
        self.uri, self.kwargs = uri, kwargs


class Router:
    """Just enough of WAMP for one agent."""

    def __init__(self) -> None:
        self.session: RouterSession | None = None
        self.joined = 0
        self.unknown: set[str] = set()  #: verbs that nobody may register here

    async def call(self, verb: str, **kwargs: Any) -> dict[str, Any]:
        assert self.session is not None
        return await self.session.call(uris.agent_procedure(NODE, verb), kwargs)


class RouterSession:
    """ITransportHandler of one connection."""

    _session_id = None
    _authid = None

    def __init__(self, router: Router) -> None:
        self.router = router
        self.transport: Any = None
        self.procedures: dict[str, int] = {}
        self.calls: dict[int, Deferred[dict[str, Any]]] = {}

    def onOpen(self, transport: Any) -> None:
        self.transport = transport

    def onClose(self, was_clean: bool) -> None:
        if self.router.session is self:
            self.router.session = None

    def onMessage(self, received: Any) -> None:
        if isinstance(received, message.Hello):
            assert received.authmethods == ["ticket"]
            self.transport.send(message.Challenge("ticket", {}))
        elif isinstance(received, message.Authenticate):
            if received.signature != TOKEN:
                self.transport.send(message.Abort("wamp.error.not_authorized", "wrong ticket"))
                return
            roles = {"dealer": role.RoleDealerFeatures(), "broker": role.RoleBrokerFeatures()}
            self.transport.send(message.Welcome(7, roles, authid=NODE, authrole="agent"))
        elif isinstance(received, message.Register) and (
            received.procedure.rpartition(".")[2] in self.router.unknown
        ):
            why = "wamp.error.not_authorized"
            self.transport.send(message.Error(message.Register.MESSAGE_TYPE, received.request, why))
        elif isinstance(received, message.Register):
            number = len(self.procedures) + 1
            self.procedures[received.procedure] = number
            self.transport.send(message.Registered(received.request, number))
            if len(self.procedures) == len(uris.ALL_AGENT_VERBS) - len(self.router.unknown):
                self.router.session = self
                self.router.joined += 1
        elif isinstance(received, message.Yield):
            assert not received.args  # answers are keyword arguments
            self.calls.pop(received.request).callback(received.kwargs or {})
        elif isinstance(received, message.Error):
            failed = CallFailed(received.error, received.args, received.kwargs or {})
            self.calls.pop(received.request).errback(failed)

    def call(self, procedure: str, kwargs: dict[str, Any]) -> Deferred[dict[str, Any]]:
        number = len(self.calls) + 1 + id(kwargs) % 100_000
        self.calls[number] = answer = Deferred()
        registration = self.procedures[procedure]
        self.transport.send(message.Invocation(number, registration, kwargs=kwargs))
        return answer


class Desk:
    """Keeps journals as the daemon would: contiguous, acknowledged at frame boundaries."""

    def __init__(self) -> None:
        self.packages: dict[str, bytes] = {}
        self.journals: dict[str, bytearray] = {}
        self.parsers: dict[str, journal.FrameParser] = {}
        self.records: dict[str, list[journal.Record]] = {}
        self.unwanted: set[str] = set()
        self.full: Callable[[str], bool] = lambda job_id: False
        self.refused = 0
        self.free: list[str] = []
        self.order: list[str] = []
        self.acknowledge: Callable[[str, int], None] = lambda job_id, offset: None
        self.acking = True
        self.reading: Callable[[], Awaitable[None]] | None = None

    def add_package(self, data: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        self.packages[sha256] = data
        return {"sha256": sha256, "size_bytes": len(data)}

    def offered(self, node_id: str, job_id: str, attempt: int, start: int, end: int) -> int | None:
        assert node_id == NODE
        if job_id in self.unwanted:
            return None
        self._refuse_when_full(job_id)
        # What isn't whole was in memory only.
        held = self.journals.setdefault(job_id, bytearray())
        parser = self.parsers.setdefault(job_id, journal.FrameParser())
        self.records.setdefault(job_id, [])
        del held[parser.offset :]
        self.parsers[job_id] = journal.FrameParser(parser.offset)
        return parser.offset

    def received(self, node_id: str, job_id: str, attempt: int, offset: int, data: bytes) -> bool:
        if job_id in self.unwanted:
            return False
        self._refuse_when_full(job_id)
        held = self.journals[job_id]
        assert offset == len(held), f"{job_id}: {offset} instead of {len(held)}"
        held += data
        self.order.append(job_id)
        self.records[job_id] += self.parsers[job_id].feed(data)
        if self.acking:
            self.acknowledge(job_id, self.parsers[job_id].offset)
        return True

    def _refuse_when_full(self, job_id: str) -> None:
        if self.full(job_id):
            self.refused += 1
            raise Unavailable("the disk is full", job_id=job_id)

    def lock_free(self, node_id: str, job_id: str, attempt: int) -> None:
        self.free.append(job_id)

    async def read_package(
        self, node_id: str, sha256: str, offset: int, length: int
    ) -> tuple[bytes, int]:
        if self.reading is not None:
            await self.reading()
        if sha256 not in self.packages:
            raise NotFound(f"no package {sha256}")
        data = self.packages[sha256]
        return data[offset : offset + length], len(data)


class World:
    """Daemon's end and agent, each to be stopped and started."""

    def __init__(self, reactor: Any, tmp_path: Path, **options: Any) -> None:
        self.reactor = reactor
        self.root = tmp_path / "agent"
        self.socket = tmp_path / "d.sock"
        self.desk = Desk()
        self.router = Router()
        self.package = self.desk.add_package(PACKAGE)
        self.boot_id = "boot-1"
        self.now_s = 1000.0
        self.token = TOKEN
        self.python = tmp_path / "fake-python"
        self.devices(DEVICE)
        self.options = options
        self.limits = LinkLimits()
        self.service: AgentService | None = None
        self.links: AgentLinkFactory | None = None
        self._port: Any = None

    def devices(self, *devices: Mapping[str, Any], code: str = "") -> None:
        """What the look at the drivers gives. Whole at once: a look may be under way."""
        draft = self.python.with_suffix(".new")
        draft.write_text(
            f"#!/bin/sh\n{code}\ncat <<'END'\n{json.dumps({'devices': devices})}\nEND\n"
        )
        draft.chmod(0o755)
        draft.rename(self.python)

    async def start_daemon(self) -> None:
        self.links = AgentLinkFactory(authenticate, self.desk, self.reactor, self.limits)
        self.desk.acknowledge = self.links.acknowledge
        root = Resource()
        root.putChild(b"agent", self.links.resource())
        factory = WampWebSocketServerFactory(
            lambda: RouterSession(self.router), serializers=[CBORSerializer()]
        )
        root.putChild(b"ws", WebSocketResource(factory))
        site = Site(root)
        site.noisy = False
        endpoint = endpoints.UNIXServerEndpoint(self.reactor, str(self.socket))
        self._port = await endpoint.listen(site)

    async def stop_daemon(self) -> None:
        if self._port is not None:
            await self._port.stopListening()
            self._port = None
        if self.router.session is not None:
            self.router.session.transport.dropConnection(abort=True)
        if self.links is not None:
            await self.links.stop()
        await self.until(lambda: self.router.session is None)

    def start_agent(self) -> None:
        self.service = self.make_service(self.root)
        self.service.startService()

    def make_service(self, root: Path) -> AgentService:
        return AgentService(
            self.reactor,
            endpoints.UNIXClientEndpoint(self.reactor, str(self.socket)),
            self.token,
            NODE,
            "host-1",
            root,
            AgentOptions(
                discovery_python=str(self.python), **{"chronos_backend": "builtin", **self.options}
            ),
            BootClock(boot_id=self.boot_id, seconds=lambda: self.now_s),
        )

    async def stop_agent(self) -> None:
        if self.service is not None:
            await self.service.stopService()
            self.service = None

    async def up(self) -> None:
        """An agent runs and is registered."""
        self.start_agent()
        await self.until(lambda: self.router.session is not None)

    async def down(self) -> None:
        """It has ended, and its session with it."""
        await self.stop_agent()
        await self.until(lambda: self.router.session is None)

    async def restart(self) -> None:
        """Another process of the same agent."""
        await self.down()
        await self.up()

    async def start(self) -> "World":
        await self.start_daemon()
        await self.up()
        return self

    async def stop(self) -> None:
        await self.stop_agent()
        await self.stop_daemon()

    async def until(self, true: Callable[[], object], timeout_s: float = 15.0) -> None:
        """Waits for something to become true."""
        for _ in range(int(timeout_s / 0.01)):
            if true():
                return
            await deferLater(self.reactor, 0.01)
        raise AssertionError("it never became true")

    async def prepare(self, job_id: str = "job-1", **changes: Any) -> dict[str, Any]:
        return await self.router.call("prepare", **{**self.order(job_id), **changes})

    def order(self, job_id: str = "job-1") -> dict[str, Any]:
        return {
            "job_id": job_id,
            "attempt": 1,
            "owner": "alice/../bob",
            "device_id": DEVICE_ID,
            "units": 2500,
            "setup_timeout_s": 60,
            "duration_s": 100,
            "package": self.package,
            "requirements": ["six"],
            "environment": {"A": "b", "CUMULUS_DEVICE_INDEX": "9"},
            "cpu_cores": None,
            "memory_bytes": None,
        }

    def runner(self, job_id: str = "job-1") -> "Runner":
        return Runner(self.root / "jobs" / job_id, job_id)


class Runner:
    """Does in a job's folder what the runner does."""

    def __init__(self, folder: Path, job_id: str, segment_bytes: int = 64 << 10) -> None:
        self.folder = folder
        self.job_id = job_id
        self.segment_bytes = segment_bytes
        self.end = 0
        self.begin = 0
        self.written = b""
        self._lock: int | None = None
        self._socket: socket.socket | None = None

    def lock(self) -> None:
        self._lock = os.open(self.folder / names.LOCK, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def connect(self, attempt: int = 1) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._socket.connect(f"/proc/self/fd/{handle}/{names.SOCKET}")
        finally:
            os.close(handle)
        self._socket.setblocking(False)
        self.say({"t": "hello", "job_id": self.job_id, "attempt": attempt, "pid": os.getpid()})

    def say(self, value: Any) -> None:
        self.say_raw(json.dumps(value).encode() + b"\n")

    def say_raw(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.sendall(data)

    def hear(self) -> bytes | None:
        """What came; None for nothing, b"" when the agent has hung up."""
        assert self._socket is not None
        try:
            return self._socket.recv(65536)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""

    def append(self, data: bytes) -> None:
        """One write, at a frame boundary into the next segment when this one is full."""
        path = self.folder / names.JOURNAL
        path.mkdir(exist_ok=True)
        if self.end - self.begin >= self.segment_bytes:
            self.begin = self.end
        with (path / names.segment_name(self.begin)).open("ab") as file:
            file.write(data)
        self.end += len(data)
        self.written += data

    def print(self, payload: bytes) -> None:
        self.append(journal.encode(journal.Kind.STDOUT, payload))

    def poke(self) -> None:
        self.say({"t": "poke", "end": self.end})

    def segments(self) -> list[str]:
        return sorted(os.listdir(self.folder / names.JOURNAL))

    def close(self) -> None:
        self.unlock()
        self.close_socket()

    def close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def until_runner(world: World) -> None:
    for _ in range(500):
        (entry,) = (await world.router.call("journals"))["journals"]
        if entry["runner"]:
            return
        await deferLater(world.reactor, 0.01)
    raise AssertionError("the runner's hello was not heard")
