"""What a job's owner may ask of its life: cancel, pause, resume, delete. Of `relay`."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.logger import Logger

from cumulus_wire.codes import EndReason
from cumulusd.errors import Conflict, NotAuthorized, TooMany
from cumulusd.identity import Principal
from cumulusd.jobs import checkpoints
from cumulusd.jobs.events import EventKind
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Clock
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.table import JobTable
from cumulusd.tasks import wait_at_most

#: How long a delete waits for a job that has ended to leave its worker.
LEAVING_S = 30.0
#: Meanwhile it is said so often that somebody waits.
_HURRY_S = 1.0


class Lifecycle:
    """Asks the supervisor, and answers when what was asked is on disk."""

    _log = Logger()

    def __init__(
        self,
        *,
        table: JobTable,
        supervisor: Supervisor,
        clock: Clock,
        readable: Callable[[Principal, str], JobRecord],
        forget: Callable[[str], Awaitable[None]],
        max_waiting: int,
        max_paused_per_owner: int,
    ) -> None:
        """`readable` gives the record of a job that this principal may see, or raises NotFound;
        `forget` deletes all that is kept of an ended one. `max_waiting`: jobs in the queue."""
        self._table = table
        self._supervisor = supervisor
        self._clock = clock
        self._readable = readable
        self._forget = forget
        self._max_waiting = max_waiting
        self._max_paused_per_owner = max_paused_per_owner

    async def cancel(self, who: Principal, job_id: str) -> dict[str, Any]:
        """Asks a job to end. That it was asked is durable when this fires; its state tells when
        it has ended. Raises Conflict when it has ended already, or does so first."""
        self._changeable(who, job_id, "cancel")
        self._log.info("job {job_id}: cancel asked by {who}", job_id=job_id, who=who.name)
        self._supervisor.tell(job_id, EventKind.STOP, stop_reason=EndReason.CANCELLED_BY_USER)
        # What is shown is on disk: a daemon that is killed now still knows of it.
        while (record := self._readable(who, job_id)).stop_reason is None:
            if record.end is not None:
                raise _ended_already(record)
            await self._table.signal(job_id).wait()
        return {"cancelled": True, "message": "Job cancelled", "state": record.state.value}

    async def pause(self, who: Principal, job_id: str) -> dict[str, Any]:
        """Asks a job to pause. That it was asked is durable when this fires; its state is `paused`
        once it holds no share any more. Raises Conflict when it is paused, or ends."""
        record = self._changeable(who, job_id, "pause")
        if record.phase is Phase.PAUSED:
            raise Conflict(
                f"Job {job_id} is paused already",
                job_id=job_id,
                details={"state": record.state.value},
                hint="resume it to let it go on",
            )
        if not record.pause_requested:
            self._require_room_to_pause(record)
            self._log.info("job {job_id}: pause asked by {who}", job_id=job_id, who=who.name)
            self._supervisor.tell(job_id, EventKind.PAUSE)
        while not (record := self._unstopped(who, job_id)).pause_requested:
            await self._table.signal(job_id).wait()
        return {"paused": True, "message": _words_of_pause(record), "state": record.state.value}

    async def resume(self, who: Principal, job_id: str) -> dict[str, Any]:
        """Lets a paused job go on under its id: it is queued again. A pause that was asked for, and
        that the code has not come to, is withdrawn. Raises Conflict when there is neither."""
        record = self._changeable(who, job_id, "resume")
        if not record.pause_requested:
            raise Conflict(
                f"Job {job_id} isn't paused: it is {record.state}",
                job_id=job_id,
                details={"state": record.state.value},
                hint="pause it first",
            )
        placing = self._supervisor.placing
        if record.phase is Phase.PAUSED and placing.waiting_count >= self._max_waiting:
            raise TooMany(
                f"Job {job_id} can't be queued again now: {placing.waiting_count} jobs wait",
                job_id=job_id,
                hint="resume it later; it stays paused",
            )
        message = self._words_of_resume(record)
        self._log.info("job {job_id}: resume asked by {who}", job_id=job_id, who=who.name)
        self._supervisor.tell(job_id, EventKind.RESUME)
        while (record := self._unstopped(who, job_id)).pause_requested:
            await self._table.signal(job_id).wait()
        return {"resumed": True, "message": message, "state": record.state.value}

    def checkpoints(self, who: Principal, job_id: str) -> dict[str, Any]:
        """The job's checkpoints as its code told them last, the newest last."""
        record = self._readable(who, job_id)
        return {"checkpoints": [attrs.asdict(one) for one in record.checkpoints]}

    async def delete(self, who: Principal, job_id: str) -> dict[str, Any]:
        """Deletes all that is kept of a job that has ended: record, output, result, outputs, what
        it kept on its workers. Raises Conflict for one that hasn't."""
        record = self._readable(who, job_id)
        self._require_change(who, record, "delete")
        if record.end is None:
            raise Conflict(
                f"Job {job_id} is {record.state} and can't be deleted",
                job_id=job_id,
                details={"state": record.state.value},
                hint="cancel it first",
            )
        until = self._clock.seconds() + LEAVING_S
        while (record := self._readable(who, job_id)).phase is not Phase.ENDED:
            left_s = until - self._clock.seconds()
            if left_s <= 0:
                raise Conflict(
                    f"Job {job_id} has ended, but has not left its worker yet",
                    job_id=job_id,
                    details={"state": record.state.value},
                    hint="delete it again later, when its worker has answered",
                )
            self._supervisor.hurry()
            changed = self._table.signal(job_id).wait()
            await wait_at_most(self._clock, min(left_s, _HURRY_S), changed)
        self._log.info("job {job_id}: deleted by {who}", job_id=job_id, who=who.name)
        await self._forget(job_id)
        return {"deleted": True, "message": "Job deleted"}

    # -- inside

    def _changeable(self, who: Principal, job_id: str, verb: str) -> JobRecord:
        """The record of a live job. Raises NotFound, NotAuthorized, Conflict."""
        record = self._readable(who, job_id)
        self._require_change(who, record, verb)
        if record.end is not None:
            raise _ended_already(record)
        return record

    def _require_change(self, who: Principal, record: JobRecord, verb: str) -> None:
        if not who.may_change(record.owner):
            raise NotAuthorized(
                f"A token of role {who.role} may not {verb} jobs", job_id=record.job_id
            )

    def _unstopped(self, who: Principal, job_id: str) -> JobRecord:
        """The record, while the job can still be paused. Raises Conflict when it ends."""
        record = self._readable(who, job_id)
        if record.end is not None:
            raise _ended_already(record)
        if record.stop_reason is not None:
            raise Conflict(
                f"Job {job_id} is being ended ({record.stop_reason})",
                job_id=job_id,
                details={"state": record.state.value, "stop_reason": record.stop_reason.value},
            )
        return record

    def _require_room_to_pause(self, record: JobRecord) -> None:
        paused = sum(
            one.owner == record.owner and one.phase is Phase.PAUSED for one in self._table.live()
        )
        if paused >= self._max_paused_per_owner:
            raise TooMany(
                f"{record.owner} has {paused} paused jobs, and job {record.job_id} would be one "
                "more",
                job_id=record.job_id,
                hint="resume or cancel some of them",
            )

    def _words_of_resume(self, record: JobRecord) -> str:
        if record.phase is not Phase.PAUSED:
            if record.phase is Phase.PAUSING:
                return "Job resumed: it has paused just now, and is queued again at once"
            return "Pause withdrawn: the job had not paused yet"
        if record.needs_kept:
            nodes = self._supervisor.placing.nodes
            names = [node.hostname for node in nodes if node.node_id == record.pinned_node]
            where = names[0] if names else f"the worker {record.pinned_node}"
            return f"Job resumed: it goes on from what it kept on {where}, and so only there"
        if checkpoints.are_anywhere(record.checkpoints):
            return "Job resumed: it goes on from its checkpoint on S3, on any worker"
        if record.pauses:
            return "Job resumed: it kept no checkpoint, and begins anew on any worker"
        if record.attempts:
            return "Job resumed: another attempt follows on the one that was lost, on any worker"
        return "Job resumed: it had not begun, and waits for its place again"


def _words_of_pause(record: JobRecord) -> str:
    if record.phase is Phase.PAUSED:
        return "Job paused: it holds no share of a device, and goes on when it is resumed"
    if record.phase is Phase.PAUSING:
        return "The job's code has paused; its share is being freed"
    if record.phase is Phase.RUNNING:
        return "Pause asked for: the code is told, and pauses where it next looks"
    return "Pause asked for: the code is told as soon as it runs"


def _ended_already(record: JobRecord) -> Conflict:
    return Conflict(
        f"Job {record.job_id} has ended already: {record.state}",
        hint="nothing of it runs any more; submit it again if it is wanted after all",
        job_id=record.job_id,
        details={"state": record.state.value},
    )
