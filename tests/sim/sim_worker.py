"""A worker's machine: its disk (real files), its agent (the real one), its runners.

Real: `Agent` with `Partitions`, `LedgerFile`, `JobFolders`, `Journal`, `JournalSender`,
`AgentLink`, its connection's flow control, `Calls`, the package fetch. Modelled: the unix socket to
the runner, the look at the drivers, and the loop that dials the daemon.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from autobahn.twisted.websocket import WebSocketClientProtocol
from autobahn.wamp.exception import ApplicationError
from twisted.internet.defer import Deferred

from cumulus_wire.folder import JOURNAL
from cumulusd.agent.agent import Agent
from cumulusd.agent.job_folder import JobFolder, JobFolders
from cumulusd.agent.link import AgentLink, _LinkProtocol
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.partitions import Partitions
from cumulusd.agent.wamp import Calls
from cumulusd.chronos.boot_clock import BootClock
from cumulusd.chronos.devices import Discovered
from cumulusd.chronos.ledger import Device, Ledger
from cumulusd.chronos.ledger_file import LedgerFile
from cumulusd.disk import Disk
from cumulusd.errors import CumulusError
from tests.sim.sim_clock import ProcessClock, SimClock
from tests.sim.sim_network import End, Network
from tests.sim.sim_runner import Runner
from tests.sim.sim_swarm import Container, Node, Swarm

if TYPE_CHECKING:
    from tests.sim.sim_daemon import Daemon

OPTIONS = AgentOptions(
    journal_max_bytes=24 << 10,
    segment_bytes=2 << 10,
    stop_grace_s=1.0,
    expiry_grace_s=10.0,
    start_margin_s=12.0,
    release_wait_s=2.0,
    package_timeout_s=6.0,
)


class Nothing:
    """Stands for what a dead process had: whatever is done with it does nothing."""

    def __getattr__(self, name: str) -> "Nothing":
        return self

    def __call__(self, *arguments: Any, **named: Any) -> "Nothing":
        return self

    def __enter__(self) -> "Nothing":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __await__(self) -> Any:
        return Deferred().__await__()  # a dead process waits for ever


class AgentReactor(ProcessClock):
    """The agent's reactor; it knows its worker, for the socket that replaces the unix one."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.clock)
        self.worker = worker


class SimRunnerSocket:
    """`RunnerSocket` without a socket: the runner is called directly, a moment later."""

    def __init__(
        self,
        reactor: AgentReactor,
        folder: JobFolder,
        attempt: int,
        *,
        poked: Callable[[], None],
        came: Callable[[], None],
        left: Callable[[], None],
        proved: Callable[[str, bool], None] | None = None,
    ) -> None:
        """`proved`: never told, there is no OpenCL layer in here."""
        self._worker = reactor.worker
        self._job_id = folder.job_id
        self._attempt = attempt
        self._poked = poked
        self._came = came
        self._left = left
        self._open = False
        self._runner: Runner | None = None
        self.has_left = False

    @property
    def runner_is_there(self) -> bool:
        return self._runner is not None

    def open(self) -> None:
        self._open = True
        self._worker.sockets[self._job_id] = self

    def close(self) -> None:
        self._open = False
        if self._worker.sockets.get(self._job_id) is self:
            del self._worker.sockets[self._job_id]
        runner, self._runner = self._runner, None
        if runner is not None and runner.clock.alive:
            runner.clock.callLater(0.001, runner.socket_closed)

    def stop(self, reason: str, grace_s: float) -> bool:
        if self._runner is None:
            return False
        self._runner.clock.callLater(0.002, self._runner.stop, reason, grace_s)
        return True

    def pause(self, wanted: bool) -> bool:
        if self._runner is None:
            return False
        self._runner.clock.callLater(0.002, self._runner.pause, wanted)
        return True

    # -- the runner's side

    def takes(self, runner: Runner) -> bool:
        """As the real one: it must be of this job and attempt."""
        return self._open and (runner.job_id, runner.attempt) == (self._job_id, self._attempt)

    def hello(self, runner: Runner) -> None:
        self._runner = runner
        self.has_left = False
        self._came()

    def poked(self) -> None:
        if self._open:
            self._poked()

    def runner_left(self, runner: Runner) -> None:
        if self._runner is runner:
            self._runner = None
            if self._open:
                self.has_left = True
                self._left()


class _Quiet(WebSocketClientProtocol):
    """Stands below the real connection in the place of Autobahn: messages go over a wire."""

    end: End

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def dropConnection(self, abort: bool = False) -> None:
        self.end.close()

    def connectionLost(self, reason: Any = None) -> None:
        pass


class LinkClient(_LinkProtocol, _Quiet):
    """The agent's end of `/agent`: the real one over a simulated wire."""

    def __init__(self, link: AgentLink, clock: ProcessClock, end: End, gone: Any) -> None:
        super().__init__(link, clock)
        self.end = end
        self._told_gone = gone
        self.wasNotCleanReason = "lost"
        self.state = self.STATE_OPEN
        end.heard = lambda message: self.onMessage(message, True)
        end.lost = self._wire_lost

    def write_message(self, message: bytes) -> None:
        self.end.send(message)

    def _wire_lost(self) -> None:
        self.state = self.STATE_CLOSED
        self.connectionLost()
        self._told_gone()


class _Ledger(LedgerFile):
    """The real one, on a disk that may be full."""

    def __init__(self, worker: "Worker", path: Path) -> None:
        super().__init__(path)
        self._worker = worker

    def save(self, ledger: Ledger) -> None:
        super().save(ledger)
        self._worker.ledger = ledger

    def _save(self, ledger: Ledger) -> None:
        # As long as the room that was set aside is held, there is none beside it.
        if self._worker.disk_full and (self._spare.exists() or not self._worker.spare_used):
            self._worker.spare_used = self._spare.exists()
            raise OSError(errno.ENOSPC, "no space left on device")
        self._worker.spare_used = False
        super()._save(ledger)

    def _set_aside(self) -> None:
        if not self._worker.disk_full:
            super()._set_aside()


class _Folders(JobFolders):
    """The same for the jobs' folders."""

    worker: "Worker"

    def create(self, job_id: str) -> JobFolder:
        if self.worker.disk_full:
            raise OSError(errno.ENOSPC, "no space left on device")
        return super().create(job_id)


class _Disk(Disk):
    """Has room, unless the worker's disk is full."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.root, 0)
        self._worker = worker

    def fault(self, wanted_bytes: int = 0) -> str | None:
        return "the disk is full" if self._worker.disk_full else None


class _Discovery:
    def __init__(self, devices: dict[str, Device]) -> None:
        self._devices = devices

    async def look(self) -> Discovered:
        return Discovered(devices=self._devices, reason=None)


class AgentProcess:
    """One life of a worker's agent."""

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.clock = AgentReactor(worker)
        self.link = AgentLink()
        folders = _Folders(worker.root)
        folders.worker = worker
        boot = BootClock(
            boot_id=worker.boot_id, seconds=lambda: self.clock.seconds() - worker.booted_at
        )
        self.agent = Agent(
            self.clock,
            hostname=worker.node.hostname,
            options=OPTIONS,
            folders=folders,
            partitions=Partitions(_Ledger(worker, worker.root / "ledger.json"), boot, OPTIONS),
            discovery=_Discovery(worker.devices),  # type: ignore[arg-type]
            link=self.link,
            disk=_Disk(worker),
            run_in_thread=self._run_in_thread,
        )
        self._folders = folders
        self.agent.open()
        self.calls = Calls(self.agent.verbs())
        self._running: dict[int, Deferred[Any]] = {}
        self._free_at = 0.0
        self._pauses = {"link": 0.1, "session": 0.1}
        Deferred.fromCoroutine(self.agent.discover())
        self.clock.callLater(0.05, self._dial, "link")
        self.clock.callLater(0.06, self._dial, "session")

    def kill(self) -> None:
        """kill -9: nothing more happens, descriptors close, runners see their socket close."""
        self.clock.kill()
        self.worker.clock.burying = True
        self.worker.network.process_died(self.clock)
        agent, nothing = self.agent, Nothing()
        jobs = agent._jobs
        lives = list(jobs)
        jobs._jobs = {}
        self.link.outputs._read = None
        jobs._folders = jobs._link = nothing  # type: ignore[assignment]
        agent._jobs = agent._threads = nothing  # type: ignore[assignment]
        agent._folders = agent._partitions = agent._link = nothing  # type: ignore[assignment]
        for calls in (self.calls.stop(), agent._tasks.stop()):
            Deferred.fromCoroutine(calls)
        for live in lives:
            live.close()
        self._folders.close()
        self.worker.clock.burying = False

    def _run_in_thread(self, work: Callable[[], None]) -> Deferred[None]:
        """At once, known a moment later."""
        work()
        return self.clock.later(self.worker.random.uniform(0.0002, 0.003))

    # -- dialling

    def _dial(self, what: str) -> None:
        daemon = self.worker.find_daemon()
        wire = None
        if daemon is not None:
            wire = self.worker.network.connect(self.worker.node_id, self.clock, daemon.clock)
        if wire is None or daemon is None:
            self._again(what)
            return
        near, far = wire.ends
        if what == "link":
            client = LinkClient(self.link, self.clock, near, lambda: self._again("link"))
            far.heard = lambda message: None
            daemon.accept_link(self.worker.node_id, far)
            self.clock.callLater(wire.latency(), self._link_up, client)
        else:
            near.heard = lambda message: self._told(near, message)
            near.lost = lambda: self._again("session")
            self.clock.callLater(wire.latency() * 4, self._join, daemon, wire)

    def _link_up(self, client: LinkClient) -> None:
        if client.end.open:
            self._pauses["link"] = 0.1
            client.onOpen()

    def _join(self, daemon: "Daemon", wire: Any) -> None:
        """All verbs are registered, unless an older session of ours still holds the names."""
        near, far = wire.ends
        if not near.open or not far.open or wire.stalled or not daemon.clock.alive:
            near.close()
            return
        if daemon.accept_session(self.worker.node_id, far):
            self._pauses["session"] = 0.1
        else:
            near.close()

    def _again(self, what: str) -> None:
        pause_s = self._pauses[what]
        self._pauses[what] = min(2.0, pause_s * 2)
        self.clock.callLater(pause_s * (0.5 + self.worker.random.random() / 2), self._dial, what)

    # -- calls

    def _told(self, end: End, message: Any) -> None:
        kind, number, *rest = message
        if kind == "call":
            verb, kwargs, late_s = rest
            # A slow agent is late with all that follows, too: a session keeps its order.
            self._free_at = max(self._free_at, self.clock.seconds() + late_s)
            if self._free_at > self.clock.seconds():
                pause_s = self._free_at - self.clock.seconds()
                self.clock.callLater(pause_s, self._start, end, number, verb, kwargs)
            else:
                self._start(end, number, verb, kwargs)
        else:
            running = self._running.get(number)
            if running is not None:
                running.cancel()

    def _start(self, end: End, number: int, verb: str, kwargs: dict[str, Any]) -> None:
        running = self.calls.start(verb, (), kwargs)
        self._running[number] = running

        def ended(result: Any) -> None:
            self._running.pop(number, None)
            if not self.clock.alive:
                return
            self.worker.call_ended(verb, kwargs)
            if isinstance(result, dict):
                end.send(("result", number, result))
                return
            error = result.value
            if isinstance(error, ApplicationError):
                end.send(("error", number, error.error, list(error.args), dict(error.kwargs)))
            else:  # cancelled: the caller has gone
                end.send(("error", number, "wamp.error.canceled", [], {}))

        running.addBoth(ended)


class Worker:
    """One node of the Swarm."""

    def __init__(
        self,
        node: Node,
        root: Path,
        *,
        clock: SimClock,
        random: Random,
        network: Network,
        swarm: Swarm,
        device_count: int,
        find_daemon: "Callable[[], Daemon | None]",
        call_ended: Callable[[str, dict[str, Any]], None],
        make_runner: "Callable[[Worker, Container], Runner]",
        violation: Callable[[str], None],
    ) -> None:
        self.node = node
        self.node_id = node.node_id
        self.root = root
        self.clock = clock
        self.random = random
        self.network = network
        self.swarm = swarm
        self.find_daemon = find_daemon
        self.call_ended = call_ended
        self.violation = violation
        self._make_runner = make_runner
        self.devices = {
            f"{node.node_id}-d{index}": Device(
                device_id=f"{node.node_id}-d{index}",
                index=index,
                name="Sim GPU",
                kind="gpu",
                memory_bytes=1 << 34,
            )
            for index in range(device_count)
        }
        self.boot_id = f"{node.node_id}-boot-1"
        self.booted_at = clock.now - 100.0
        self.wall_offset_s = 0.0
        self.disk_full = False
        self.spare_used = False  #: the ledger's room was given up for the save under way
        self.ledger = Ledger()  #: as it is on disk
        self.agent: AgentProcess | None = None
        self.sockets: dict[str, SimRunnerSocket] = {}
        self.runners: list[Runner] = []
        root.mkdir()

    def run(self, container: Container) -> Runner:
        """What is in that container."""
        runner = self._make_runner(self, container)
        self.runners.append(runner)
        return runner

    def runner_died(self, runner: Runner) -> None:
        self.runners.remove(runner)

    def socket_of(self, runner: Runner) -> SimRunnerSocket | None:
        """Where it says hello; None: nobody listens there."""
        socket = self.sockets.get(runner.job_id)
        return socket if socket is not None and socket.takes(runner) else None

    def start_agent(self) -> None:
        if self.agent is None and self.node.engine_up:
            try:
                self.agent = AgentProcess(self)
            except CumulusError:
                # The process ends, and the Swarm starts another.
                self.clock.callLater(1.0, self.start_agent)

    def kill_agent(self) -> None:
        if self.agent is not None:
            agent, self.agent = self.agent, None
            agent.kill()

    def lose_power(self) -> None:
        """Everything here dies; the newest of what no fsync covered may be lost."""
        dying = list(self.runners)
        self.kill_agent()
        self.swarm.engine_died(self.node, power=True)
        for runner in dying:
            self._tear(runner)

    def power_back(self) -> None:
        number = int(self.boot_id.rpartition("-")[2]) + 1
        self.boot_id = f"{self.node_id}-boot-{number}"
        self.booted_at = self.clock.now
        self.swarm.engine_back(self.node)

    def leftovers(self) -> list[str]:
        """What is on its disk though no job should be."""
        found = [f"folder {name}" for name in sorted(os.listdir(self.root / "jobs"))]
        found += [f"trash {name}" for name in sorted(os.listdir(self.root / "trash"))]
        found += [f"kept folder {name}" for name in sorted(os.listdir(self.root / "kept"))]
        found += [f"partition of {job_id}" for job_id, _ in self.ledger.partitions]
        return found

    def _tear(self, runner: Runner) -> None:
        large = self.root / "kept" / runner.job_id / "outputs" / "large"
        if large.is_file() and self.random.random() < 0.5:
            os.truncate(large, self.random.randint(0, large.stat().st_size))
        folder = runner.path / JOURNAL
        if not folder.is_dir() or self.random.random() < 0.4:
            return
        last = max(folder.iterdir(), default=None)
        if last is None:
            return
        size = last.stat().st_size
        kept = self.random.randint(0, size)
        os.truncate(last, kept)
        end = int(last.stem) + kept
        if end < len(runner.journal.data):
            runner.journal.torn_at = min(end, runner.journal.torn_at or end)
