"""Finds the jobs whose container is gone though their journal has no end, and why."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulusd.errors import CumulusError, NotFound
from cumulusd.jobs import agreement, ends, waits
from cumulusd.jobs.agreement import Agreement
from cumulusd.jobs.effects import Tell
from cumulusd.jobs.events import EventKind
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.model import End, JobRecord, Phase
from cumulusd.jobs.ports import Clock, Container, Inventory, Platform, Workers
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import Tasks, sleep

#: Between two looks pass so many times what the last one took, at most so long: with thousands of
#: containers the platform's answers are megabytes, and the reactor does nothing else meanwhile.
_REST = 15.0
_MAX_REST_S = 10.0
#: Idle, the workers are asked what they hold so many times less often at most.
_IDLE_REAPS = 10


class Watcher:
    """Asks the platform for its containers in a steady pace, and looks into what is missing."""

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        journals: Journals,
        platform: Platform,
        workers: Workers,
        clock: Clock,
        settings: Settings,
        tell: Tell,
        named: Callable[[JobRecord, End], Awaitable[End]],
    ) -> None:
        """`named` gives an end its true name."""
        self._table = table
        self._journals = journals
        self._platform = platform
        self._workers = workers
        self._clock = clock
        self._settings = settings
        self._tell = tell
        self._named = named
        self._tasks = Tasks()
        self._suspects: set[str] = set()
        #: (job id, attempt) -> when it was first seen without a word of its runner
        self._started: dict[tuple[str, int], float] = {}
        self._reaped_at = clock.seconds()
        self._known_agents: frozenset[str] = frozenset()
        self._may_have_left = False  #: a job has ended that may have kept something on a worker
        self._was_active = True  #: since the last reap jobs have changed
        self._reap_pause_s = settings.reap_interval_s
        table.watch(self._changed)
        self.agreement = Agreement()
        self.platform_error: str | None = None

    def start(self) -> None:
        """Begins to watch."""
        self._tasks.start(self._watch(), "watching containers")

    async def stop(self) -> None:
        """Ends it."""
        await self._tasks.stop()

    async def _watch(self) -> None:
        while True:
            began_s, took_s = self._clock.seconds(), 0.0
            try:
                await self._look()
                took_s = self._clock.seconds() - began_s
                await self._reap_what_is_due()
                self.platform_error = None
            except CumulusError as error:
                self.platform_error = error.message
                self._log.warn("the platform can't be asked: {why}", why=error.message)
            except CancelledError:
                raise
            except Exception as error:
                # One bad look must not end the watch; the next one comes.
                self.platform_error = repr(error)
                self._log.failure("watching containers failed, going on")
            rest_s = min(_REST * took_s, _MAX_REST_S)
            await sleep(self._clock, max(self._settings.watch_interval_s, rest_s))

    def _changed(self, before: JobRecord | None, after: JobRecord) -> None:
        self._was_active = True
        # Clearing takes away what its last attempt kept; those before may have been elsewhere.
        was_live = before is not None and before.phase is not Phase.ENDED
        if was_live and after.phase is Phase.ENDED and after.attempt > 1:
            self._may_have_left = True

    async def _reap_what_is_due(self) -> None:
        """Agents that have come are asked, whose holdings may have changed; all of them are from
        time to time, when a job has ended that may have kept something somewhere, and when they
        have come in numbers. While no job changes, the times are ever further apart."""
        before, self._known_agents = self._known_agents, frozenset(self._workers.agents())
        fresh = self._known_agents - before
        is_urgent = self._may_have_left or 2 * len(fresh) > len(self._known_agents)
        self._may_have_left = False
        interval_s = self._settings.reap_interval_s
        if is_urgent or fresh or self._was_active or self._table.placed():
            self._reap_pause_s = interval_s
        is_time = self._clock.seconds() - self._reaped_at >= self._reap_pause_s
        try:
            if is_urgent or is_time:
                if not self._was_active:
                    self._reap_pause_s = min(2 * self._reap_pause_s, _IDLE_REAPS * interval_s)
                self._was_active = False
                self._reaped_at = self._clock.seconds()
                await self.reap()
            elif fresh:
                await self._reap_of(sorted(fresh))
        except BaseException:
            self._was_active = True  # nothing is known yet: the next comes no later
            raise

    async def _look(self) -> None:
        watched = [
            record
            for record in self._table.placed()
            if record.phase in (Phase.STARTING, Phase.RUNNING)
        ]
        if not watched:
            self._started.clear()
            return
        containers = await self._platform.containers()
        for record in watched:
            container = _of_attempt(record, containers)
            if container is not None and container.alive and record.setup_at is None:
                assert record.placement is not None
                wait = waits.starting(record.placement.hostname, container.message)
                self._table.explain(record.job_id, wait, Phase.STARTING)
            if container is None or not container.alive or self._silent(record):
                self._suspect(record)
        present = {(record.job_id, record.attempt) for record in watched}
        self._started = {k: v for k, v in self._started.items() if k in present}

    def _silent(self, record: JobRecord) -> bool:
        """Its runner hasn't said a word for longer than a start may take."""
        if record.setup_at is not None:
            return False
        key = (record.job_id, record.attempt)
        since = self._started.setdefault(key, self._clock.seconds())
        return self._clock.seconds() - since > self._settings.start_timeout_s

    def _suspect(self, record: JobRecord) -> None:
        if record.job_id not in self._suspects:
            self._suspects.add(record.job_id)
            task = self._tasks.start(
                self._investigate(record.job_id), "looking for a container", job_id=record.job_id
            )
            task.addBoth(lambda _: self._suspects.discard(record.job_id))

    async def _investigate(self, job_id: str) -> None:
        """Ends the job as lost once its journal is complete here and its lock is free."""
        give_up_at = self._clock.seconds() + self._settings.agent_grace_s
        said = ""
        while True:
            record = self._table.get(job_id)
            if record is None or record.phase not in (Phase.STARTING, Phase.RUNNING):
                return
            assert record.placement is not None
            if self._has_its_end(record):
                return
            try:
                containers = await self._platform.containers()
            except CumulusError:
                # Nothing is known of the worker while the platform is away, nor held against it.
                give_up_at = self._clock.seconds() + self._settings.agent_grace_s
                await sleep(self._clock, 0.2)
                continue
            try:
                container = _of_attempt(record, containers)
                alive = container is not None and container.alive
                if alive and not self._silent(record):
                    return
                said = container.message if container is not None else ""
                node_id = record.placement.node_id
                end_offset, lock_free = await self._workers.folder(node_id, job_id, record.attempt)
                if self._has_its_end(record):
                    return
                if alive and end_offset > record.journal_start:
                    return  # its runner has spoken: the word is on its way here
                journal = self._journals.open(job_id)
                if journal.received_offset >= end_offset and (alive or lock_free):
                    words = await self._platform.explain(job_id, record.attempt)
                    end = ends.end_of_lost_container(record, container, words)
                    end = await self._named(record, end)
                    self._tell(job_id, EventKind.LOST, end=end, attempt=record.attempt)
                    return
                if not lock_free and not alive:
                    # The runner is dead, something it started is not.
                    await self._platform.stop(job_id, record.attempt)
            except CumulusError as error:
                over = isinstance(error, NotFound) or self._clock.seconds() >= give_up_at
                if over and not self._has_its_end(record):
                    why = f"{said}; {error.message}" if said else error.message
                    end = ends.end_of_lost_worker(record, why)
                    self._tell(job_id, EventKind.LOST, end=end, attempt=record.attempt)
                    return
            await sleep(self._clock, 0.2)

    def _has_its_end(self, record: JobRecord) -> bool:
        """The runner's last word is here, and is announced once it is on disk."""
        journal = self._journals.get(record.job_id)
        return journal is not None and journal.finished_since(record.journal_start)

    async def reap(self) -> None:
        """Clears what no live job owns: containers of this instance, and the agents' leftovers.
        Then compares what jobs, ledgers and platform say of shares.

        What can't be cleared now is left to the next pass; it holds up nothing else.
        """
        await self._compare(await self._reap_of(list(self._workers.agents())))

    async def _reap_of(self, node_ids: Iterable[str]) -> Mapping[str, Inventory]:
        """The same of containers and these agents, without the comparison; what the agents hold,
        of those that answer."""
        containers = await self._platform.all_containers()
        for container in containers:
            if not self._alive(container.job_id, container.attempt):
                self._log.warn(
                    "job {job_id}: container of attempt {attempt} left over",
                    job_id=container.job_id,
                    attempt=container.attempt,
                )
                end = self._platform.stop if container.alive else self._platform.remove
                await self._try(end(container.job_id, container.attempt), container.job_id)
        there = {(container.job_id, container.attempt) for container in containers}
        inventories: dict[str, Inventory] = {}
        for node_id in node_ids:
            try:
                inventory = await self._workers.inventory(node_id)
            except CumulusError as error:
                self._log.info(
                    "{node_id} can't be asked: {why}", node_id=node_id, why=error.message
                )
                continue
            inventories[node_id] = inventory
            for job_id, attempt in sorted(inventory.jobs):
                if not self._alive(job_id, attempt, node_id) and (job_id, attempt) not in there:
                    self._log.warn(
                        "job {job_id}: folder or partition of attempt {attempt} left over "
                        "on {node_id}",
                        job_id=job_id,
                        attempt=attempt,
                        node_id=node_id,
                    )
                    keep = self._goes_on(job_id)
                    await self._try(
                        self._workers.release(node_id, job_id, attempt, keep=keep), job_id
                    )
            await self._reap_kept(node_id, inventory, {job_id for job_id, _ in there})
        return inventories

    async def _reap_kept(
        self, node_id: str, inventory: Inventory, contained: Collection[str]
    ) -> None:
        """Clears what jobs kept on that worker for attempts that never come. What else they have
        there goes first."""
        busy = {job_id for job_id, _ in inventory.jobs}
        for job_id in sorted(inventory.kept - busy):
            record = self._table.get(job_id)
            if job_id in contained or (record is not None and record.phase is not Phase.ENDED):
                continue
            attempt = 1 if record is None else record.attempt
            await self._try(self._workers.release(node_id, job_id, attempt), job_id)

    async def _compare(self, inventories: Mapping[str, Inventory]) -> None:
        placed = self._table.placed()
        held = agreement.expected_of(inventories, placed)
        found = agreement.unbooked(inventories, placed)
        found += await self._platform.disagreements(held)
        self.agreement.take(found)

    async def _try(self, clearing: Awaitable[object], job_id: str) -> None:
        try:
            await clearing
        except CumulusError as error:
            self._log.info(
                "job {job_id}: can't be cleared yet: {why}", job_id=job_id, why=error.message
            )

    def _goes_on(self, job_id: str) -> bool:
        """Whether another attempt of it may follow, or one is there: what it keeps is wanted."""
        record = self._table.get(job_id)
        return record is not None and record.end is None

    def _alive(self, job_id: str, attempt: int, node_id: str | None = None) -> bool:
        """Whether that attempt may have something on a worker, or on that one."""
        record = self._table.get(job_id)
        if record is None or record.phase is Phase.ENDED or record.attempt != attempt:
            return False
        if node_id is None:
            return True
        return record.placement is None or record.placement.node_id == node_id


def _of_attempt(record: JobRecord, containers: Mapping[str, Container]) -> Container | None:
    container = containers.get(record.job_id)
    return container if container is not None and container.attempt == record.attempt else None
