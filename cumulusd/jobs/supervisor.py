"""The only actor: feeds events to the machine, saves, and has the effects carried out.

Per job events are taken one after the other: step, save, show, act. So what a reader sees is on
disk, and what is done was saved before.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel

from cumulus_wire.codes import EndReason
from cumulusd.errors import CumulusError
from cumulusd.jobs import ends, machine
from cumulusd.jobs.clearing import Clearing
from cumulusd.jobs.effects import Effects
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.events import Effect, Event, EventKind, ImpossibleTransition
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.lull import Lull
from cumulusd.jobs.model import End, JobRecord, Phase
from cumulusd.jobs.placing import Placing
from cumulusd.jobs.ports import Clock, DelayedCall, Platform, Workers
from cumulusd.jobs.secret_values import SecretValues
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.store import Store
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import Signal, Tasks, sleep

_Effects = tuple[Effect, ...]
#: A job's last bound is looked at again after so long while our disk refuses journals.
_DISK_PAUSE_S = 5.0


class Supervisor:
    """Takes every job from its submission to its end."""

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        store: Store,
        journals: Journals,
        tails: LogTails,
        platform: Platform,
        workers: Workers,
        clock: Clock,
        wall_clock: Callable[[], float],
        settings: Settings,
        secrets: SecretValues,
        is_storing: Callable[[str], bool] = lambda job_id: False,
    ) -> None:
        """`clock` drives waits and timers and never jumps, `wall_clock` gives unix seconds.
        `is_storing(job id)`: it has ended, which is told when its outputs are stored."""
        self._table = table
        self._store = store
        self._journals = journals
        self._tails = tails
        self._clock = clock
        self._wall_clock = wall_clock
        self._settings = settings
        self._is_storing = is_storing
        self._secrets = secrets
        self._tasks = Tasks()
        self._inbox: dict[str, deque[Event]] = {}
        self._timers: dict[str, DelayedCall] = {}
        #: (owner, idempotency key) of new jobs that are being saved.
        self._accepting: set[tuple[str, str]] = set()
        self._being_saved: set[str] = set()  #: the ids of new jobs
        self._accepted = Signal()
        self._stopping = False
        self._clearing = Clearing(
            platform=platform,
            workers=workers,
            clock=clock,
            wall_clock=wall_clock,
            journals=journals,
            table=table,
            lull=Lull(table=table, clock=clock, at_most_s=settings.lull_wait_s),
            is_gone=lambda node_id: self.placing.is_gone(node_id),
            agent_grace_s=settings.agent_grace_s,
        )
        self._effects = Effects(
            platform=platform,
            workers=workers,
            clock=clock,
            settings=settings,
            wall_clock=wall_clock,
            table=table,
            clearing=self._clearing,
            tell=self.tell,
            is_storing=is_storing,
        )
        self.placing = Placing(
            table=table,
            platform=platform,
            workers=workers,
            clock=clock,
            wall_clock=wall_clock,
            settings=settings,
            tell=self.tell,
        )

    # -- from outside

    def resume(self, jobs: Sequence[JobRecord | EndedJob]) -> None:
        """Takes up what was found on disk. Call once, before anything else."""
        now = self._wall_clock()
        self._secrets.discard_others(
            {one.job_id for one in jobs if isinstance(one, JobRecord) and one.end is None}
        )
        history = [one for one in jobs if isinstance(one, EndedJob) and one.created_at <= now]
        self._table.put_history(history)
        for job in jobs:
            if isinstance(job, EndedJob):
                if job.created_at <= now:
                    continue
                job = job.record()
            record = job
            if record.created_at > now:
                # The clock was set back meanwhile: its waits count from now, not from the future.
                record = attrs.evolve(record, created_at=now)
            self._table.put(record)
            if record.phase is Phase.ENDED:
                continue
            self._arm(record)
            if record.phase is Phase.QUEUED:
                self.placing.add(record)
            for effect in machine.effects_after_restart(record):
                self._effects.start(effect, record)

    async def submit(self, record: JobRecord, secrets: Mapping[str, str] | None = None) -> None:
        """Fires when the record, and its secrets' values, are durable; from then on the job is
        ours.

        Cancelling gives up the waiting only. The save can't be taken back: a record on disk that
        the table doesn't know would be run at the next start, beside the repeat of its submit.
        """
        done: Deferred[None] = Deferred()
        accepting = self._accept(record, secrets or {}, done)
        self._tasks.start(accepting, "accepting a job", job_id=record.job_id)
        await done

    async def earlier_submit(self, owner: str, key: str) -> JobRecord | None:
        """The job submitted under this idempotency key; one that is being saved is waited for."""
        while (owner, key) in self._accepting:
            await self._accepted.wait()
        return self._table.by_key(owner, key)

    def is_taken(self, job_id: str) -> bool:
        """Is there such a job, or something left of one?"""
        known = self._table.get(job_id) is not None or job_id in self._being_saved
        return known or self._journals.get(job_id) is not None

    async def _accept(
        self, record: JobRecord, secrets: Mapping[str, str], done: Deferred[None]
    ) -> None:
        """Saves and shows a new job; `done` tells how that went, if somebody still waits."""
        key = record.spec.idempotency_key
        self._being_saved.add(record.job_id)
        try:
            if key is not None:
                self._accepting.add((record.owner, key))
            if secrets:
                await self._secrets.save(record.job_id, secrets)
            placed = self._placed_at_once(record)
            await self._store.save(record if placed is None else placed[1])
            self._show_new(record)
            if placed is not None:
                self._show_placed(record, *placed)
        except Exception as error:
            self.placing.not_taken(record.job_id)
            if secrets:
                self._secrets.discard(record.job_id)
            # A cancellation too (the daemon stops): who waits is to hear of it.
            if not done.called:
                done.errback(error)
        else:
            if not done.called:
                done.callback(None)
        finally:
            self._being_saved.discard(record.job_id)
            if key is not None:
                self._accepting.discard((record.owner, key))
                self._accepted.fire()

    def _placed_at_once(self, record: JobRecord) -> tuple[Event, JobRecord, _Effects] | None:
        """What a new job that needn't wait becomes: it is saved as that, which is one save less.
        None: it has to wait."""
        placement = self.placing.at_once(record)
        if placement is None:
            return None
        event = Event(kind=EventKind.PLACED, at=self._wall_clock(), placement=placement)
        return event, *machine.step(record, event)

    def _show_placed(
        self, record: JobRecord, event: Event, placed: JobRecord, effects: _Effects
    ) -> None:
        """The second of two steps that were saved as one."""
        self._inbox[record.job_id] = deque()  # what is told meanwhile is taken after it
        self._show(record, placed, event, effects)
        self._tasks.start(self._work(record.job_id), "taking an event", job_id=record.job_id)

    def _show_new(self, record: JobRecord) -> None:
        self._table.put(record)
        self._log.info(
            "job {job_id} of {owner} submitted: {share} of a device for {duration_s} s",
            job_id=record.job_id,
            owner=record.owner,
            share=record.spec.gpu_memory,
            duration_s=record.spec.duration_s,
        )
        self._arm(record)
        self.placing.add(record)

    def current(self, job_id: str) -> JobRecord | None:
        """The record as it stands."""
        return self._table.get(job_id)

    def tell(
        self,
        job_id: str,
        kind: EventKind,
        *,
        at: float | None = None,
        end: End | None = None,
        stop_reason: EndReason | None = None,
        attempt: int | None = None,
        event: Event | None = None,
    ) -> None:
        """Something happened to a job, or to that attempt of it. Returns at once; the rest
        follows in order."""
        if event is None:
            at = self._wall_clock() if at is None else at
            event = Event(kind=kind, at=at, end=end, stop_reason=stop_reason, attempt=attempt)
        inbox = self._inbox.get(job_id)
        if inbox is not None:
            inbox.append(event)
            return
        self._inbox[job_id] = deque([event])
        self._tasks.start(self._work(job_id), "taking an event", job_id=job_id)

    def nudge(self, job_id: str) -> None:
        """The job's container is gone: what waits for that looks again now."""
        self._clearing.nudge(job_id)

    def hurry(self) -> None:
        """Somebody waits for a job that has ended to leave its worker."""
        self._clearing.hurry()

    async def stop(self) -> None:
        """Ends what is under way here; jobs go on where they are. Records are all on disk."""
        self._stopping = True
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()
        await self.placing.stop()
        await self._effects.stop()
        await self._tasks.stop()
        await self._secrets.stop()

    # -- inside

    async def _work(self, job_id: str) -> None:
        inbox = self._inbox[job_id]
        try:
            while inbox:
                await self._take(job_id, inbox.popleft())
        finally:
            del self._inbox[job_id]

    async def _take(self, job_id: str, event: Event) -> None:
        record = self._table.get(job_id)
        if record is None:
            return
        # Times that come from a worker are by its clock, which may be set otherwise than ours.
        at = max(record.created_at, min(event.at, self._wall_clock()))
        try:
            after, effects = machine.step(record, attrs.evolve(event, at=at))
        except ImpossibleTransition:
            self._log.failure("impossible event {kind}", kind=event.kind, job_id=job_id)
            return
        if after is record:
            return
        if after.end is not None and record.end is None:
            end = attrs.evolve(ends.advised(after.end), log_tail=self._tails.text(job_id))
            after = attrs.evolve(after, end=end)
        await self._save(after)
        self._show(record, after, event, effects)

    def _show(self, before: JobRecord, after: JobRecord, event: Event, effects: _Effects) -> None:
        """What follows on a save: readers see it, and it is acted on."""
        job_id = after.job_id
        self._table.put(after)
        if after.end is not None and before.end is None and after.spec.secret_names:
            self._secrets.discard(job_id)
        if after.end is not None or after.attempt != before.attempt:
            self._tails.forget(job_id)
        self._tell_log(before, after, event)
        self._arm(after)
        for effect in effects:
            self._effects.start(effect, after)
        self.placing.changed(before, after)

    async def _save(self, record: JobRecord) -> None:
        """Saves, however long the disk refuses: nothing is done or shown before."""
        delay_s = 0.1
        level = LogLevel.error
        while True:
            try:
                await self._store.save(record)
                return
            except CumulusError as error:
                self._log.emit(
                    level,
                    "job {job_id} can't be checkpointed, trying again until it can: {why}",
                    job_id=record.job_id,
                    why=error.message,
                )
            level = LogLevel.debug  # once a job; the store tells how long it lasts
            await sleep(self._clock, delay_s)
            delay_s = min(delay_s * 2, 5.0)

    def _tell_log(self, before: JobRecord, after: JobRecord, event: Event) -> None:
        fields = {
            "job_id": after.job_id,
            "owner": after.owner,
            "phase": str(after.phase),
            "event": str(event.kind),
            "worker": after.placement.hostname if after.placement else None,
        }
        if len(after.attempts) > len(before.attempts):
            over = after.attempts[-1]
            self._log.warn(
                "job {job_id}: attempt {attempt} ended ({reason}: {message}), another one follows",
                attempt=over.attempt,
                reason=over.reason.value,
                message=over.message,
                **fields,
            )
        elif after.end is not None and before.end is None:
            self._log.info(
                "job {job_id} {state}: {message}",
                state=str(after.end.state),
                reason=after.end.reason and str(after.end.reason),
                message=after.end.message or "ok",
                **fields,
            )
        else:
            self._log.info("job {job_id}: {event}, now {phase}", **fields)

    def _arm(self, record: JobRecord) -> None:
        """Sets the one timer that ends the phase the record is in, if it is bounded."""
        old = self._timers.pop(record.job_id, None)
        if old is not None and old.active():
            old.cancel()
        bound = self._bound(record)
        if bound is None or self._stopping:
            return
        delay_s, reason = bound
        timer = self._clock.callLater(delay_s, self._due, record.job_id, record.phase, reason)
        self._timers[record.job_id] = timer

    def _bound(self, record: JobRecord) -> tuple[float, EndReason] | None:
        """How long it may stay in its phase from now on, and what it is then ended for."""
        spec, margin_s = record.spec, self._settings.runner_margin_s
        if record.phase is Phase.QUEUED and spec.queue_timeout_s:
            waited_s = self._wall_clock() - record.waits_since
            return max(0.0, spec.queue_timeout_s - waited_s), EndReason.QUEUE_TIMEOUT
        if record.stop_reason is not None:
            return None
        # The runner keeps these bounds itself; here they are the second line, counted from when
        # we heard of it (again, after a restart): the worker's clock may be set otherwise.
        if record.phase is Phase.STARTING and record.setup_at is not None:
            return spec.setup_timeout_s + margin_s, EndReason.SETUP_TIMEOUT
        if record.phase is Phase.RUNNING:
            return record.duration_left_s + margin_s, EndReason.DURATION_EXCEEDED
        return None

    def _due(self, job_id: str, phase: Phase, reason: EndReason) -> None:
        record = self._table.get(job_id)
        if record is None or record.phase is not phase:
            return
        if phase is Phase.QUEUED:
            self.placing.time_is_over(job_id)
        elif self._journals.settled and not self._is_storing(job_id):
            self.tell(job_id, EventKind.STOP, stop_reason=reason)
        else:
            # Its end may wait on its worker for our disk, or here for its outputs: that is no
            # reason to call it late.
            timer = self._clock.callLater(_DISK_PAUSE_S, self._due, job_id, phase, reason)
            self._timers[job_id] = timer
