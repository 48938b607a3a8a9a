"""Which ends a job may have, from what was done to it, and what must hold at its end."""

from typing import TYPE_CHECKING

from cumulus_wire.codes import RETRIED, EndReason
from cumulus_wire.journal import HEADER
from cumulusd.jobs import timeline
from cumulusd.jobs.model import End, EndedAttempt, JobRecord, Phase
from tests.sim.sim_clients import Facts, agree
from tests.sim.sim_clock import BEGIN_UNIX_S

if TYPE_CHECKING:
    from tests.sim.sim_world import World

#: Between what happened and when the daemon could know.
SLACK_S = 0.5
#: Looking for a runner that may be about to connect, its grace, and force.
CANCEL_TAKES_S = 9.0
#: An EXIT to be sent, synced and announced, when nothing is in the way.
EXIT_TAKES_S = 6.0


def judge_end(world: "World", facts: Facts, record: JobRecord) -> str | None:
    """What is wrong with an end that is being announced; None when it may be."""
    assert record.end is not None
    before = len(record.attempts)
    # A job that is cancelled while its worker is cleared for a pause is still in that attempt.
    paused = record.pauses - (record.phase is Phase.ENDING and facts.paused)
    if before > record.spec.retries or record.attempt != before + 1 + paused:
        return f"ended in attempt {record.attempt} after {before} and {record.pauses} pauses"
    if _cancel_forgotten(world, facts, record):
        return f"ended as {record.end.state} long after its cancel was acknowledged"
    wrong = _judge_outputs(world, facts, record.job_id, record.end)
    if wrong is not None:
        return wrong
    return _judge(world, facts, record, record.end.state.value, record.end.reason, record.end)


#: Ends that only a runner's own last word gives.
_OF_RUNNERS = (None, EndReason.USER_ERROR, EndReason.EXIT_CODE)


def _judge_outputs(world: "World", facts: Facts, job_id: str, end: End) -> str | None:
    """Those that the end names are stored as they were written; none is missing without a word."""
    daemon = world.last_daemon
    left = facts.journal.files
    for info in end.outputs:
        if b"".join(daemon.outputs.pieces(job_id, info, 0, 1 << 20)) != left.get(info.name):
            return f"ended with output {info.name} that isn't what was written"
    missing = len(left) - len(end.outputs)
    if missing and end.reason in _OF_RUNNERS and end.outputs_note is None:
        return f"ended with {missing} of its {len(left)} outputs missing, and says nothing of it"
    world.coverage.ends["with outputs"] += bool(end.outputs)
    world.coverage.ends["without outputs that it had"] += bool(missing)
    return None


def _cancel_forgotten(world: "World", facts: Facts, record: JobRecord) -> bool:
    if facts.cancel_done_at is None or record.placement is None:
        return False
    since = max(facts.cancel_done_at, world.quiet_since(record.placement.node_id))
    return world.clock.now - since > CANCEL_TAKES_S


def judge_attempt(world: "World", facts: Facts, record: JobRecord) -> str | None:
    """What is wrong with an attempt that ended before the last one."""
    over = record.attempts[-1]
    if over.reason not in RETRIED:
        return f"is repeated for {over.reason}"
    if facts.cancel_done_at is not None:
        return "is repeated though it is cancelled"
    return _judge(world, facts, record, "failed", over.reason, over)


def judge_timeline(known: JobRecord | None, after: JobRecord) -> str | None:
    """What is wrong with when the job came to where it is. A crash may lose unsaved moments, but
    none is ever told otherwise than before."""
    at = [moment.at for moment in after.moments]
    last = after.moments[-1]
    if at != sorted(at) or len(at) > timeline.MAX_MOMENTS:
        return f"has a timeline that runs backwards or over its bound: {at}"
    if (last.stage, last.attempt) != (timeline.stage_of(after), after.attempt):
        return f"is {timeline.stage_of(after)}, its timeline ends with {last}"
    if known is not None and len(after.moments) < timeline.MAX_MOMENTS:
        before = known.moments
        if after.moments[: len(before)] != before:
            return f"has a timeline that changed: {before}, now {after.moments}"
    return None


def judge_pause(world: "World", facts: Facts, known: JobRecord, after: JobRecord) -> str | None:
    """What is wrong with how a job came to pause, is paused, or goes on."""
    if after.pauses > known.pauses:
        facts.paused = True
        if not any(said == ("paused", None) for said in facts.journal.exits.values()):
            return "pauses, which its runner never said"
        ran_s = known.ran_s + facts.journal.paused_for_s
        if abs(after.ran_s - ran_s) > 1e-3 or after.ran_s > facts.plan.duration_s + SLACK_S:
            return f"pauses after {after.ran_s} s of its code, not {ran_s}"
    elif after.ran_s != known.ran_s or after.pauses != known.pauses:
        return f"has another code time: {after.ran_s}, not {known.ran_s}"
    if after.phase is Phase.PAUSED and known.phase is not Phase.PAUSED:
        facts.paused = False
        if after.placement is not None or after.grant is not None:
            return "is paused with a place"
        if any(one.job_id == after.job_id for one in world.swarm.live_containers()):
            return "is paused while a container of it lives"
        for worker in world.workers:
            away = world.clock.now - world.last_absent.get(worker.node_id, -1e9) < 6.0
            held = worker.ledger.of_job(after.job_id)
            if held and not away and not world.calls_failed(worker.node_id):
                return f"is paused while it holds a share of {worker.node_id}"
    if after.phase is Phase.QUEUED and known.phase in (Phase.PAUSED, Phase.PAUSING):
        facts.paused = False
        return _judge_resume(world, facts, known, after)
    return None


def _judge_resume(world: "World", facts: Facts, known: JobRecord, after: JobRecord) -> str | None:
    """It waits from when it was resumed, which a full or slow disk lets be saved later."""
    now = world.clock.now
    facts.resumed_at = now
    if after.queued_at is None:
        return "goes on without saying since when it waits"
    if world.clock_jumped:
        return None
    waited_s = BEGIN_UNIX_S + now + world.wall_offset_s - after.queued_at
    if waited_s < -SLACK_S:
        return f"goes on as one that will wait in {-waited_s} s"
    if known.paused_at is not None and after.queued_at < known.paused_at - SLACK_S:
        return "goes on as one that has waited since before it was paused"
    facts.resumed_at = now - max(0.0, waited_s)
    return None


def _judge(
    world: "World",
    facts: Facts,
    record: JobRecord,
    state: str,
    reason: EndReason | None,
    end: End | EndedAttempt,
) -> str | None:
    said = (state, reason and reason.value)
    for offset, exit_said in facts.journal.exits.items():
        # To a runner what befalls its worker looks like any signal from outside.
        stopped = exit_said == ("failed", "runner_failed")
        if stopped and not facts.deaths:
            return "was stopped though nothing befell its worker"
        if stopped and _befell(facts, reason):
            return None  # of itself, or by what the runner said
        if exit_said == said:
            durable = world.durable_offset(record.job_id)
            if durable < offset and not world.tells_without_exit(reason):
                return f"announced {said} with {durable} B of {offset} B on disk"
            return None
    why_not = _without_exit(world, facts, record, reason)
    if why_not is None:
        return None
    return f"ended as {said} ({end.message!r}), which can't be: {why_not}"


#: What a runner may have said when the job ends otherwise: its container was stopped, or the code
#: paused and the job was cancelled.
_OVERRULED = (("failed", "runner_failed"), ("paused", None))


def _without_exit(
    world: "World", facts: Facts, record: JobRecord, reason: EndReason | None
) -> str | None:
    now, plan, settings = world.clock.now, facts.plan, world.settings
    node_id = record.placement.node_id if record.placement is not None else None
    exits = [
        offset
        for offset, said in facts.journal.exits.items()
        if not _torn(facts, offset) and said not in _OVERRULED
    ]
    spoke = len(facts.journal.data) > facts.journal.start
    if exits and node_id is not None:
        since = max(facts.journal.exit_at, world.quiet_since(node_id))
        if now - since > EXIT_TAKES_S:
            return "its runner had said another end"
    # A full disk lets what was decided before its container began be told late.
    if _befell(facts, reason) and (not exits or now - world.disk_away_at < 6.0):
        return None
    match reason:
        case EndReason.CANCELLED_BY_USER:
            return None if facts.cancel_asked_at is not None else "nobody cancelled it"
        case EndReason.QUEUE_TIMEOUT:
            if plan.queue_timeout_s is None:
                return "it has no such timeout"
            begun = max(facts.made_at if facts.made_at is not None else now, facts.resumed_at or 0)
            if now - begun < plan.queue_timeout_s - SLACK_S and not world.clock_jumped:
                return "it has not waited so long"
            return None
        case EndReason.UNSCHEDULABLE:
            if record.placement is not None:
                return None if not spoke else "its container has run"
            if now - world.manager_away_at < 3.0 or now - world.disk_away_at < 6.0:
                return None  # what the daemon knows of the nodes, or has decided, is of before
            for worker in world.workers:
                there_at = world.last_present.get(worker.node_id, 0.0)
                there = now - there_at < settings.agent_grace_s - 2.0
                if there and not world.calls_failed(worker.node_id):
                    return f"{worker.node_id} was there"
            return None
        case EndReason.WORKER_LOST:
            if node_id is None:
                return "it had no worker"
            if exits and facts.exit_here_at is not None and now - facts.exit_here_at > 5.0:
                return "its EXIT is here"
            away = now - world.last_absent.get(node_id, -1e9) < 4.0
            away = away or world.calls_failed(node_id) or now - world.disk_away_at < 6.0
            return None if away else f"{node_id} was there"
        case EndReason.RUNNER_FAILED:
            if exits:
                return "its runner said another end"
            if facts.deaths or not spoke:
                return None
            return "its runner lives"
        case EndReason.IMAGE_MISSING:
            return None if "image" in facts.deaths else "the image was there"
        case EndReason.DURATION_EXCEEDED:
            began = facts.code_began_at
            if began is None or now - began < plan.duration_s - record.ran_s - 1e-3:
                return f"its code began at {began}"
            return None
        case EndReason.CHECKPOINT_LOST:
            return None if facts.kept_lost else "what it kept was there"
        case EndReason.SETUP_TIMEOUT:
            began = facts.setup_began_at
            if began is None or now - began < plan.setup_timeout_s:
                return f"its setup began at {began}"
            return None
        case EndReason.LAUNCH_FAILED:
            never_ran = not spoke and (facts.deaths or plan.script.kind == "no_runner")
            late = now - world.disk_away_at < 6.0 or never_ran
            if facts.launches_refused or late or now - world.manager_away_at < 3.0:
                return None
            return "the manager was there and refused nothing"
        case EndReason.PARTITION_FAILED:
            if node_id is None:
                return "it had no worker"
            if world.is_draining(node_id, record.job_id, record.attempt):
                return None  # its time passed while the daemon was away, or its disk
            if node_id in world.prepare_troubles or world.calls_failed(node_id):
                return None
            return "its worker's disk had room"
    return "no fault leads there"


def _befell(facts: Facts, reason: EndReason | None) -> bool:
    """Whether that is what happened to its worker."""
    if reason is EndReason.WORKER_DRAINED:
        return "drain" in facts.deaths
    away = {"cut", "power", "engine"}
    return reason is EndReason.WORKER_LOST and not away.isdisjoint(facts.deaths)


def _torn(facts: Facts, offset: int) -> bool:
    return facts.journal.torn_at is not None and offset > facts.journal.torn_at


def judge_left(world: "World", facts: Facts, record: JobRecord, held: int) -> str | None:
    """Whether all that an attempt wrote is held when it has left its worker: unless it was given up
    because its worker was away until nothing of it could run any more, which its journal tells."""
    daemon, truth = world.daemon, facts.journal
    assert daemon is not None
    journal = daemon.journals.get(record.job_id)
    written = len(truth.data) if truth.given_up is None else truth.given_up[1]
    wanted = written if truth.torn_at is None else truth.torn_at
    if truth.given_up is None:
        wanted = _whole_frames(bytes(truth.data), wanted)
    offset = max(record.journal_start, journal.start_offset) if journal is not None else held
    while offset < held:
        chunk = journal.read(offset, 1 << 16)
        if chunk.kind == "frames" and not agree(truth, record.attempt, offset, chunk.data):
            return f"its journal differs at {offset}"
        offset = chunk.next_offset
    if truth.given_up is not None:
        node_id = record.placement.node_id if record.placement is not None else ""
        if not _was_away(world, record) and not world.calls_failed(node_id):
            return f"it is given up at {truth.given_up[0]} B though its worker was there"
        if any(truth.start < offset <= truth.given_up[0] for offset in truth.exits):
            return "it is given up though its EXIT is here"
        return None
    if held > written:
        return f"{held} B of its journal are here, {written} B were written"
    if held < wanted:
        return f"{held} B of its journal are here, {wanted} of {written} B must be"
    return None


def _was_away(world: "World", record: JobRecord) -> bool:
    node_id = record.placement.node_id if record.placement is not None else ""
    # What was decided while it was away is told when the disk takes it.
    told_late_s = 60.0 if world.clock.now - world.disk_away_at < 6.0 else 0.0
    return world.clock.now - world.last_absent.get(node_id, -1e9) < 6.0 + told_late_s


def judge_ended(world: "World", facts: Facts, record: JobRecord) -> str | None:
    """What is wrong with the journal of a job that has left its worker."""
    daemon = world.daemon
    assert daemon is not None
    written = facts.journal.data
    journal = daemon.journals.get(record.job_id)
    wrong = judge_left(world, facts, record, journal.end_offset if journal is not None else 0)
    if wrong is not None:
        return wrong
    if journal is None:
        return None
    offset = journal.start_offset
    if offset:
        return f"its journal begins at {offset}"
    while offset < journal.end_offset:
        chunk = journal.read(offset, 1 << 16)
        if chunk.kind == "gap":
            if len(written) <= world.journal_cap_bytes:
                return f"a gap from {chunk.offset} to {chunk.next_offset} under the cap"
        elif chunk.data != bytes(written[chunk.offset : chunk.next_offset]):
            return f"its journal differs at {chunk.offset}"
        offset = chunk.next_offset
    return None


def _whole_frames(data: bytes, limit: int) -> int:
    """Where the last frame that ends at or before `limit` ends."""
    end = 0
    while end + HEADER.size <= limit:
        size = HEADER.size + HEADER.unpack_from(data, end)[3]
        if end + size > limit:
            break
        end += size
    return end
