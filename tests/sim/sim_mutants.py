"""Deliberate bugs, each of which the simulation must catch: what is never caught is not tested."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import attrs

from cumulusd.agent.journal_sender import JournalSender
from cumulusd.agent.live_job import LiveJob
from cumulusd.agent.partitions import Partitions
from cumulusd.chronos.ledger import Ledger
from cumulusd.jobs import checkpoints, machine, timeline
from cumulusd.jobs.clearing import Clearing
from cumulusd.jobs.events import Effect
from cumulusd.jobs.intake import Intake
from cumulusd.jobs.journal_files import JournalFiles
from cumulusd.jobs.model import JobRecord, Moment, Phase
from cumulusd.jobs.ports import Kept
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.watcher import Watcher
from cumulusd.workers.workers import AgentWorkers
from tests.sim.sim_plan import Plan, abandoned, interrupted, paused, regretted, talkative

Patch = Callable[[], AbstractContextManager[Any]]

_received = Intake.received
_save = Supervisor._save
_begin = JournalSender.begin
_release = Ledger.release
_release_of_agent = AgentWorkers.release
_until_done = Clearing._until_done
_after_restart = machine.effects_after_restart
_alive = Watcher._alive


def _acknowledged_too_early(self: Any, node: str, job: str, attempt: int, *rest: Any) -> bool:
    taken = _received(self, node, job, attempt, *rest)
    if taken:
        self._acknowledge(job, self._journals.open(job).end_offset)
    return taken


async def _saved_later(self: Any, record: JobRecord) -> None:
    self._tasks.start(_save(self, record), "saving later")


def _a_frame_further(self: Any, job_id: str, attempt: int, offset: int) -> None:
    _begin(self, job_id, attempt, offset + 20 if offset else 0)


def _frees_two(self: Ledger, job_id: str, attempt: int) -> Ledger:
    ledger = _release(self, job_id, attempt)
    for key in ledger.partitions:
        return attrs.evolve(
            ledger, partitions={k: one for k, one in ledger.partitions.items() if k != key}
        )
    return ledger


async def _not_waited_for(self: Any, record: JobRecord, attempt: Any) -> bool:
    return record.phase is Phase.RETRYING or await _until_done(self, record, attempt)


async def _given_up_in_silence(self: Any, record: JobRecord, attempt: Any) -> bool:
    await _until_done(self, record, attempt)
    return True


def _stop_forgotten(record: JobRecord) -> tuple[Effect, ...]:
    return tuple(one for one in _after_restart(record) if one is not Effect.STOP_RUNNER)


def _reaps_running_jobs(self: Any, job_id: str, attempt: int, node_id: str | None = None) -> bool:
    record = self._table.get(job_id)
    running = record is not None and record.phase is Phase.RUNNING
    return not running and _alive(self, job_id, attempt, node_id)


async def _keeps_nothing(self: Any, *where: Any, keep: bool = False) -> Any:
    return attrs.evolve(
        await _release_of_agent(self, *where), kept=Kept(checkpoints=True, files=False)
    )


def _nothing_to_load(self: Any) -> None:
    self._ledger = attrs.evolve(self._file.load(), partitions={})
    self._present = sorted(self._ledger.devices)


def _noted_unclamped(record: JobRecord, at: float) -> JobRecord:
    now = Moment(stage=timeline.stage_of(record), at=at, attempt=record.attempt)
    last = record.moments[-1]
    if (now.stage, now.attempt) == (last.stage, last.attempt):
        return record
    return attrs.evolve(record, moments=(*record.moments, now))


@contextmanager
def _early_release() -> Iterator[None]:
    async def gone(self: Any, record: JobRecord, tries: int) -> bool:
        return True

    with (
        mock.patch.object(Clearing, "_end_container", gone),
        mock.patch.object(LiveJob, "lock_free", lambda self: True),
    ):
        yield


#: Those that show in such schedules, and seldom or never in others.
ADAPTED: dict[str, Callable[[Plan], Plan]] = {
    "the cap takes what is not on disk for certain": talkative,
    "an EXIT on disk is not heard again after a restart": interrupted,
    "effects and readers don't wait for the save": interrupted,
    "what a worker that was given up has is dropped without a word": abandoned,
    "a stop is forgotten over a restart": regretted,
    "a job that resumes doesn't go where its checkpoint is": paused,
    "what a job keeps goes when it pauses": paused,
    "an attempt after a pause has all of the duration again": paused,
}
#: What the bug is, to how it is made.
MUTANTS: dict[str, Patch] = {
    "a journal is acknowledged before it is on disk": lambda: mock.patch.object(
        Intake, "received", _acknowledged_too_early
    ),
    "a share is released while its container and the lock are there": _early_release,
    "a release frees another job's share as well": lambda: mock.patch.object(
        Ledger, "release", _frees_two
    ),
    "an EXIT on disk is not heard again after a restart": lambda: mock.patch.object(
        Intake, "resume", lambda self, record: None
    ),
    "effects and readers don't wait for the save": lambda: mock.patch.object(
        Supervisor, "_save", _saved_later
    ),
    "a journal goes on a header too far after a reconnection": lambda: mock.patch.object(
        JournalSender, "begin", _a_frame_further
    ),
    "the reaper clears jobs that run": lambda: mock.patch.object(
        Watcher, "_alive", _reaps_running_jobs
    ),
    "the next attempt doesn't wait for the last one's worker": lambda: mock.patch.object(
        Clearing, "_until_done", _not_waited_for
    ),
    "what a worker that was given up has is dropped without a word": lambda: mock.patch.object(
        Clearing, "_until_done", _given_up_in_silence
    ),
    "the cap takes what is not on disk for certain": lambda: mock.patch.object(
        JournalFiles, "_is_uncertain", lambda self, segment: False
    ),
    "a stop is forgotten over a restart": lambda: mock.patch.object(
        machine, "effects_after_restart", _stop_forgotten
    ),
    "a job that resumes doesn't go where its checkpoint is": lambda: mock.patch.object(
        checkpoints, "pin", lambda record, released: None
    ),
    "what a job keeps goes when it pauses": lambda: mock.patch.object(
        AgentWorkers, "release", _keeps_nothing
    ),
    "an attempt after a pause has all of the duration again": lambda: mock.patch.object(
        JobRecord, "duration_left_s", property(lambda self: self.spec.duration_s)
    ),
    "a stage is noted at the hour of a worker's clock": lambda: mock.patch.object(
        timeline, "noted", _noted_unclamped
    ),
    "an agent forgets its partitions over a restart": lambda: mock.patch.object(
        Partitions, "load", _nothing_to_load
    ),
}
