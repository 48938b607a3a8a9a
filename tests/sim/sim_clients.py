"""Those who use the daemon: a submitter for each job, and readers of its journal."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from cumulus_wire.journal import FrameParser, is_rest_missing
from cumulusd.errors import Conflict, CumulusError, NotFound, Unavailable
from cumulusd.identity import Principal, Role
from cumulusd.jobs.model import End, JobRecord
from tests.sim.sim_plan import JobPlan
from tests.sim.sim_runner import Journal

if TYPE_CHECKING:
    from tests.sim.sim_daemon import Daemon
    from tests.sim.sim_world import World

PACKAGE = b"not really a zip" * 20
PACKAGE_SHA256 = hashlib.sha256(PACKAGE).hexdigest()
_AGAIN_S = 0.6


@attrs.define(eq=False)
class Facts:
    """All that is known of one job from outside of the code under test."""

    plan: JobPlan
    journal: Journal = attrs.field(factory=Journal)
    job_id: str | None = None
    record: JobRecord | None = None
    asked_at: float | None = None  #: the last submit before it had a record
    made_at: float | None = None  #: that, once it has one
    accepted_at: float | None = None
    cancel_asked_at: float | None = None
    cancel_done_at: float | None = None  #: when that was acknowledged
    code_began_at: float | None = None
    setup_began_at: float | None = None
    end: End | None = None
    ended: bool = False
    deaths: list[str] = attrs.field(factory=list)  #: why containers of it died without an end
    launches_refused: int = 0
    kept_lost: bool = False  #: what it kept on a worker was deleted there
    paused: bool = False  #: its code has, and its worker is being cleared
    resumed_at: float | None = None  #: when it was queued again after its last pause
    exit_here_at: float | None = None  #: when the daemon that runs now got the EXIT

    @property
    def who(self) -> Principal:
        return Principal(name=self.plan.owner, owner=self.plan.owner, role=Role.CLIENT)

    @property
    def name(self) -> str:
        return f"{self.plan.key} ({self.job_id}, {self.plan.script.kind})"


class Submitter:
    """Submits until it is taken; cancels when the plan says so."""

    def __init__(self, world: "World", facts: Facts) -> None:
        self._world = world
        self._facts = facts
        self._asked: Daemon | None = None
        self._cancelling: Daemon | None = None
        #: the daemon that was asked to pause or resume, and which
        self._changing: tuple[Daemon, str] | None = None
        self._pauses = list(facts.plan.pauses)
        self.done = False

    def submit(self) -> None:
        daemon = self._world.daemon
        if daemon is None:
            self._world.clock.callLater(_AGAIN_S, self.submit)
            return
        self._asked = daemon
        self._facts.asked_at = self._world.clock.now
        plan = self._facts.plan
        spec = {
            "package": {"sha256": PACKAGE_SHA256, "size_bytes": len(PACKAGE)},
            "gpu_memory": plan.gpu_memory,
            "duration_s": plan.duration_s,
            "setup_timeout_s": plan.setup_timeout_s,
            "priority": plan.priority,
            "retries": plan.retries,
            "idempotency_key": plan.key,
        }
        if plan.queue_timeout_s is not None:
            spec["queue_timeout_s"] = plan.queue_timeout_s
        asking = Deferred.fromCoroutine(daemon.relay.submit(self._facts.who, spec))
        asking.addCallbacks(self._taken, self._refused, (daemon,), None, (daemon,))

    def daemon_died(self, daemon: "Daemon") -> None:
        if self._asked is daemon:
            self._asked = None
            self._world.clock.callLater(_AGAIN_S, self.submit)
        if self._cancelling is daemon:
            self._cancelling = None
            self._world.clock.callLater(_AGAIN_S, self.cancel)
        if self._changing is not None and self._changing[0] is daemon:
            verb, self._changing = self._changing[1], None
            self._world.clock.callLater(_AGAIN_S, self._change, verb)

    def pause(self) -> None:
        """Pauses and resumes the job as often as the plan says, if it doesn't end before."""
        self._change("pause")

    def _change(self, verb: str) -> None:
        daemon, job_id = self._world.daemon, self._facts.job_id
        if self._world.over or self._facts.end is not None:
            return
        if daemon is None or job_id is None or self._facts.accepted_at is None:
            self._world.clock.callLater(0.3, self._change, verb)
            return
        self._changing = daemon, verb
        asking = Deferred.fromCoroutine(getattr(daemon.relay, verb)(self._facts.who, job_id))
        asking.addCallbacks(self._changed, self._unchanged, (daemon, verb), None, (daemon, verb))

    def _changed(self, answer: Any, daemon: "Daemon", verb: str) -> None:
        if self._changing != (daemon, verb):
            return
        self._changing = None
        self._world.coverage.actions[verb] += 1
        self._world.trace("{} of {}: {}", verb, self._facts.name, answer["message"])
        begun_at = self._world.begun_at + 0.3
        if verb == "pause":
            self._world.clock.callLater(self._pauses.pop(0)[1], self._change, "resume")
        elif self._pauses:
            left_s = begun_at + self._pauses[0][0] - self._world.clock.now
            self._world.clock.callLater(max(0.0, left_s), self._change, "pause")

    def _unchanged(self, failure: Failure, daemon: "Daemon", verb: str) -> None:
        if self._changing != (daemon, verb):
            return
        # The world hears of what it lost against a moment later.
        self._world.clock.callLater(0, self._judge_change, failure.value, daemon, verb)

    def _judge_change(self, error: Exception, daemon: "Daemon", verb: str) -> None:
        if self._changing != (daemon, verb):
            return
        self._changing = None
        facts, record = self._facts, self._facts.record
        assert record is not None
        if isinstance(error, CancelledError):
            self._world.clock.callLater(_AGAIN_S, self._change, verb)  # the daemon stops
        elif not isinstance(error, Conflict):
            self._world.note(f"{verb} of {facts.name} failed: {error!r}")
        elif facts.end is None and record.stop_reason is not None:
            # It may be tried again, and then it must not stay paused.
            self._world.clock.callLater(_AGAIN_S, self._change, verb)
        elif facts.end is None and record.pause_requested != (verb == "pause"):
            self._world.note(f"{verb} of {facts.name} was refused: {error!r}")
        elif facts.end is None and verb == "pause":
            # An answer was lost with its daemon.
            self._world.clock.callLater(0.1, self._change, "resume")

    def cancel(self) -> None:
        daemon, job_id = self._world.daemon, self._facts.job_id
        if daemon is None or job_id is None or self._facts.accepted_at is None:
            self._world.clock.callLater(0.3, self.cancel)
            return
        self._cancelling = daemon
        if self._facts.cancel_asked_at is None:
            self._facts.cancel_asked_at = self._world.clock.now
        asking = Deferred.fromCoroutine(daemon.relay.cancel(self._facts.who, job_id))
        asking.addCallbacks(self._cancelled, self._not_cancelled, (daemon,), None, (daemon,))

    def _taken(self, view: Mapping[str, Any], daemon: "Daemon") -> None:
        if self._asked is not daemon:
            return
        self._asked = None
        self.done = True
        facts, world = self._facts, self._world
        if facts.job_id != view["job_id"]:
            world.note(f"job {facts.name} was acknowledged as {view['job_id']}")
        facts.accepted_at = world.clock.now
        world.trace("accepted {}", facts.name)
        for number in range(facts.plan.readers):
            Reader(world, facts, number).attach()

    def _refused(self, failure: Failure, daemon: "Daemon") -> None:
        if self._asked is not daemon:
            return
        self._asked = None
        if isinstance(failure.value, CancelledError):
            pass  # the daemon stops
        elif not isinstance(failure.value, CumulusError) or failure.value.status < 429:
            self._world.note(f"submit of {self._facts.name} failed: {failure.value!r}")
        if not self._world.over:
            self._world.clock.callLater(_AGAIN_S, self.submit)

    def _cancelled(self, answer: Any, daemon: "Daemon") -> None:
        if self._cancelling is daemon:
            self._cancelling = None
            self._facts.cancel_done_at = self._world.clock.now

    def _not_cancelled(self, failure: Failure, daemon: "Daemon") -> None:
        if self._cancelling is not daemon:
            return
        self._cancelling = None
        # As for readers: the world hears of the end a moment later.
        self._world.clock.callLater(0, self._judge_cancel, failure.value)

    def _judge_cancel(self, error: Exception) -> None:
        if not isinstance(error, CumulusError) or self._facts.end is None:
            self._world.note(f"cancel of {self._facts.name} failed: {error!r}")


class Reader:
    """Follows one job from offset to offset, over cuts, until its end is told."""

    def __init__(self, world: "World", facts: Facts, number: int) -> None:
        self._world = world
        self._facts = facts
        self._number = number
        self._offset = 0
        self._gaps: list[tuple[int, int]] = []
        self._daemon: Daemon | None = None
        self._following: Deferred[Any] | None = None
        self._tries = 0
        world.readers.append(self)
        self.done = False

    def attach(self) -> None:
        """(Re)attaches from its offset on."""
        daemon = self._world.daemon
        if self.done or self._following is not None:
            return
        if daemon is None:
            self._world.clock.callLater(_AGAIN_S, self.attach)
            return
        self._daemon = daemon
        assert self._facts.job_id is not None
        coroutine = daemon.relay.follow(
            self._facts.who, self._facts.job_id, self._offset, lambda part: self._take(daemon, part)
        )
        self._following = following = Deferred.fromCoroutine(coroutine)
        if self._world.random.random() < 0.3:
            self._world.clock.callLater(self._world.random.uniform(0.1, 5.0), self._leave, daemon)
        following.addCallbacks(self._ended, self._failed, (daemon,), None, (daemon,))

    def daemon_died(self, daemon: "Daemon") -> None:
        if self._daemon is daemon:
            self._daemon = self._following = None
            self._world.clock.callLater(self._world.random.uniform(0.2, 1.5), self.attach)

    async def _take(self, daemon: "Daemon", part: Mapping[str, Any]) -> None:
        if daemon is not self._daemon or part["event"] == "state":
            return
        offset, after = part["offset"], part["next_offset"]
        if offset != self._offset or after <= offset:
            self._world.note(
                f"a reader of {self._facts.name} at {self._offset} was sent {offset} to {after}"
            )
        if part["event"] == "gap":
            self._gaps.append((offset, after))
        elif self._facts.record is None or not agree(
            self._facts.journal, self._facts.record.attempt, offset, part["frames"]
        ):
            self._world.note(f"a reader of {self._facts.name} was sent other bytes at {offset}")
        self._offset = after
        if self._world.random.random() < 0.1:
            await daemon.clock.later(self._world.random.uniform(0.05, 1.0))

    def _leave(self, daemon: "Daemon") -> None:
        if self._daemon is daemon and self._following is not None and not self.done:
            self._following.cancel()

    def _ended(self, answer: Mapping[str, Any], daemon: "Daemon") -> None:
        if self._daemon is not daemon:
            return
        self._following, self.done = None, True
        # Readers are woken before the table's watchers, of which the world is one.
        self._world.clock.callLater(0, self._judge, answer["job"])

    def _judge(self, told: Mapping[str, Any]) -> None:
        facts = self._facts
        if facts.end is None or told["status"] != facts.end.state.value:
            self._world.note(f"a reader of {facts.name} was told {told['status']}")
        elif self._world.ended_by_exit(facts) and self._offset < max(facts.journal.exits):
            self._world.note(
                f"a reader of {facts.name} was told the end at {self._offset}, before the EXIT"
            )

    def _failed(self, failure: Failure, daemon: "Daemon") -> None:
        if self._daemon is not daemon:
            return
        self._following = None
        error = failure.value
        if isinstance(error, CancelledError):
            pass  # it left
        elif isinstance(error, NotFound | Unavailable) or not isinstance(error, CumulusError):
            self._world.note(f"a reader of {self._facts.name} failed: {error!r}")
        elif self._world.power_was_lost and self._facts.journal.start < self._offset:
            # It was shown what no fsync had covered, the daemon lost it with its power, and the
            # worker is lost too: the next attempt goes on before it.
            if error.details.get("continue_from") != self._facts.journal.start:
                self._world.note(f"a reader of {self._facts.name} was told {error.details}")
            self._offset = self._facts.journal.start
        else:
            self._tries += 1
            if self._tries > 5:
                self._world.note(f"a reader of {self._facts.name} is stuck: {error!r}")
        if not self._world.over:
            self._world.clock.callLater(self._world.random.uniform(0.3, 2.0), self.attach)


def agree(journal: Journal, attempt: int, offset: int, frames: bytes) -> bool:
    """Whether a job's journal, when that is its last attempt, says so at `offset`."""
    last = FrameParser(offset).feed(frames)[-1]
    if is_rest_missing(last) and last.json()["attempt"] == attempt:
        begin = last.offset - offset
        if last.json()["from"] != last.offset or not journal.gave_up(last.offset, frames[begin:]):
            return False
    return bytes(journal.data[offset : offset + len(frames)]) == frames
