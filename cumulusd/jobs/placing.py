"""Feeds the scheduler: who waits, what is free, and carries its decisions back."""

from collections.abc import Callable, Mapping, Sequence

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulusd.errors import CumulusError
from cumulusd.jobs import ends, pool, scheduler
from cumulusd.jobs.effects import Tell
from cumulusd.jobs.events import Event, EventKind
from cumulusd.jobs.fates import Fates
from cumulusd.jobs.model import End, JobRecord, JobSpec, Phase, Placement
from cumulusd.jobs.ports import AgentView, Clock, DelayedCall, Node, Platform, Workers
from cumulusd.jobs.queue import JobQueue
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import Signal, Tasks, sleep, wait_at_most

_NODES_INTERVAL_S = 2.0
#: The same while there is no job that has not ended: platforms tell of changed nodes by themselves
#: (`refresh`), and a job that comes is placed by what is known.
_IDLE_INTERVAL_S = 10.0
#: Longer than a look at the nodes may take, with its deadline.
SILENT_S = 40.0


class Placing:
    """One scheduling pass whenever something changed that could place a job."""

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        platform: Platform,
        workers: Workers,
        clock: Clock,
        wall_clock: Callable[[], float],
        settings: Settings,
        tell: Tell,
    ) -> None:
        self._table = table
        self._platform = platform
        self._workers = workers
        self._clock = clock
        self._wall_clock = wall_clock
        self._settings = settings
        self._tell = tell
        self._line = JobQueue()
        self._reserved: dict[str, Placement] = {}
        self._pass: DelayedCall | None = None
        self._tasks = Tasks()
        self._added = Signal()
        self._fates = Fates()
        self._away_since: dict[str, float] = {}
        self._stopped = False
        self._observed_since: float | None = None  #: when the nodes were first told
        self.nodes: Sequence[Node] = ()
        self.error: str | None = "the platform has not answered yet"
        self._answered_at: float | None = None
        workers.watch(lambda node_id: self.soon())

    def start(self) -> None:
        """Begins to ask the platform for its nodes."""
        self._tasks.start(self._watch_nodes(), "watching nodes")

    async def stop(self) -> None:
        """Ends it; nothing is placed any more."""
        self._stopped = True
        if self._pass is not None and self._pass.active():
            self._pass.cancel()
        await self._tasks.stop()

    @property
    def silence(self) -> str | None:
        """Why what is known of the platform is too old to go by; None while it answers."""
        if self._answered_at is None:
            return "the platform has not answered yet"
        silent_s = self._clock.seconds() - self._answered_at
        if silent_s < SILENT_S:
            return None
        return f"the platform has not answered for {silent_s:.0f} s"

    @property
    def waiting_count(self) -> int:
        """Jobs in the queue."""
        return len(self._line)

    def waiting_of(self, owner: str) -> int:
        """Jobs of that owner in the queue."""
        return self._line.waiting_of(owner)

    def agents(self) -> Mapping[str, AgentView]:
        """The agents with what is truly free: the ledger's word less what is on its way there."""
        held: dict[tuple[str, str], int] = {}
        for record in self._placed():
            assert record.placement is not None
            key = (record.placement.node_id, record.placement.device_id)
            held[key] = held.get(key, 0) + record.spec.units
        views = {}
        for node_id, agent in self._workers.agents().items():
            devices = []
            for device in agent.devices:
                free = device.units_total - held.get((node_id, device.device_id), 0)
                units_free = max(0, min(device.units_free, free))
                devices.append(attrs.evolve(device, units_free=units_free))
            views[node_id] = attrs.evolve(agent, devices=tuple(devices))
        return views

    def python_versions(self) -> set[str | None]:
        """Which Pythons jobs have on the workers that are present; None: the image's."""
        return {agent.python_version for agent in self._workers.agents().values()}

    def is_gone(self, node_id: str) -> bool:
        """Whether the platform, which answers, doesn't know that node any more."""
        if self._observed_since is None or self.error is not None:
            return False
        return all(node.node_id != node_id for node in self.nodes)

    async def named(self, record: JobRecord, end: End) -> End:
        """The end under its true name, where what befell its worker explains it."""
        if not ends.may_be_the_workers(end):
            return end
        try:
            await self.refresh()
        except CumulusError as error:
            self._log.info(
                "job {job_id}: its worker's state can't be asked: {why}",
                job_id=record.job_id,
                why=error.message,
            )
        return ends.named_by_fate(end, record, self._fates.of(record))

    def refusal(self, spec: JobSpec) -> CumulusError | None:
        """Why nothing there is could ever take such a job; None when something could."""
        if self._observed_since is None:
            return None
        agents = self._workers.agents()
        if pool.fits_somewhere(spec, self.nodes, agents):
            return None  # as nearly always: nothing is to be gone through for it
        return pool.could_ever_fit(spec, self.nodes, agents, overdue=self._overdue())

    def add(self, record: JobRecord) -> None:
        """A job that waits."""
        self._line.push(record)
        self._added.fire()
        self.soon()

    def changed(self, before: JobRecord, after: JobRecord) -> None:
        """A job went from one phase to another."""
        self._reserved.pop(after.job_id, None)
        if after.phase is Phase.QUEUED:
            self._line.push(after)
        elif before.phase is Phase.QUEUED:
            self._line.remove(after.job_id)
        self.soon()

    def soon(self) -> None:
        """A pass in this turn of the reactor; several wishes make one."""
        if self._pass is None and not self._stopped:
            self._pass = self._clock.callLater(0, self._run)

    # -- inside

    def _run(self) -> None:
        self._pass = None
        try:
            self.run()
        except Exception:
            # The next change tries again; one bad pass must not stop placement.
            self._log.failure("scheduling pass failed")

    def run(self) -> None:
        """One pass. Nothing is decided before the platform has told its nodes once."""
        if not self._line or self._observed_since is None:
            return
        now = self._wall_clock()
        placed = self._placed()
        in_use: dict[str, int] = {}
        for record in placed:
            in_use[record.owner] = in_use.get(record.owner, 0) + record.spec.units
        decision = scheduler.decide(
            self._line.ordered(in_use),
            self.nodes,
            self._workers.agents(),
            placed,
            now,
            agent_grace_s=self._settings.agent_grace_s,
            observed_since=self._observed_since,
        )
        for job_id, placement in decision.placements:
            self._line.remove(job_id)
            self._reserved[job_id] = placement
            self._log.info(
                "job {job_id} placed on {worker}",
                job_id=job_id,
                worker=placement.hostname,
                device_id=placement.device_id,
            )
            event = Event(kind=EventKind.PLACED, at=now, placement=placement)
            self._tell(job_id, EventKind.PLACED, event=event)
        for job_id, end in decision.refusals.items():
            self._line.remove(job_id)
            self._tell(job_id, EventKind.REFUSED, end=end)
        for job_id, wait in decision.waits.items():
            explained = self._table.explain(job_id, wait)
            if explained is not None:
                self._line.push(explained)

    def _placed(self) -> list[JobRecord]:
        """Those that hold a share or are about to, also where the table doesn't show it yet."""
        placed = self._table.placed()
        for job_id, placement in self._reserved.items():
            record = self._table.get(job_id)
            if record is not None and record.phase is Phase.QUEUED:
                placed.append(attrs.evolve(record, placement=placement))
        return placed

    def _overdue(self) -> list[str]:
        """Nodes whose agent has been away for longer than its grace."""
        present, now = self._workers.agents(), self._clock.seconds()
        overdue = []
        for node in self.nodes:
            if node.node_id in present:
                self._away_since.pop(node.node_id, None)
            elif (
                now - self._away_since.setdefault(node.node_id, now) > self._settings.agent_grace_s
            ):
                overdue.append(node.node_id)
        return overdue

    async def refresh(self) -> None:
        """Asks the platform for its nodes now. Raises CumulusError when it can't be asked."""
        nodes = await self._platform.nodes()
        self._answered_at = self._clock.seconds()
        for record, fate in self._fates.saw(nodes, self._table.placed()):
            event = Event(
                kind=EventKind.BEFELL, at=self._wall_clock(), fate=fate, attempt=record.attempt
            )
            self._tell(record.job_id, EventKind.BEFELL, event=event)
        if self._observed_since is None:
            self._observed_since = self._wall_clock()
            self.soon()
        if list(nodes) != list(self.nodes):
            self._log.info(
                "the pool has {count} usable worker(s)",
                count=sum(node.usable for node in nodes),
                nodes={node.hostname: f"{node.state}/{node.availability}" for node in nodes},
            )
            self.nodes = list(nodes)
            self.soon()
        self.error = None

    async def _watch_nodes(self) -> None:
        while True:
            try:
                await self.refresh()
            except CumulusError as error:
                self.error = error.message
                self._log.warn("the platform's nodes can't be asked: {why}", why=error.message)
            except CancelledError:
                raise
            except Exception as error:
                # One bad look must not end the watch; the next one comes.
                self.error = repr(error)
                self._log.failure("asking for nodes failed, going on")
            self._overdue()
            if self._line:
                # Waits change with time alone: positions, what frees next, an agent's grace.
                self.soon()
            is_idle = self.error is None and not self._table.live()
            if is_idle:
                await wait_at_most(self._clock, _IDLE_INTERVAL_S, self._added.wait())
            else:
                await sleep(self._clock, _NODES_INTERVAL_S)
