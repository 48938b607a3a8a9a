"""Clears attempts from their workers, until nothing of them is left or can run any more."""

from collections.abc import Callable, Coroutine
from typing import Any

import attrs
from twisted.logger import Logger, LogLevel

from cumulus_wire.codes import EndReason
from cumulusd.errors import CumulusError, NotFound
from cumulusd.jobs import waits
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.lull import Lull
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Clock, Kept, Platform, Released, Workers
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import Signal, sleep, wait_at_most

#: About one second at the pace of `_until_done`.
_LOOKS_BEFORE_STOP = 6
#: A journal that can't be closed, on a full disk, is tried again after so long.
_TRY_AGAIN_S = 5.0
#: Between an attempt's end and the next one's place in the line: doubled with each, up to a minute.
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 60.0
#: What a runner may take beyond its own bounds to be gone.
_LIFETIME_MARGIN_S = 30.0


#: Phases after which another attempt may follow.
_GOES_ON = (Phase.RETRYING, Phase.PAUSING)


@attrs.frozen(kw_only=True)
class Cleared:
    """How an attempt left its worker."""

    journal_start: int | None  #: where the next one's journal begins; None: this one's is open
    released: Released  #: not done: nothing of it can run any more, but the worker was given up


class Clearing:
    """Container, partition and folder of one attempt after the other, each when its job asks."""

    _log = Logger()

    def __init__(
        self,
        *,
        platform: Platform,
        workers: Workers,
        clock: Clock,
        wall_clock: Callable[[], float],
        journals: Journals,
        table: JobTable,
        lull: Lull,
        is_gone: Callable[[str], bool],
        agent_grace_s: float,
    ) -> None:
        """`clock` never jumps: what can't run any more is told by it. `is_gone(node id)`: that
        node was removed from the pool. `agent_grace_s`: how long one that is there may be away."""
        self._platform = platform
        self._workers = workers
        self._clock = clock
        self._wall_clock = wall_clock
        self._journals = journals
        self._table = table
        self._lull = lull
        self._is_gone = is_gone
        self._agent_grace_s = agent_grace_s
        self._began_at = clock.seconds()
        #: (job id, attempt) -> when its grant came; those of an earlier daemon: when this began.
        self._granted_at: dict[tuple[str, int], float] = {}
        self._nudges: dict[str, Signal] = {}
        self._kept: dict[str, Kept] = {}  #: what a job that is being cleared keeps on its worker

    def granted(self, record: JobRecord) -> None:
        """Its grant came now: from here on its runner's longest life is counted."""
        self._granted_at[record.job_id, record.attempt] = self._clock.seconds()

    def nudge(self, job_id: str) -> None:
        """Something about the job's container changed: look again now."""
        signal = self._nudges.get(job_id)
        if signal is not None:
            signal.fire()

    def hurry(self) -> None:
        """Somebody waits for a job to be cleared: not only when no other starts."""
        self._lull.end()

    async def clear(self, record: JobRecord) -> Cleared:
        """Container, partition and folder, until nothing of them is left, or it is proven that
        nothing of them can run any more; the reaper then clears what comes back.

        In this order, but for a job whose runner said its end: its share is handed on as soon as
        the folder's lock is free. Of its container there is nothing left but the platform's record,
        which goes when nothing is being started: its removal costs the worker as much as a start.
        """
        begun_at = self._clock.seconds()
        self._explain(record, None)
        released = await self._hand_on(record)
        if released is not None:
            await self._lull.wait()
        if record.grant is not None:
            await self._until_done(
                record, self._end_container if released is None else self._remove_container
            )
        if released is None:
            released = Released(done=True)
            if record.placement is not None:
                done = await self._until_done(record, self._release)
                released = Released(done=done, kept=self._kept.pop(record.job_id, None))
        given_up = record.grant is not None and await self._may_miss_some(record, released.done)
        journal_start: int | None = None
        if record.phase in _GOES_ON or given_up:
            # Also what a worker that comes back still sends of this attempt is too late now.
            journal_start = await self._seal(record, given_up)
        if record.phase is Phase.RETRYING:
            pause_s = min(_FIRST_PAUSE_S * 2 ** (record.attempt - 1), _MAX_PAUSE_S)
            await sleep(self._clock, max(0.0, begun_at + pause_s - self._clock.seconds()))
        self._granted_at.pop((record.job_id, record.attempt), None)
        return Cleared(journal_start=journal_start, released=released)

    async def _hand_on(self, record: JobRecord) -> Released | None:
        """Has partition and folder given back at once, where the runner itself said how the job
        ended: it did so when the job's processes were gone, and it is the last to hold the lock.
        None: not possible now, or not so."""
        if record.phase is not Phase.ENDING or record.placement is None or record.grant is None:
            return None
        try:
            journal = self._journals.get(record.job_id)
            if journal is None or not journal.finished_since(record.journal_start):
                return None
            done = await self._release(record, 0)
        except CumulusError as error:
            self._log.info(
                "job {job_id}: its share can't be handed on yet: {why}",
                job_id=record.job_id,
                why=error.message,
            )
            return None
        if not done:
            return None
        self._table.share_given_back(record.job_id)
        return Released(done=True)

    async def _may_miss_some(self, record: JobRecord, released: bool) -> bool:
        """Whether the worker may have more of the attempt's journal than is here. One that gave the
        folder back has sent all of it, and so has one whose last record is here: a pause is told
        by that."""
        if record.phase is Phase.PAUSING:
            return False
        over = record.end or record.attempts[-1]
        if over.reason is EndReason.JOURNAL_CORRUPT:
            return True
        if released:
            return False
        assert record.placement is not None
        node_id, job_id = record.placement.node_id, record.job_id
        try:
            end, lock_free = await self._workers.folder(node_id, job_id, record.attempt)
            return not lock_free or self._journals.open(job_id).received_offset < end
        except NotFound:
            return False  # it had sent all, before it could not note that the share is free
        except CumulusError:
            return True  # it is away, or our disk is: nobody says that this is all

    async def _seal(self, record: JobRecord, given_up: bool) -> int:
        """Where the next attempt's journal begins: durable. `given_up`: its worker was, so that
        something of this one's may be missing."""
        begin = record.journal_start if given_up else None
        while True:
            try:
                return await self._journals.open(record.job_id).seal(
                    record.attempt,
                    given_up_from=begin,
                    time_us=int(self._wall_clock() * 1e6),
                )
            except CumulusError as error:
                self._log.error(
                    "the journal of job {job_id}'s attempt can't be closed yet: {why}",
                    job_id=record.job_id,
                    why=error.message,
                )
            await sleep(self._clock, _TRY_AGAIN_S)

    async def _until_done(
        self, record: JobRecord, attempt: Callable[[JobRecord, int], Coroutine[Any, Any, bool]]
    ) -> bool:
        """Repeats until true, sooner when nudged; who is away is waited for, as long as something
        of the job could run there. False: so long it was, and it isn't waited for any more."""
        signal = self._nudges.setdefault(record.job_id, Signal())
        delay_s, tries = 0.05, 0
        told: str | None = None
        away_since: float | None = None
        try:
            while True:
                holds = "its processes run, or its journal is still on the way"
                try:
                    if await attempt(record, tries):
                        return True
                    away_since = None
                except CumulusError as error:
                    holds = error.message
                    if away_since is None:
                        away_since = self._clock.seconds()
                    # Once a cause: after a restart every job waits a moment for its agent.
                    level = LogLevel.info if error.message != told else LogLevel.debug
                    told = error.message
                    self._log.emit(
                        level,
                        "job {job_id} can't be cleared from its worker yet: {why}",
                        job_id=record.job_id,
                        why=error.message,
                    )
                proof = self._proof(record, away_since)
                if proof is not None:
                    self._log.warn(
                        "job {job_id} is not waited for on its worker any more: {why}",
                        job_id=record.job_id,
                        why=proof,
                    )
                    await self._give_up_container(record)
                    return False
                self._explain(record, holds)
                tries += 1
                await wait_at_most(self._clock, delay_s, signal.wait())
                delay_s = min(delay_s * 1.5, 5.0)
        finally:
            self._nudges.pop(record.job_id, None)

    def _proof(self, record: JobRecord, away_since: float | None) -> str | None:
        """Why nothing of this attempt can run any more, though its worker doesn't say so.
        `away_since`: when worker or platform could not be asked any more; None: they could, and
        said that something may."""
        assert record.placement is not None
        where = record.placement.hostname
        if self._is_gone(record.placement.node_id):
            return f"{where} was removed from the pool"
        if away_since is None:
            return None
        if record.grant is None and record.phase is Phase.RETRYING:
            return "its container was never asked for"
        left_s = self._lifetime_left_s(record)
        # An agent that only restarts is waited for: it may have more of the journal.
        away_s = self._clock.seconds() - away_since
        if left_s is not None and left_s <= 0 and away_s >= self._agent_grace_s:
            return f"the time that its runner on {where} had is over, to its last bound"
        return None

    def _lifetime_left_s(self, record: JobRecord) -> float | None:
        """How long something of it may still run at most; None: not known."""
        if record.grant is None or record.grant.lifetime_s is None:
            return None
        granted_at = self._granted_at.get((record.job_id, record.attempt), self._began_at)
        gone_at = granted_at + record.grant.lifetime_s + _LIFETIME_MARGIN_S
        return gone_at - self._clock.seconds()

    async def _give_up_container(self, record: JobRecord) -> None:
        """Should its worker come back, the platform doesn't begin it there anew."""
        if record.grant is None:
            return
        try:
            await self._platform.stop(record.job_id, record.attempt)
        except CumulusError as error:
            self._log.info(
                "job {job_id}: its container can't be stopped: {why}",
                job_id=record.job_id,
                why=error.message,
            )

    def _explain(self, record: JobRecord, holds: str | None) -> None:
        """Tells who waits for the next attempt what it waits for."""
        if record.phase is not Phase.RETRYING:
            return
        left_s = self._lifetime_left_s(record)
        # Whole minutes, upwards: told once, not every second anew.
        certain_at = None
        if left_s is not None:
            certain_at = ((self._wall_clock() + left_s) // 60 + 1) * 60
        wait = waits.retrying(record.attempts[-1], record.last_attempt, holds, certain_at)
        self._table.explain(record.job_id, wait, Phase.RETRYING)

    async def _end_container(self, record: JobRecord, tries: int) -> bool:
        """True when the container is gone: the platform and the folder's lock say so."""
        gone = await self._is_over(record) and await self._lock_free(record)
        if gone:
            await self._platform.remove(record.job_id, record.attempt)
        else:
            await self._stop_late(record, tries)
        return gone

    async def _remove_container(self, record: JobRecord, tries: int) -> bool:
        """The same, of an attempt whose folder is gone since its lock was free."""
        if await self._platform.remove_ended(record.job_id, record.attempt):
            return True
        await self._stop_late(record, tries)
        return False

    async def _is_over(self, record: JobRecord) -> bool:
        """The platform shows no container of it that runs or may start."""
        container = await self._platform.container(record.job_id, record.attempt)
        return container is None or not container.alive

    async def _stop_late(self, record: JobRecord, tries: int) -> None:
        if tries >= _LOOKS_BEFORE_STOP:
            # A runner that has said its end leaves by itself within milliseconds.
            await self._platform.stop(record.job_id, record.attempt)

    async def _lock_free(self, record: JobRecord) -> bool:
        assert record.placement is not None
        try:
            node_id = record.placement.node_id
            return (await self._workers.folder(node_id, record.job_id, record.attempt))[1]
        except NotFound:
            return True

    async def _release(self, record: JobRecord, tries: int) -> bool:
        assert record.placement is not None
        released = await self._workers.release(
            record.placement.node_id,
            record.job_id,
            record.attempt,
            keep=record.phase in _GOES_ON,
        )
        if released.kept is not None:
            self._kept[record.job_id] = released.kept
        return released.done
