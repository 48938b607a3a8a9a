"""One life of the daemon: the real parts, put together as `assembly` does, on simulated ports.

Real: everything in `cumulusd.jobs`, `AgentWorkers`, `SwarmPlatform`, the desk end of `/agent`,
`Relay`. Modelled: the writer thread of `Store` (its transactions are real, on SQLite in memory),
threads (work is done at once, its end is told later), the router (`call`), the Engine API's HTTP.
"""

import os
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from cumulus_wire import link as wire
from cumulus_wire import uris
from cumulusd.disk import Disk as RealDisk
from cumulusd.errors import CumulusError, Unavailable
from cumulusd.identity import Principal, Role
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.history import History
from cumulusd.jobs.intake import Intake
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import Phase
from cumulusd.jobs.output_pull import OutputPull
from cumulusd.jobs.outputs import Outputs
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.secret_values import SecretValues
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.store import Store
from cumulusd.jobs.store_file import StoreFile
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.table import JobTable
from cumulusd.jobs.watcher import Watcher
from cumulusd.protocol.local_session import _rebuild
from cumulusd.relay import Relay
from cumulusd.steady_time import steady_wall_clock
from cumulusd.submissions import SubmitLimits
from cumulusd.swarm.platform import SwarmPlatform
from cumulusd.swarm.service_spec import JobSettings
from cumulusd.web.agent_connection import AgentConnection
from cumulusd.web.agent_link import AgentLinkFactory
from cumulusd.workers.workers import AgentWorkers, Timeouts
from tests.sim.sim_clock import BEGIN_UNIX_S, ProcessClock, Timer
from tests.sim.sim_network import End
from tests.sim.sim_swarm import IMAGE, ManagerApi

if TYPE_CHECKING:
    from tests.sim.sim_world import World

_T = TypeVar("_T")

SETTINGS = Settings(
    cancel_grace_s=0.5,
    stop_grace_s=1.0,
    agent_grace_s=8.0,
    start_timeout_s=6.0,
    runner_margin_s=4.0,
    launch_timeout_s=6.0,
    watch_interval_s=1.0,
    reap_interval_s=10.0,
)
TIMEOUTS = Timeouts(prepare_s=8.0, release_s=4.0, ask_s=2.0, refresh_s=10.0)
JOURNAL_CAP_BYTES = 12 << 10
JOURNAL_SEGMENT_BYTES = 1 << 10
CALL_PREFIX = "cumulus.agent."


class Disk:
    """What outlives a daemon: its store, and the folder with its journals and packages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        #: Bytes of each journal file that an fsync has covered.
        self.synced: dict[str, int] = {}
        self.full = False
        self.sync_fails = False
        self.slow_s = 0.0  #: how much longer each write takes at most

    def lose_power(self, random: Any) -> None:
        """What no fsync covered is gone, wholly, in part, or not at all."""
        for folder in sorted((self.root / "journals").iterdir()):
            for path in sorted(folder.iterdir()):
                size, synced = path.stat().st_size, self.synced.get(str(path), 0)
                if size > synced and random.random() < 0.7:
                    os.truncate(path, random.randint(synced, size))
                    if path.stat().st_size == 0 and random.random() < 0.5:
                        path.unlink()

        for part in sorted((self.root / "outputs").glob("*/*.part")):
            os.truncate(part, random.randint(0, part.stat().st_size))
            with part.open("ab") as file:
                file.write(bytes(random.randint(0, 1000)))  # its length may be there without bytes


class _Connection:
    """The one connection to the store in memory; closing it closes nothing."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def close(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class _StoreFile(StoreFile):
    def __init__(self, path: Path, disk: Disk) -> None:
        super().__init__(path)
        self._disk = disk

    def lock(self) -> None:
        pass

    def connect(self) -> sqlite3.Connection:
        return _Connection(self._disk.database)  # type: ignore[return-value]


class SimStore(Store):
    """The real store, whose writer is a timer."""

    def __init__(
        self, disk: Disk, clock: ProcessClock, boundary: Callable[[str, str], None], latency: Any
    ) -> None:
        super().__init__(disk.root / "jobs.sqlite3", lambda call, *arguments: call(*arguments))
        self._file = _StoreFile(self._path, disk)
        self._disk = disk
        self._clock = clock
        self._boundary = boundary
        self._latency = latency
        self._pending = False
        self._probing: Timer | None = None

    def start(self) -> None:
        pass

    def _change(self, texts: dict[str, str | None]) -> Deferred[None]:
        waiting = super()._change(texts)
        if not self._pending:
            self._pending = True
            self._clock.callLater(self._latency(), self._write_all)
        return waiting

    def _write_all(self) -> None:
        self._pending = False
        job_id = next(iter(self._changes), "")
        self._boundary("save.before", job_id)
        if not self._clock.alive or not self._changes:
            return
        changes = self._take()
        outcome = self._commit(changes)
        self._boundary("save.done", job_id)
        if self._clock.alive:
            self._settle(changes, outcome)
            self._boundary("save.answered", job_id)

    def _commit(self, changes: Any) -> Any:
        if not self._disk.full:
            return super()._commit(changes)
        failure = self._note_failure(sqlite3.OperationalError("disk is full"), changes)
        self._probe_later()
        return failure

    def _probe_later(self) -> None:
        """While the disk refuses it is tried again, also when nothing waits to be saved."""
        if self._probing is None and not self._stopping:
            self._probing = self._clock.callLater(self._probe_interval_s, self._probe)

    def _probe(self) -> None:
        self._probing = None
        if self._trouble is not None and not self._pending:
            self._commit({})

    async def stop(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
        if self._changes:
            self._write_all()
        self._stopping = True


class _Quiet(WebSocketServerProtocol):
    """Stands below the real connection in the place of Autobahn: messages go over a wire."""

    end: End

    def connectionMade(self) -> None:
        pass

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def dropConnection(self, abort: bool = False) -> None:
        self.end.close()

    def connectionLost(self, reason: Any = None) -> None:
        pass


class LinkServer(AgentConnection, _Quiet):
    """The daemon's end of `/agent`: the real one over a simulated wire."""

    def __init__(self, owner: AgentLinkFactory, end: End, node_id: str, world: "World") -> None:
        super().__init__(owner)
        self.end = end
        self.node_id = node_id
        self._world = world
        self.wasNotCleanReason = "lost"
        self.state = self.STATE_OPEN
        end.heard = lambda message: self.onMessage(message, True)
        end.lost = self._wire_lost
        self.connectionMade()
        self.onOpen()

    def _wire_lost(self) -> None:
        self.state = self.STATE_CLOSED
        self.connectionLost()

    def write_message(self, message: bytes) -> None:
        header, _ = wire.decode(message)
        if header["t"] in ("ack", "from"):
            self._world.acknowledged(header["job"], header["offset"])
        self.end.send(message)

    def _send_ping(self) -> None:
        self._silence.heard()  # of pings that nothing answers the wire knows (`End.give_up`)


class Daemon:
    """Made at a start; `kill` it, or `stop` it in order."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.clock = clock = ProcessClock(world.clock)
        self._random = world.random
        self._sessions: dict[str, End] = {}
        self._calls: dict[int, tuple[Deferred[Any], str]] = {}
        self._last_call = 0
        self.stopping = False
        self.wall_clock = steady_wall_clock(
            lambda: BEGIN_UNIX_S + world.clock.now + world.wall_offset_s, clock.seconds
        )
        disk = world.disk
        self.store = SimStore(disk, clock, world.boundary, self._disk_s)
        self.records = self.store.load()
        self._room = RealDisk(disk.root, 0)
        self.table = JobTable()
        self.packages = Packages(
            disk.root / "packages",
            run_in_thread=self._run_in_thread,
            max_package_bytes=1 << 20,
            wall_clock=self.wall_clock,
        )
        self.workers = AgentWorkers(self.call, clock, environment={}, timeouts=TIMEOUTS)
        self.platform = SwarmPlatform(
            engine=ManagerApi(  # type: ignore[arg-type]
                world.swarm,
                clock,
                world.random,
                lambda: world.manager_up,
                lambda: world.manager_late_s,
                world.boundary,
                world.refusal_of_manager,
            ),
            clock=clock,
            settings=JobSettings(instance_id="sim", worker_root=str(world.workers_root)),
            image=IMAGE,
        )
        self.tails = LogTails()
        self.journals = Journals(
            disk.root / "journals",
            clock=clock,
            run_in_thread=self._run_in_thread,
            cap_bytes=JOURNAL_CAP_BYTES,
            segment_bytes=JOURNAL_SEGMENT_BYTES,
            on_durable=self._acknowledge,
        )
        self.outputs = Outputs(disk.root / "outputs", run_in_thread=self._run_in_thread)
        self.supervisor = Supervisor(
            table=self.table,
            store=self.store,
            journals=self.journals,
            tails=self.tails,
            platform=self.platform,
            workers=self.workers,
            clock=clock,
            wall_clock=self.wall_clock,
            settings=SETTINGS,
            is_storing=lambda job_id: self.intake.is_storing(job_id),
            secrets=SecretValues(disk.root / "secrets", self._run_in_thread),
        )
        self.intake = Intake(
            table=self.table,
            journals=self.journals,
            packages=self.packages,
            tails=self.tails,
            clock=clock,
            tell=self.supervisor.tell,
            nudge=self.supervisor.nudge,
            named=self.supervisor.placing.named,
            acknowledge=self._acknowledge,
            pull=OutputPull(
                outputs=self.outputs,
                source=lambda *asked: self.link.fetch(*asked),
                clock=clock,
                run_in_thread=self._run_in_thread,
                agent_grace_s=SETTINGS.agent_grace_s,
                max_bytes=1 << 20,
            ),
        )
        self.link = AgentLinkFactory(lambda header: None, self, clock)
        self.watcher = Watcher(
            table=self.table,
            journals=self.journals,
            platform=self.platform,
            workers=self.workers,
            clock=clock,
            settings=SETTINGS,
            tell=self.supervisor.tell,
            named=self.supervisor.placing.named,
        )
        self.history = History(
            table=self.table,
            store=self.store,
            journals=self.journals,
            packages=self.packages,
            outputs=self.outputs,
            clock=clock,
            wall_clock=self.wall_clock,
            settings=SETTINGS,
        )
        self.relay = Relay(
            table=self.table,
            journals=self.journals,
            packages=self.packages,
            outputs=self.outputs,
            supervisor=self.supervisor,
            parts=dict,
            clock=clock,
            wall_clock=self.wall_clock,
            limits=SubmitLimits(),
            platform_name=self.platform.name,
            forget=self._forget,
            no_room=self._no_room,
        )
        self.table.watch(world.record_changed)

    # -- life

    def start(self) -> None:
        self.store.start()
        self.supervisor.resume(self.records)
        for one in self.records:
            if isinstance(one, EndedJob):  # shown from now on, though nobody is told
                self.world.record_changed(None, one.record())
        for record in self.records:
            if record.phase is not Phase.ENDED:
                self.intake.resume(record)
        self.supervisor.placing.start()
        self.watcher.start()
        self.history.start()

    def kill(self) -> None:
        """Nothing of it reaches the world any more. `tidy` frees what is left, a moment later."""
        self.clock.kill()
        self.world.network.process_died(self.clock)

    def tidy(self) -> None:
        """Ends coroutines and closes descriptors of a killed daemon."""
        self.world.clock.burying = True
        for part in self._stops():
            Deferred.fromCoroutine(part())
        self.world.clock.burying = False
        files = self.journals._files
        for folder in list(files._open):
            files.close(folder)

    def stop(self) -> Deferred[None]:
        """In order, as tap does."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.stopping = True
        self.relay.close()
        for end in list(self._sessions.values()):
            end.close()
        await self.link.stop()
        for part in self._stops():
            await part()
        await self.journals.stop()
        await self.store.stop()

    def _stops(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        return (
            self.watcher.stop,
            self.history.stop,
            self.supervisor.stop,
            self.intake.stop,
            self.workers.stop,
            self.platform.close,
        )

    # -- the agents' desk: the intake, looked at by the world

    def offered(self, node_id: str, job_id: str, attempt: int, start: int, end: int) -> int | None:
        return self.intake.offered(node_id, job_id, attempt, start, end)

    def received(self, node_id: str, job_id: str, attempt: int, offset: int, data: bytes) -> bool:
        taken = self.intake.received(node_id, job_id, attempt, offset, data)
        self.world.received(job_id, self.journals._journals.get(job_id))
        return taken

    def lock_free(self, node_id: str, job_id: str, attempt: int) -> None:
        self.intake.lock_free(node_id, job_id, attempt)

    async def read_package(
        self, node_id: str, sha256: str, offset: int, length: int
    ) -> tuple[bytes, int]:
        return await self.intake.read_package(node_id, sha256, offset, length)

    # -- what agents come to

    def accept_link(self, node_id: str, end: End) -> None:
        if self.stopping:
            end.close()
        else:
            LinkServer(self.link, end, node_id, self.world)

    def accept_session(self, node_id: str, end: End) -> bool:
        """False while an older session of that node isn't missed yet."""
        if node_id in self._sessions or self.stopping:
            return False
        self._sessions[node_id] = end
        end.heard = self._answered
        end.lost = lambda: self._session_lost(node_id)
        self._registered(node_id, True)
        return True

    def has_agent(self, node_id: str) -> bool:
        return node_id in self._sessions

    def _registered(self, node_id: str, there: bool) -> None:
        who = Principal(name=node_id, owner="agents", role=Role.AGENT, node_id=node_id)
        for verb in uris.AGENT_VERBS:
            self.workers.registration_changed(uris.agent_procedure(node_id, verb), who, there)

    def _session_lost(self, node_id: str) -> None:
        del self._sessions[node_id]
        self._registered(node_id, False)
        for number, (answer, whose) in list(self._calls.items()):
            if whose == node_id:
                del self._calls[number]
                answer.errback(Unavailable(f"the agent of {node_id} was lost"))

    # -- the router

    async def call(self, uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """`LocalSession.call` over a simulated wire."""
        node_id, _, verb = uri.removeprefix(CALL_PREFIX).rpartition(".")
        job_id = str(kwargs.get("job_id") or "")
        self.world.boundary(f"{verb}.before", job_id)
        end = self._sessions.get(node_id)
        if end is None:
            raise Unavailable(f"{uri}: no callee")
        self._last_call += 1
        number = self._last_call
        timed_out = False

        def give_up(_: object) -> None:
            self._calls.pop(number, None)
            end.send(("interrupt", number))

        def time_out() -> None:
            nonlocal timed_out
            timed_out = True
            answer.cancel()

        answer: Deferred[Any] = Deferred(give_up)
        self._calls[number] = (answer, node_id)
        timer = self.clock.callLater(timeout_s, time_out)
        late_s, twice = self.world.call_fault(node_id)
        for _ in range(2 if twice else 1):
            end.send(("call", number, verb, _plain(kwargs), late_s))
        try:
            message = await answer
        except CancelledError:
            if not timed_out:
                raise
            raise Unavailable(f"{uri} did not answer within {timeout_s:g} s") from None
        finally:
            if timer.active():
                timer.cancel()
        self.world.boundary(f"{verb}.answered", job_id)
        if message[0] == "error":
            error = SimpleNamespace(error=message[2], args=message[3], kwargs=message[4])
            raise _rebuild(uri, error, job_id or None)
        result: dict[str, Any] = message[2]
        return result

    def _answered(self, message: Any) -> None:
        answer, _ = self._calls.pop(message[1], (None, ""))
        if answer is not None:
            answer.callback(message)

    # -- for the parts

    def _acknowledge(self, job_id: str, offset: int) -> None:
        self.link.acknowledge(job_id, offset)

    def _run_in_thread(self, function: Callable[[], _T]) -> Awaitable[_T]:
        """At once, known a moment later."""
        try:
            value = function()
        except OSError as error:
            failure = Failure(error)
            return self.clock.later(0.001).addCallback(lambda _: failure)
        return self.clock.later(self._disk_s()).addCallback(lambda _: value)

    async def _forget(self, job_id: str) -> None:
        """History is not simulated: nobody deletes jobs here."""
        raise AssertionError(job_id)

    def _no_room(self) -> CumulusError | None:
        troubles = {"job store": self.store.healthy, "journals": self.journals.trouble}
        return self._room.refusal(troubles)

    def _disk_s(self) -> float:
        """How long a write takes."""
        return self._random.uniform(5e-4, 4e-3 + self.world.disk.slow_s)


def _plain(value: Any) -> Any:
    """As it comes out of a serialiser: tuples are lists, nothing is shared."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
