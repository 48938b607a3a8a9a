"""Simulated agents: `python -m tests.pool.agents FOLDER PORT DEVICES`, one process for all workers.

Session and link are the real agent's (`cumulusd.agent.wamp`, `cumulusd.agent.link`); what is behind
them is made up in memory. A job prints a line of `LINE` a second for as long as its variable
`POOL_RUN_S` says, then completes. It ends sooner when it is stopped.
"""

import json
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall, react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from cumulus_wire import link as wire
from cumulus_wire.journal import Kind, encode, encode_json
from cumulusd.agent.connection import Connector
from cumulusd.agent.link import AgentLink, link_factory
from cumulusd.agent.wamp import Calls, session_factory
from tests.pool.swarm import UNITS

LINE = b"step 1234567 loss 0.0123 " + b"." * 74 + b"\n"
RUN_S = "POOL_RUN_S"
#: Lines come in so many portions a second, each of another part of the jobs.
PORTIONS = 10
_MEMORY_BYTES = 16 << 30
_CHUNK_BYTES = 256 << 10


class SimJob:
    """One attempt: its journal from the first byte that the daemon has not on disk."""

    def __init__(self, orders: Mapping[str, Any]) -> None:
        self.job_id: str = orders["job_id"]
        self.attempt: int = orders["attempt"]
        self.device_id: str = orders["device_id"]
        self.units: int = orders["units"]
        self.run_s = float(orders["environment"].get(RUN_S, "1e9"))
        self.start: int = orders["journal_start"]
        self.base = self.start
        self.data = bytearray()
        self.sent: int | None = None  #: up to where; None: not asked for
        self.running = self.over = self.dropped = False

    @property
    def end(self) -> int:
        return self.base + len(self.data)


class SimSender:
    """In the place of the agent's `JournalSender`."""

    def __init__(self, link: "SimLink") -> None:
        self._link = link
        self.jobs: dict[str, SimJob] = {}
        self._offers: deque[str] = deque()
        self._turns: dict[str, None] = {}

    def offer(self, job: SimJob) -> None:
        self.jobs[job.job_id] = job
        self._offers.append(job.job_id)

    def said(self, job: SimJob, data: bytes) -> None:
        job.data += data
        if job.sent is not None:
            self._turns[job.job_id] = None

    def connected(self) -> None:
        for job in self.jobs.values():
            job.sent = None
        self._offers.extend(self.jobs)

    def disconnected(self) -> None:
        self._offers.clear()
        self._turns.clear()

    def begin(self, job_id: str, attempt: int, offset: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.attempt == attempt:
            job.sent = offset
            self._turns[job_id] = None
            self._link.wake()

    def ack(self, job_id: str, attempt: int, offset: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.attempt == attempt and offset > job.base:
            del job.data[: offset - job.base]
            job.base = offset
            self._link.progress.fire()

    def drop(self, job_id: str, attempt: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.attempt == attempt:
            job.sent, job.dropped = None, True
            self._link.progress.fire()

    def hold(self, job_id: str, attempt: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None:
            job.sent = None
            self._link.clock.callLater(1.0, self._offer_again, job)

    def _offer_again(self, job: SimJob) -> None:
        if self.jobs.get(job.job_id) is job:
            self._offers.append(job.job_id)
            self._link.wake()

    def next_message(self) -> bytes | None:
        while self._offers:
            job = self.jobs.get(self._offers.popleft())
            if job is not None:
                offer = {"t": "offer", "job": job.job_id, "attempt": job.attempt}
                return wire.encode({**offer, "start": job.base, "end": job.end})
        while self._turns:
            job = self.jobs.get(next(iter(self._turns)))
            if job is None or job.sent is None or job.sent >= job.end:
                del self._turns[next(iter(self._turns))]
                continue
            begin = max(job.sent, job.base) - job.base
            data = bytes(job.data[begin : begin + _CHUNK_BYTES])
            head = {
                "t": "data",
                "job": job.job_id,
                "attempt": job.attempt,
                "offset": begin + job.base,
            }
            job.sent = job.base + begin + len(data)
            return wire.encode(head, data)
        return None


class SimLink(AgentLink):
    """The real link, whose journals are made up."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self.clock = clock
        self.sender: SimSender = SimSender(self)  # type: ignore[assignment]

    def wake(self) -> None:
        self._wake()


class SimAgent:
    """One worker."""

    def __init__(self, pool: "SimPool", node_id: str, token: str) -> None:
        self._pool = pool
        self.node_id = node_id
        self.link = SimLink(pool.reactor)
        self.jobs: dict[str, SimJob] = {}
        verbs = {
            "prepare": self._prepare,
            "release": self._release,
            "partitions": self._partitions,
            "devices": self._devices,
            "journals": self._journals,
            "command": self._command,
        }
        host = f"127.0.0.1:{pool.port}"
        endpoint = TCP4ClientEndpoint(pool.reactor, "127.0.0.1", pool.port, timeout=15)
        calls = Calls(verbs)
        factories = {
            "session": session_factory(pool.reactor, calls, node_id, token, host),
            "link": link_factory(pool.reactor, self.link, token, host),
        }
        for what, factory in factories.items():
            connector = Connector(pool.reactor, endpoint, factory, what=f"{what} of {node_id}")
            Deferred.fromCoroutine(connector.run()).addErrback(pool.failed)

    def begin(self, job_id: str, attempt: int) -> None:
        """Its container has started."""
        job = self.jobs.get(job_id)
        if job is None or job.attempt != attempt or job.running or job.over:
            return
        job.running = True
        say = self.link.sender.said
        say(job, encode_json(Kind.STATUS, {"phase": "setup", "attempt": attempt}))
        say(job, encode_json(Kind.STATUS, {"phase": "running", "cached": True, "requirements": 0}))
        self.link.wake()
        self._pool.add(self, job)

    def print_line(self, job: SimJob) -> None:
        self.link.sender.said(job, encode(Kind.STDOUT, LINE))
        self.link.wake()

    def end(self, job: SimJob, outcome: str = "completed", reason: str | None = None) -> None:
        if job.over:
            return
        job.over, job.running = True, False
        exit_record = {"outcome": outcome, "reason": reason, "message": "", "exit_code": 0}
        self.link.sender.said(job, encode_json(Kind.EXIT, exit_record))
        self.link.wake()
        self._pool.tell({"t": "exit", "job_id": job.job_id, "attempt": job.attempt})
        self.link.lock_free(job.job_id, job.attempt)

    # -- verbs

    async def _prepare(self, orders: Mapping[str, Any]) -> dict[str, Any]:
        package = orders["package"]
        if package["size_bytes"]:
            length = min(package["size_bytes"], wire.MAX_BODY_BYTES)
            await self.link.get(package["sha256"], 0, length)
        job = self.jobs.get(orders["job_id"])
        if job is None or job.attempt != orders["attempt"]:
            job = self.jobs[orders["job_id"]] = SimJob(orders)
            self.link.sender.offer(job)
            self.link.wake()
        index = self._pool.device_index(job.device_id)
        folder = f"/var/lib/cumulus/jobs/{job.job_id}"
        grant = {
            "partition_id": f"part-{job.job_id}",
            "device_id": job.device_id,
            "device_name": "Simulated GPU",
            "device_index": index,
            "units": job.units,
            "gpu_memory_bytes": _MEMORY_BYTES * job.units // UNITS,
            "tier": "advisory",
            "tier_note": "simulated",
            "folder": folder,
            "environment": {},
            "mounts": [[folder, folder, False]],
            "lifetime_s": orders["duration_s"] + 700.0,
        }
        return {"grant": grant, "devices": self._listing()}

    async def _release(self, orders: Mapping[str, Any]) -> dict[str, Any]:
        job = self.jobs.get(orders["job_id"])
        why = None
        if job is not None and job.attempt == orders["attempt"]:
            if job.running:
                why = "its processes run"
            elif not job.dropped and job.base < job.end:
                why = "its journal is on its way"
            else:
                del self.jobs[job.job_id]
                self.link.sender.jobs.pop(job.job_id, None)
                self.link.forget(job.job_id)
        return {"released": why is None, "reason": why, "kept": None, "devices": self._listing()}

    async def _partitions(self, orders: Mapping[str, Any]) -> dict[str, Any]:
        index = self._pool.device_index
        return {
            "partitions": [
                {
                    "job_id": job.job_id,
                    "attempt": job.attempt,
                    "device_index": index(job.device_id),
                    "units": job.units,
                }
                for job in self.jobs.values()
            ]
        }

    async def _devices(self, orders: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "hostname": f"host-{self.node_id}",
            "devices": self._listing(),
            "discovery_error": None,
            "fault": None,
            "chronos": {"backend": "builtin", "fault": None},
            "python_version": None,
        }

    async def _journals(self, orders: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "journals": [
                {
                    "job_id": job.job_id,
                    "attempt": job.attempt,
                    "start": job.base,
                    "end": job.end,
                    "lock_free": not job.running,
                    "runner": job.running,
                }
                for job in self.jobs.values()
            ],
            "kept": [],
        }

    async def _command(self, orders: Mapping[str, Any]) -> dict[str, Any]:
        job = self.jobs.get(orders["job_id"])
        if job is None or not job.running or job.attempt != orders["attempt"]:
            return {"taken": False}
        if orders["command"] == "stop":
            outcome = "cancelled" if orders["reason"] == "cancelled_by_user" else "timeout"
            self.end(job, outcome, orders["reason"])
        return {"taken": True}

    def _listing(self) -> list[dict[str, Any]]:
        found = []
        for index in range(self._pool.device_count):
            device_id = f"{self.node_id}-d{index}"
            held = [job for job in self.jobs.values() if job.device_id == device_id]
            found.append(
                {
                    "device_id": device_id,
                    "index": index,
                    "name": "Simulated GPU",
                    "kind": "gpu",
                    "memory_bytes": _MEMORY_BYTES,
                    "units_total": UNITS,
                    "units_free": UNITS - sum(job.units for job in held),
                    "tier": "advisory",
                    "tier_note": "simulated",
                    "partitions": [
                        {
                            "partition_id": f"part-{job.job_id}",
                            "job_id": job.job_id,
                            "units": job.units,
                            "gpu_memory_bytes": _MEMORY_BYTES * job.units // UNITS,
                            "state": "active",
                            "remaining_s": None,
                        }
                        for job in held
                    ],
                }
            )
        return found


class _Control(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, pool: "SimPool") -> None:
        self._pool = pool

    def lineReceived(self, line: bytes) -> None:
        self._pool.heard(json.loads(line))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._pool.gone()


class SimPool:
    """All agents, and the one timer by which their jobs print."""

    def __init__(self, reactor: Any, port: int, device_count: int) -> None:
        self.reactor = reactor
        self.port = port
        self.device_count = device_count
        self.ended: Deferred[None] = Deferred()
        self._agents: dict[str, SimAgent] = {}
        self._portions: list[dict[str, tuple[SimAgent, SimJob]]] = [{} for _ in range(PORTIONS)]
        self._turn = 0
        self._placed = 0
        self._control: _Control | None = None

    async def run(self, folder: Path) -> None:
        """Until the engine is gone."""
        endpoint = UNIXClientEndpoint(self.reactor, str(folder / "pool.sock"))
        self._control = await connectProtocol(endpoint, _Control(self))
        printing: Any = LoopingCall(self._print)
        printing.clock = self.reactor
        printing.start(1.0 / PORTIONS).addErrback(self.failed)
        await self.ended

    def heard(self, message: Mapping[str, Any]) -> None:
        node_id = message["node_id"]
        if message["t"] == "agent":
            if node_id not in self._agents:
                self._agents[node_id] = SimAgent(self, node_id, message["token"])
        else:
            self._agents[node_id].begin(message["job_id"], message["attempt"])

    def tell(self, message: Mapping[str, Any]) -> None:
        assert self._control is not None
        self._control.sendLine(json.dumps(message).encode())

    def add(self, agent: SimAgent, job: SimJob) -> None:
        """From now on it prints, as long as it runs."""
        self._portions[self._placed % PORTIONS][job.job_id] = (agent, job)
        self._placed += 1
        if job.run_s < 1e8:
            self.reactor.callLater(job.run_s, agent.end, job)

    def device_index(self, device_id: str) -> int:
        return int(device_id.rpartition("-d")[2])

    def failed(self, failure: Failure) -> None:
        if not self.ended.called:
            self.ended.errback(failure)

    def gone(self) -> None:
        if not self.ended.called:
            self.ended.callback(None)

    def _print(self) -> None:
        portion = self._portions[self._turn]
        self._turn = (self._turn + 1) % PORTIONS
        for job_id, (agent, job) in list(portion.items()):
            if job.running:
                agent.print_line(job)
            else:
                del portion[job_id]


def main() -> None:
    """See the module."""
    folder, port, devices = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    react(lambda reactor: Deferred.fromCoroutine(SimPool(reactor, port, devices).run(folder)))


if __name__ == "__main__":
    main()
