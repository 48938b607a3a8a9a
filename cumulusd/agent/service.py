"""The agent as a service: on a worker by itself, or inside the daemon for the local platform."""

import fcntl
import os
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from cumulusd.agent.agent import Agent
from cumulusd.agent.ca_bundle import install_bundle
from cumulusd.agent.connection import Connector
from cumulusd.agent.engine_metrics import EngineMetrics
from cumulusd.agent.job_folder import JobFolders
from cumulusd.agent.link import AgentLink, link_factory
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.partitions import Partitions
from cumulusd.agent.wamp import Calls, session_factory
from cumulusd.chronos.boot_clock import BootClock, system_boot_clock
from cumulusd.chronos.discovery import Discovery
from cumulusd.chronos.ledger_file import LedgerFile
from cumulusd.chronos.libchronos import BUILTIN, LIBCHRONOS, Libchronos
from cumulusd.disk import Disk
from cumulusd.errors import Conflict, CumulusError, InternalError
from cumulusd.tasks import Signal, Tasks, sleep, wait_at_most

LEDGER = "ledger.json"
#: How long the session waits for the first look at the drivers: one that hangs must not keep a
#: worker away whose devices are known from before.
FIRST_LOOK_S = 5.0
#: Something that was there is missing: how soon it is looked for again.
SECOND_LOOK_S = 5.0
_ROOT_LOCK = "agent.lock"


class AgentService(Service):
    """Starting it takes up what is in `root` and connects; stopping it leaves the jobs running.

    `reactor`: IReactorTime, IReactorProcess, IReactorThreads and IReactorFDSet. `endpoint`: where
    the daemon's port is. `root`: the agent's own folder; one agent at a time uses it.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamClientEndpoint,
        token: str,
        node_id: str,
        hostname: str,
        root: Path,
        options: AgentOptions | None = None,
        boot_clock: BootClock | None = None,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._token = token
        self._node_id = node_id
        self._hostname = hostname
        self._root = root.absolute()
        self._options = options or AgentOptions()
        self._boot_clock = boot_clock
        self._tasks = Tasks()
        self._agent: Agent | None = None
        self._calls: Calls | None = None
        self._root_lock: int | None = None
        self._looked = Signal()
        self._has_looked = False

    def startService(self) -> None:
        """Raises CumulusError when the folder or the ledger can't be used."""
        if self._agent is not None:
            return
        self._root_lock = _lock_root(self._root)
        try:
            link = AgentLink()
            agent = self._make(link)
            agent.open()
        except BaseException:
            self._unlock_root()
            raise
        self._agent = agent
        self._has_looked = False
        engine = EngineMetrics(self._reactor, self._options.engine_metrics)
        self._calls = Calls({**agent.verbs(), "metrics": engine.tell})
        self._tasks.start(
            Connector(
                self._reactor,
                self._endpoint,
                link_factory(self._reactor, link, self._token, self._options.host),
                what="the agent's bulk link",
            ).run(),
            "the agent's bulk link",
        )
        self._tasks.start(self._look(agent), "looking at the drivers")
        self._tasks.start(self._serve(agent, self._calls), "the agent's session")
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[None]:
        """Fires when sockets and links are closed."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def _make(self, link: AgentLink) -> Agent:
        options, reactor = self._options, self._reactor
        ca_bundle = None
        if options.ca_bundle is not None:
            ca_bundle = str(install_bundle(options.ca_bundle, self._root))
        clock = self._boot_clock or system_boot_clock()
        return Agent(
            reactor,
            hostname=self._hostname,
            options=options,
            folders=JobFolders(self._root, options.job_uid, options.job_gid),
            partitions=Partitions(LedgerFile(self._root / LEDGER), clock, options),
            discovery=Discovery(
                reactor,
                selection=options.selection,
                timeout_s=options.discovery_timeout_s,
                python=options.discovery_python,
            ),
            link=link,
            disk=Disk(self._root, options.min_free_bytes),
            run_in_thread=lambda work: deferToThreadPool(reactor, reactor.getThreadPool(), work),
            libchronos=self._libchronos(),
            ca_bundle=ca_bundle,
        )

    def _libchronos(self) -> Libchronos | None:
        options = self._options
        if options.chronos_backend == BUILTIN:
            return None
        library = options.chronos_library
        # Where provision/worker.sh puts it: of the worker, an agent in a container sees this alone.
        provided = self._root / "lib" / "libchronos.so"
        if library is None and provided.is_file():
            library = str(provided)
        return Libchronos(
            self._reactor,
            required=options.chronos_backend == LIBCHRONOS,
            python=sys.executable,
            library=library,
            locks=options.chronos_locks,
            start_s=options.discovery_timeout_s,
        )

    async def _serve(self, agent: Agent, calls: Calls) -> None:
        """The session comes after the first look at the drivers, within a bound: before, the daemon
        would take a new worker for one without devices."""
        if not self._has_looked:
            await wait_at_most(self._reactor, FIRST_LOOK_S, self._looked.wait())
        factory = session_factory(
            self._reactor, calls, self._node_id, self._token, self._options.host
        )
        connector = Connector(self._reactor, self._endpoint, factory, what="the agent's session")
        self._tasks.start(connector.run(), "the agent's session")

    async def _look(self, agent: Agent) -> None:
        """Looks at the drivers, again and again."""
        while True:
            pause_s = self._options.discovery_interval_s
            try:
                if await agent.discover():
                    pause_s = min(pause_s, SECOND_LOOK_S)
            except CumulusError as error:
                # The ledger could not be written: what was known stays, the next look tries again.
                self._log.error("{error}; {hint}", error=error, hint=error.hint)
            except CancelledError:
                raise
            except Exception:
                # One bad look must not be the last.
                self._log.failure("looking at the drivers failed, going on")
            self._has_looked = True
            self._looked.fire()
            await sleep(self._reactor, pause_s)

    async def _stop(self) -> None:
        agent, self._agent = self._agent, None
        if agent is None:
            return
        await self._tasks.stop()
        if self._calls is not None:
            await self._calls.stop()
        await agent.close()
        self._unlock_root()

    def _unlock_root(self) -> None:
        if self._root_lock is not None:
            os.close(self._root_lock)
            self._root_lock = None


def _lock_root(root: Path) -> int:
    """The descriptor that keeps other agents out of the folder."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / _ROOT_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InternalError(
            f"the agent's folder {root} can't be used: {error}",
            hint="give the agent a folder of its own that it may write to",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Conflict(
            f"another agent uses the folder {root}",
            hint="stop it, or give this agent a folder of its own",
        ) from None
    return handle
