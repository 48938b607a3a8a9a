"""Carries out the machine's effects: at most one at a time per job, each idempotent and bounded."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger, LogLevel

from cumulus_wire.codes import EndReason
from cumulusd.errors import (
    CumulusError,
    InsufficientResources,
    NotFound,
    TooMany,
    Unavailable,
)
from cumulusd.jobs import ends
from cumulusd.jobs.machine import Effect, Event, EventKind
from cumulusd.jobs.model import End, JobRecord, Phase
from cumulusd.jobs.ports import Clock, ContainerSpec, Platform, Workers
from cumulusd.jobs.settings import Settings
from cumulusd.tasks import Signal, Tasks, sleep, wait_at_most

#: About one second at the pace of `_until_done`.
_LOOKS_BEFORE_STOP = 6
#: An effect that failed in a way nobody foresaw is tried again after so long.
_TRY_AGAIN_S = 5.0


class Tell(Protocol):
    """`Supervisor.tell`."""

    def __call__(
        self,
        job_id: str,
        kind: EventKind,
        *,
        at: float | None = None,
        end: End | None = None,
        stop_reason: EndReason | None = None,
        event: Event | None = None,
    ) -> None: ...


class Effects:
    """Talks to the platform and the agents for the supervisor, and tells it how it went."""

    _log = Logger()

    def __init__(
        self,
        *,
        platform: Platform,
        workers: Workers,
        clock: Clock,
        settings: Settings,
        current: Callable[[str], JobRecord | None],
        tell: Tell,
    ) -> None:
        self._platform = platform
        self._workers = workers
        self._clock = clock
        self._settings = settings
        self._current = current
        self._tell = tell
        self._tasks = Tasks()
        self._running: dict[str, Deferred[Any]] = {}
        self._nudges: dict[str, Signal] = {}

    def start(self, effect: Effect, record: JobRecord) -> None:
        """Begins an effect; one under way for the same job is ended first."""
        before = self._running.pop(record.job_id, None)
        work: dict[Effect, Callable[[JobRecord], Coroutine[Any, Any, None]]] = {
            Effect.PREPARE: self._prepare,
            Effect.LAUNCH: self._launch,
            Effect.STOP_RUNNER: self._stop_runner,
            Effect.CLEAR: self._clear,
        }

        async def run() -> None:
            if before is not None:
                before.cancel()
                await DeferredList([before], consumeErrors=True)
            while True:
                try:
                    await work[effect](record)
                    return
                except CancelledError:
                    raise
                except Exception:
                    # Given up here, the job would stay in its phase, with its share, for ever.
                    self._log.failure(
                        "effect {effect} failed, trying again in {delay_s} s",
                        effect=str(effect),
                        delay_s=_TRY_AGAIN_S,
                        job_id=record.job_id,
                    )
                await sleep(self._clock, _TRY_AGAIN_S)

        task = self._tasks.start(run(), f"effect {effect}", job_id=record.job_id)
        if not task.called:
            self._running[record.job_id] = task
            task.addBoth(self._done, record.job_id, task)

    def nudge(self, job_id: str) -> None:
        """Something about the job's container changed: look again now."""
        signal = self._nudges.get(job_id)
        if signal is not None:
            signal.fire()

    async def stop(self) -> None:
        """Ends all effects; they are taken up again at the next start."""
        await self._tasks.stop()

    def _done(self, result: object, job_id: str, task: Deferred[Any]) -> None:
        if self._running.get(job_id) is task:
            del self._running[job_id]

    # -- the effects

    async def _prepare(self, record: JobRecord) -> None:
        placement = record.placement
        assert placement is not None
        give_up_at = self._clock.seconds() + self._settings.agent_grace_s
        delay_s = 0.1
        while True:
            try:
                grant = await self._workers.prepare(record, placement)
                event = Event(kind=EventKind.PREPARED, at=0.0, grant=grant)
                self._tell(record.job_id, EventKind.PREPARED, event=event)
                return
            except InsufficientResources as error:
                # Our view of the worker was behind its ledger: back into the queue.
                self._log.info(
                    "job {job_id} goes back to the queue: {why}",
                    job_id=record.job_id,
                    why=error.message,
                )
                await sleep(self._clock, 0.2)
                self._tell(record.job_id, EventKind.UNPLACED)
                return
            except (Unavailable, TooMany) as error:
                if self._clock.seconds() >= give_up_at:
                    end = ends.end_of_lost_worker(record, error.message)
                    self._tell(record.job_id, EventKind.PREPARE_FAILED, end=end)
                    return
            except CumulusError as error:
                what = f"Worker {placement.hostname} could not prepare the job"
                end = ends.end_of_error(error, EndReason.PARTITION_FAILED, what)
                self._tell(record.job_id, EventKind.PREPARE_FAILED, end=end)
                return
            await sleep(self._clock, delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _launch(self, record: JobRecord) -> None:
        placement, grant = record.placement, record.grant
        assert placement is not None and grant is not None
        spec = ContainerSpec(
            job_id=record.job_id,
            attempt=record.attempt,
            node_id=placement.node_id,
            grant=grant,
            cpu_cores=record.spec.cpu_cores,
            memory_bytes=record.spec.memory_bytes,
            stop_grace_s=self._settings.stop_grace_s,
        )
        give_up_at = self._clock.seconds() + self._settings.launch_timeout_s
        delay_s = 0.1
        while True:
            try:
                await self._platform.launch(spec)
                self._tell(record.job_id, EventKind.LAUNCHED)
                return
            except CumulusError as error:
                over = self._clock.seconds() >= give_up_at
                if not isinstance(error, Unavailable) or over:
                    what = f"The {self._platform.name} platform could not start the job"
                    end = ends.end_of_error(error, EndReason.LAUNCH_FAILED, what)
                    self._tell(record.job_id, EventKind.LAUNCH_FAILED, end=end)
                    return
            await sleep(self._clock, delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _stop_runner(self, record: JobRecord) -> None:
        """Tells the runner; a runner that can't be told or doesn't obey is forced."""
        placement, reason = record.placement, record.stop_reason
        assert placement is not None and reason is not None
        grace_s = self._settings.stop_grace_s
        if reason is EndReason.CANCELLED_BY_USER:
            grace_s = self._settings.cancel_grace_s
        # A runner may be about to connect, so it is looked for a moment longer than the grace.
        give_up_at = self._clock.seconds() + grace_s + 2.0
        taken = False
        while not taken and self._clock.seconds() < give_up_at:
            try:
                taken = await self._workers.stop_job(
                    placement.node_id, record.job_id, record.attempt, reason.value, grace_s
                )
            except CumulusError as error:
                # Whatever it is: a runner that isn't told is forced in the end.
                self._log.info(
                    "job {job_id} can't be told to stop yet: {why}",
                    job_id=record.job_id,
                    why=error.message,
                )
            if not taken:
                await sleep(self._clock, 0.1)
        if taken:
            await sleep(self._clock, grace_s + 3.0)
        now = self._current(record.job_id)
        if now is not None and now.phase in (Phase.STARTING, Phase.RUNNING):
            self._tell(record.job_id, EventKind.FORCED)

    async def _clear(self, record: JobRecord) -> None:
        """Container, partition and folder, in this order, until nothing of them is left."""
        if record.grant is not None:
            await self._until_done(record, self._end_container)
        if record.placement is not None:
            await self._until_done(record, self._release)
        self._tell(record.job_id, EventKind.CLEARED)

    async def _until_done(
        self, record: JobRecord, attempt: Callable[[JobRecord, int], Coroutine[Any, Any, bool]]
    ) -> None:
        """Repeats until true, sooner when nudged; who is away is waited for."""
        signal = self._nudges.setdefault(record.job_id, Signal())
        delay_s, tries = 0.05, 0
        told: str | None = None
        try:
            while True:
                try:
                    if await attempt(record, tries):
                        return
                except CumulusError as error:
                    # Once a cause: after a restart every job waits a moment for its agent.
                    level = LogLevel.info if error.message != told else LogLevel.debug
                    told = error.message
                    self._log.emit(
                        level,
                        "job {job_id} can't be cleared from its worker yet: {why}",
                        job_id=record.job_id,
                        why=error.message,
                    )
                tries += 1
                await wait_at_most(self._clock, delay_s, signal.wait())
                delay_s = min(delay_s * 1.5, 5.0)
        finally:
            self._nudges.pop(record.job_id, None)

    async def _end_container(self, record: JobRecord, tries: int) -> bool:
        """True when the container is gone: the platform and the folder's lock say so."""
        assert record.placement is not None
        job_id, attempt = record.job_id, record.attempt
        container = (await self._platform.containers()).get(job_id)
        gone = container is None or not container.alive
        if not gone or not await self._lock_free(record):
            # A runner that has said its end leaves by itself within milliseconds.
            if tries >= _LOOKS_BEFORE_STOP:
                await self._platform.stop(job_id, attempt)
            return False
        await self._platform.remove(job_id, attempt)
        return True

    async def _lock_free(self, record: JobRecord) -> bool:
        assert record.placement is not None
        try:
            return (await self._workers.folder(record.placement.node_id, record.job_id))[1]
        except NotFound:
            return True

    async def _release(self, record: JobRecord, tries: int) -> bool:
        assert record.placement is not None
        return await self._workers.release(record.placement.node_id, record.job_id, record.attempt)
