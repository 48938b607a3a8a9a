"""Carries out the machine's effects: at most one at a time per job, each idempotent and bounded."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger, LogLevel

from cumulus_wire.codes import EndReason
from cumulusd.errors import (
    Conflict,
    CumulusError,
    InsufficientResources,
    TooMany,
    Unavailable,
)
from cumulusd.jobs import checkpoints, ends, waits
from cumulusd.jobs.clearing import Clearing
from cumulusd.jobs.events import Effect, Event, EventKind
from cumulusd.jobs.model import End, JobRecord, Phase, Placement
from cumulusd.jobs.ports import Clock, ContainerSpec, Platform, Workers
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import Tasks, sleep

#: An effect that failed in a way nobody foresaw is tried again after so long.
_TRY_AGAIN_S = 5.0
#: How often it is looked whether a job's outputs are stored.
_LOOK_S = 0.5


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
        attempt: int | None = None,
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
        wall_clock: Callable[[], float],
        table: JobTable,
        clearing: Clearing,
        tell: Tell,
        is_storing: Callable[[str], bool],
    ) -> None:
        """`is_storing(job id)`: it has ended, which is told when its outputs are stored."""
        self._platform = platform
        self._workers = workers
        self._clock = clock
        self._settings = settings
        self._wall_clock = wall_clock
        self._table = table
        self._clearing = clearing
        self._tell = tell
        self._is_storing = is_storing
        self._tasks = Tasks()
        self._running: dict[str, Deferred[Any]] = {}
        self._stopped = False

    def start(self, effect: Effect, record: JobRecord) -> None:
        """Begins an effect; one under way for the same job is ended first. After `stop`, none."""
        if self._stopped:
            return
        before = self._running.pop(record.job_id, None)
        work: dict[Effect, Callable[[JobRecord], Coroutine[Any, Any, None]]] = {
            Effect.PREPARE: self._prepare,
            Effect.LAUNCH: self._launch,
            Effect.STOP_RUNNER: self._stop_runner,
            Effect.TELL_PAUSE: self._tell_pause,
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

    async def stop(self) -> None:
        """Ends all effects; they are taken up again at the next start."""
        self._stopped = True
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
        clear_until: float | None = None  # how long what is in the way is cleared
        while True:
            try:
                preparing = Deferred.fromCoroutine(self._workers.prepare(record, placement))
                self._platform.foresee_launch()  # after the worker was asked, and beside it
                grant = await preparing
                self._clearing.granted(record)
                event = Event(
                    kind=EventKind.PREPARED,
                    at=self._wall_clock(),
                    grant=grant,
                    attempt=record.attempt,
                )
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
                self._tell(record.job_id, EventKind.UNPLACED, attempt=record.attempt)
                return
            except (Unavailable, TooMany) as error:
                wait = waits.placing(placement.hostname, error.message)
                self._table.explain(record.job_id, wait, Phase.PREPARING)
                if self._clock.seconds() >= give_up_at:
                    end = ends.end_of_lost_worker(record, error.message)
                    self._tell(
                        record.job_id, EventKind.PREPARE_FAILED, end=end, attempt=record.attempt
                    )
                    return
            except CumulusError as error:
                if error.details.get("checkpoint_lost"):
                    end = ends.end_of_lost_checkpoint(record, placement.hostname, error.message)
                    self._tell(
                        record.job_id, EventKind.PREPARE_FAILED, end=end, attempt=record.attempt
                    )
                    return
                if clear_until is None:
                    clear_until = self._clock.seconds() + self._settings.agent_grace_s
                if isinstance(error, Conflict) and self._clock.seconds() < clear_until:
                    await self._release_leftover(record, placement, error)
                    await sleep(self._clock, delay_s)
                    continue
                what = f"Worker {placement.hostname} could not prepare the job"
                end = ends.end_of_error(error, EndReason.PARTITION_FAILED, what)
                self._tell(record.job_id, EventKind.PREPARE_FAILED, end=end, attempt=record.attempt)
                return
            await sleep(self._clock, delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _release_leftover(
        self, record: JobRecord, placement: Placement, error: Conflict
    ) -> None:
        """What is in the way on the worker: an earlier attempt's, if it came back after that was
        given up, or what this one had prepared there before the partition expired or the worker
        was restarted. Nothing of this attempt was launched yet."""
        attempt = error.details.get("attempt")
        if not isinstance(attempt, int) or attempt > record.attempt:
            attempt = record.attempt
        try:
            await self._workers.release(placement.node_id, record.job_id, attempt, keep=True)
        except CumulusError as problem:
            self._log.info(
                "job {job_id}: attempt {attempt} can't be cleared from {worker} yet: {why}",
                job_id=record.job_id,
                attempt=attempt,
                worker=placement.hostname,
                why=problem.message,
            )

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
                self._tell(record.job_id, EventKind.LAUNCHED, attempt=record.attempt)
                return
            except CumulusError as error:
                wait = waits.launching(placement.hostname, error.message)
                self._table.explain(record.job_id, wait, Phase.LAUNCHING)
                over = self._clock.seconds() >= give_up_at
                if not isinstance(error, Unavailable) or over:
                    what = f"The {self._platform.name} platform could not start the job"
                    missing = "image" in error.details
                    reason = EndReason.IMAGE_MISSING if missing else EndReason.LAUNCH_FAILED
                    end = ends.end_of_error(error, reason, what)
                    self._tell(
                        record.job_id, EventKind.LAUNCH_FAILED, end=end, attempt=record.attempt
                    )
                    return
            await sleep(self._clock, delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _stop_runner(self, record: JobRecord) -> None:
        """Tells the runner; a runner that can't be told or doesn't obey is forced. That its time is
        over the runner knows by itself: a worker that is away for that is waited for as ever."""
        placement, reason = record.placement, record.stop_reason
        assert placement is not None and reason is not None
        grace_s = self._settings.stop_grace_s
        asked_by_user = reason is EndReason.CANCELLED_BY_USER
        if asked_by_user:
            grace_s = self._settings.cancel_grace_s
        # A runner may be about to connect, so it is looked for a moment longer than the grace.
        begun_at = self._clock.seconds()
        give_up_at = begun_at + grace_s + 2.0
        taken, away = False, ""
        while not taken and self._clock.seconds() < give_up_at:
            try:
                away = ""
                taken = await self._workers.stop_job(
                    placement.node_id, record.job_id, record.attempt, reason.value, grace_s
                )
            except CumulusError as error:
                # Whatever it is: a runner that isn't told is forced in the end.
                if isinstance(error, Unavailable) and not asked_by_user:
                    away = error.message
                    give_up_at = begun_at + self._settings.agent_grace_s
                self._log.info(
                    "job {job_id} can't be told to stop yet: {why}",
                    job_id=record.job_id,
                    why=error.message,
                )
            if not taken:
                await sleep(self._clock, 0.1)
        if taken:
            await sleep(self._clock, grace_s + 3.0)
        while self._is_storing(record.job_id):
            await sleep(self._clock, _LOOK_S)
        now = self._table.get(record.job_id)
        if now is None or now.phase not in (Phase.STARTING, Phase.RUNNING):
            return
        if away:
            end = ends.end_of_lost_worker(record, away)
            self._tell(record.job_id, EventKind.LOST, end=end, attempt=record.attempt)
        else:
            self._tell(record.job_id, EventKind.FORCED, attempt=record.attempt)

    async def _tell_pause(self, record: JobRecord) -> None:
        """Tells the runner whether the code is to pause, until it has heard it."""
        placement = record.placement
        assert placement is not None
        told: str | None = None
        delay_s = 0.1
        while True:
            now = self._table.get(record.job_id)
            if now is None or (now.phase, now.attempt) != (Phase.RUNNING, record.attempt):
                return
            try:
                if await self._workers.pause_job(
                    placement.node_id, record.job_id, record.attempt, record.pause_requested
                ):
                    return
            except CumulusError as error:
                level = LogLevel.info if error.message != told else LogLevel.debug
                told = error.message
                self._log.emit(
                    level,
                    "job {job_id} can't be told to pause or go on yet: {why}",
                    job_id=record.job_id,
                    why=error.message,
                )
            await sleep(self._clock, delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _clear(self, record: JobRecord) -> None:
        cleared = await self._clearing.clear(record)
        event = Event(
            kind=EventKind.CLEARED,
            at=self._wall_clock(),
            attempt=record.attempt,
            journal_start=cleared.journal_start,
            pinned_node=checkpoints.pin(record, cleared.released),
        )
        self._tell(record.job_id, EventKind.CLEARED, event=event)
