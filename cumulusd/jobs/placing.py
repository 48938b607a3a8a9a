"""Feeds the scheduler: who waits, what is free, and carries its decisions back."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulus_wire.codes import WaitReason
from cumulusd.errors import CumulusError
from cumulusd.jobs import ends, pool, scheduler
from cumulusd.jobs.effects import Tell
from cumulusd.jobs.events import Event, EventKind
from cumulusd.jobs.fates import Fates
from cumulusd.jobs.holdings import Holdings
from cumulusd.jobs.model import End, JobRecord, JobSpec, Phase, Placement
from cumulusd.jobs.ports import AgentView, Clock, DelayedCall, Node, Platform, Workers
from cumulusd.jobs.queue import JobQueue
from cumulusd.jobs.retelling import Retelling
from cumulusd.jobs.room import Room
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.table import HOLDING, JobTable
from cumulusd.jobs.waiting import Waiting
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
        self._room = Room()
        self._waiting = Waiting(self._line, self._room, settings.agent_grace_s)
        self._retelling = Retelling(
            table=table, line=self._line, wait_of=self._waiting.explained, clock=clock
        )
        self._holdings = Holdings(self._line.use)
        #: Placed jobs that the table doesn't show on their worker yet.
        self._reserved: dict[str, Placement] = {}
        self._coming: set[str] = set()  #: new jobs without a place that are not in the line yet
        self._seen: tuple[int, int] | None = None  #: the line and the room of the last pass
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
        table.watch(self._hold)
        table.watch_forgotten(lambda job_id: self._holdings.put(job_id, None))
        table.watch_shares(self._given_back)

    def start(self) -> None:
        """Begins to ask the platform for its nodes."""
        self._tasks.start(self._watch_nodes(), "watching nodes")

    async def stop(self) -> None:
        """Ends it; nothing is placed any more."""
        self._stopped = True
        if self._pass is not None and self._pass.active():
            self._pass.cancel()
        self._retelling.stop()
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

    def in_turn(self) -> Iterator[JobRecord]:
        """Those in the queue, as the table has them: first those that have a place, but are not
        shown there yet, then those whose turn is next. The queue must not change before the last
        is taken."""
        for job_id in self._reserved:
            record = self._table.get(job_id)
            if record is not None and record.phase is Phase.QUEUED:
                yield record
        for waiting in self._line.in_turn():
            record = self._table.get(waiting.job_id)
            if record is not None:
                yield record

    def explained(self, record: JobRecord) -> JobRecord:
        """The same with what it waits for now, if it is in the queue."""
        wait = self._waiting.explained(record) if record.phase is Phase.QUEUED else None
        return record if wait is None else attrs.evolve(record, wait=wait)

    def wait_reason(self, record: JobRecord) -> WaitReason | None:
        """Why it waits; None: it doesn't."""
        reason = self._waiting.reason(record) if record.phase is Phase.QUEUED else None
        if reason is not None:
            return reason
        return None if record.wait is None else record.wait.reason

    def tell_listeners(self, is_heard: Callable[[str], bool]) -> None:
        """From now on also who listens to a job otherwise than by following it is told, within a
        while, what it waits for. `is_heard(job id)`: somebody does."""
        self._retelling.add(is_heard)

    def agents(self) -> Mapping[str, AgentView]:
        """The agents with what is truly free: the ledger's word less what is on its way there."""
        views = {}
        for node_id, agent in self._workers.agents().items():
            held = self._holdings.units_on(node_id)
            devices = []
            for device in agent.devices:
                free = device.units_total - held.get(device.device_id, 0)
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

    def at_once(self, record: JobRecord) -> Placement | None:
        """A place for a new job, if nobody waits, or is about to, and there is room: it is kept
        until the job is shown there (`changed`), or `not_taken`. None: nobody who comes later gets
        one before this job is in the line (`add`), or `not_taken`."""
        placement = self._free_place(record)
        if placement is None:
            self._coming.add(record.job_id)
        return placement

    def _free_place(self, record: JobRecord) -> Placement | None:
        if self._line or self._coming or self._stopped or self._observed_since is None:
            return None
        try:
            self._fill_room(self._workers.agents())
            if self._room.most_free < record.spec.units:
                return None
            alone = JobQueue()
            alone.push(record)
            placements = scheduler.place(alone, self._room).placements
        except Exception:
            # It waits for the next pass, as it would with one.
            self._log.failure("placing at once failed", job_id=record.job_id)
            return None
        for _, placement in placements:
            self._keep(record, placement)
            return placement
        return None

    def not_taken(self, job_id: str) -> None:
        """The job that was to be placed `at_once` is none after all."""
        self._coming.discard(job_id)
        if self._reserved.pop(job_id, None) is not None:
            self._holdings.put(job_id, None)
            self.soon()

    def add(self, record: JobRecord) -> None:
        """A new job: it waits, unless it has its place."""
        self._coming.discard(record.job_id)
        if record.job_id not in self._reserved:
            self._push(record)
        self._added.fire()
        self.soon()

    def changed(self, before: JobRecord, after: JobRecord) -> None:
        """A job went from one phase to another."""
        if self._reserved.pop(after.job_id, None) is not None and after.phase not in HOLDING:
            self._holdings.put(after.job_id, None)
        if after.phase is Phase.QUEUED:
            self._push(after)
        elif before.phase is Phase.QUEUED:
            self._line.remove(after.job_id)
        self.soon()

    def time_is_over(self, job_id: str) -> None:
        """The job's time in the queue is: the next pass places it, or refuses it and says what it
        waited for."""
        self._waiting.time_is_over(job_id)
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
        agents, now = self._workers.agents(), self._wall_clock()
        self._fill_room(agents)
        seen = (self._line.version, self._room.version)
        is_news = seen != self._seen
        if is_news:
            self._seen = None  # a pass that breaks off is made again
            self._waiting.renew(self.nodes, agents)
            decision = scheduler.place(self._line, self._room, self._waiting.gone())
            for job_id, placement in decision.placements:
                self._place(job_id, placement, now)
            self._refuse(self._waiting.lost())
            self._seen = seen
        self._waiting.passed(now)
        self._refuse(self._waiting.refused(now, self._observed_since))
        if is_news:
            self._retelling.soon()

    def _fill_room(self, agents: Mapping[str, AgentView]) -> None:
        self._room.fill(self.nodes, agents, self._holdings.take_changed(), self._holdings.on_node)

    def _keep(self, record: JobRecord, placement: Placement) -> None:
        """What it is given is nobody else's from now on."""
        self._reserved[record.job_id] = placement
        self._holdings.put(record.job_id, attrs.evolve(record, placement=placement))
        self._log.info(
            "job {job_id} placed on {worker}",
            job_id=record.job_id,
            worker=placement.hostname,
            device_id=placement.device_id,
        )

    def _place(self, job_id: str, placement: Placement, now: float) -> None:
        record = self._line.remove(job_id)
        assert record is not None
        self._keep(record, placement)
        event = Event(kind=EventKind.PLACED, at=now, placement=placement)
        self._tell(job_id, EventKind.PLACED, event=event)

    def _refuse(self, refusals: Mapping[str, End]) -> None:
        for job_id, end in refusals.items():
            self._line.remove(job_id)
            self._tell(job_id, EventKind.REFUSED, end=end)

    def _push(self, record: JobRecord) -> None:
        self._line.push(record, self._wall_clock())
        self._waiting.add(record)

    def _given_back(self, job_id: str) -> None:
        self._holdings.put(job_id, None)
        self.soon()

    def _hold(self, before: JobRecord | None, after: JobRecord) -> None:
        """The table's record changed."""
        if self._table.holds(after):
            self._holdings.put(after.job_id, after)
        elif after.job_id not in self._reserved:
            self._holdings.put(after.job_id, None)

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
