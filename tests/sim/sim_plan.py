"""What happens in one schedule, from its seed alone: workers, jobs, readers, faults."""

from collections.abc import Mapping
from random import Random

import attrs

from tests.sim.sim_coverage import BOUNDARIES
from tests.sim.sim_runner import Script

#: Kinds of jobs; what ends each when nothing goes wrong stands in `sim_oracle`.
KINDS = (
    *("ok", "ok", "ok", "raises", "exits", "long", "talks", "talks"),
    *("frozen", "silent", "no_runner", "slow_setup"),
)
#: Kinds of faults and how often each is chosen.
FAULTS = {
    "daemon_kill": 6,
    "daemon_power": 3,
    "daemon_stop": 2,
    "agent_kill": 4,
    "runner_kill": 4,
    "node_power": 3,
    "engine_down": 3,
    "cut": 4,
    "agent_cut": 4,
    "reset": 3,
    "manager_down": 3,
    "launch_refused": 1,
    "late_calls": 3,
    "double_calls": 2,
    "daemon_clock": 2,
    "worker_clock": 2,
    "daemon_disk_full": 2,
    "daemon_sync_fails": 1,
    "worker_disk_full": 2,
    "image_missing": 1,
    "drain": 2,
    "manager_slow": 2,
    "daemon_disk_slow": 3,
    "device_gone": 2,
    "kept_lost": 1,
}
#: What strikes at a boundary of an effect; the daemon's end there is the one that must be seen.
STRIKES = {
    "daemon_kill": 7,
    "daemon_power": 3,
    "agent_kill": 2,
    "manager_down": 2,
    "agent_cut": 2,
    "cut": 1,
    "node_power": 1,
    "runner_kill": 1,
    "launch_refused": 1,
    "device_gone": 1,
    "reset": 1,
}
_LASTING_S = (0.3, 1.0, 2.5, 5.0, 12.0)
#: Faults begin within this time.
FAULT_WINDOW_S = 22.0
SUBMIT_WINDOW_S = 9.0


@attrs.frozen(kw_only=True)
class JobPlan:
    key: str
    owner: str
    at: float  #: seconds after the begin
    script: Script
    gpu_memory: float
    duration_s: float
    setup_timeout_s: float
    queue_timeout_s: float | None
    priority: int
    retries: int
    cancel_at: float | None
    readers: int
    #: (when it is paused, how long after that is acknowledged it is resumed), seconds
    pauses: tuple[tuple[float, float], ...] = ()


@attrs.frozen(kw_only=True)
class Fault:
    kind: str
    at: float
    lasts_s: float
    worker: int  #: which one, modulo their number
    size: float  #: 0 to 1, what the kind makes of it


@attrs.frozen(kw_only=True)
class Strike:
    """A fault at the n-th visit of a boundary, on the worker that it is about."""

    boundary: str
    visit: int
    fault: Fault


@attrs.frozen(kw_only=True)
class Plan:
    seed: int
    devices: tuple[int, ...]  #: of each worker
    jobs: tuple[JobPlan, ...]
    faults: tuple[Fault, ...]
    strikes: tuple[Strike, ...]


def make_plan(seed: int) -> Plan:
    """The plan of a seed."""
    random = Random(f"plan {seed}")
    devices = tuple(random.choice((1, 1, 2)) for _ in range(random.choice((1, 2, 2, 3))))
    jobs = tuple(_job(random, number) for number in range(random.randint(5, 8)))
    faults = tuple(
        _fault(random, FAULTS, random.uniform(0.2, FAULT_WINDOW_S))
        for _ in range(random.randint(3, 7))
    )
    strikes = tuple(
        Strike(
            boundary=random.choice(BOUNDARIES),
            visit=random.randint(1, random.choice((4, 12, 40))),
            fault=_fault(random, STRIKES, 0.0),
        )
        for _ in range(random.choice((0, 1, 2, 3)))
    )
    jobs = tuple(_with_pauses(Random(f"pauses {seed} {job.key}"), job, 0.25) for job in jobs)
    return Plan(seed=seed, devices=devices, jobs=jobs, faults=faults, strikes=strikes)


def _with_pauses(random: Random, job: JobPlan, share: float) -> JobPlan:
    """The job, perhaps with pauses."""
    if random.random() >= share:
        return job
    at, pauses = job.at, []
    for _ in range(random.choice((1, 1, 2, 3))):
        at += random.choice((0.0, 0.3, 0.8, 1.5, 4.0)) * random.uniform(0.5, 1.5)
        pauses.append((at, random.choice((0.01, 0.2, 1.0, 6.0))))
        at += pauses[-1][1]
    obeys = random.choice(("local", "local", "local", "s3", "nothing", None))
    return attrs.evolve(
        job, pauses=tuple(pauses), script=attrs.evolve(job.script, obeys_pause=obeys)
    )


def _fault(random: Random, kinds: Mapping[str, int], at: float) -> Fault:
    return Fault(
        kind=random.choices(list(kinds), list(kinds.values()))[0],
        at=at,
        lasts_s=random.choice((*_LASTING_S, *_LASTING_S, *_LASTING_S, 45.0))
        * random.uniform(0.7, 1.2),
        worker=random.randrange(8),
        size=random.random(),
    )


def _job(random: Random, number: int) -> JobPlan:
    kind = random.choice(KINDS)
    run_s = random.choice((0.2, 0.6, 1.5, 4.0)) * random.uniform(0.5, 1.5)
    duration_s = round(run_s + random.uniform(1.0, 4.0), 3)
    count = random.choice((0, 1, 3, 8))
    outputs = tuple(random.choice((1, 20, 300, 900)) for _ in range(count))
    if kind == "talks":
        outputs = tuple(random.choice((400, 1500)) for _ in range(random.choice((15, 40))))
    at = random.uniform(0.0, SUBMIT_WINDOW_S)
    cancelled = random.random() < 0.3
    return JobPlan(
        key=f"k{number}",
        owner=random.choice(("ann", "bob")),
        at=at,
        script=Script(
            kind=kind,
            setup_s=30.0 if kind == "slow_setup" else random.uniform(0.02, 0.8),
            run_s=run_s,
            outputs=outputs,
            stop_s=random.choice((0.05, 0.2, 3.0)),
        ),
        gpu_memory=random.choice((0.25, 0.5, 0.6, 1.0)),
        duration_s=duration_s,
        setup_timeout_s=random.choice((2.0, 4.0)),
        queue_timeout_s=random.choice((None, None, None, 0.0, 6.0)),
        priority=random.choice((0, 0, 5)),
        retries=random.choice((0, 0, 1, 3)),
        cancel_at=at + random.choice((0.01, 0.2, 0.7, 2.0, 6.0)) if cancelled else None,
        readers=random.choice((0, 1, 1, 2)),
    )


def talkative(plan: Plan) -> Plan:
    """The same with jobs that print much, a link that is away meanwhile, and the daemon killed
    while it takes in what has piled up."""
    random = Random(f"talkative {plan.seed}")
    jobs = tuple(
        attrs.evolve(
            job,
            script=Script(kind="talks", run_s=4.0, outputs=(1500,) * random.randint(20, 40)),
            duration_s=12.0,
            cancel_at=None,
        )
        for job in plan.jobs
    )
    faults = list(plan.faults)
    for at in (4.0, 8.0, 12.0):
        lasts_s = random.uniform(1.0, 3.0)
        cut = Fault(kind="agent_cut", at=at, lasts_s=lasts_s, worker=random.randrange(8), size=0.5)
        kill_at = at + lasts_s + random.uniform(0.0, 1.5)
        faults += [cut, attrs.evolve(cut, kind="daemon_kill", at=kill_at, lasts_s=0.1)]
    return attrs.evolve(plan, jobs=jobs, faults=tuple(faults))


def interrupted(plan: Plan) -> Plan:
    """The same with more daemons that die while they save a record, at whatever it tells."""
    random = Random(f"interrupted {plan.seed}")
    kill = Fault(kind="daemon_kill", at=0.0, lasts_s=0.1, worker=0, size=0.5)
    # The boundary is counted over all daemons: close to each other, none would get anywhere.
    visits = (random.randint(at, at + 7) for at in range(3, 75, 12))
    strikes = (Strike(boundary="save.before", visit=visit, fault=kill) for visit in visits)
    return attrs.evolve(plan, strikes=(*strikes, *plan.strikes))


def abandoned(plan: Plan) -> Plan:
    """The same with workers that are cut off for longer than their runners live, none of whose jobs
    is cancelled."""
    random = Random(f"abandoned {plan.seed}")
    jobs = tuple(
        attrs.evolve(job, cancel_at=None, retries=random.choice((0, 1, 3))) for job in plan.jobs
    )
    cuts = (
        Fault(
            kind=random.choice(("agent_cut", "cut")),
            at=random.uniform(3.0, 9.0),
            lasts_s=random.uniform(50.0, 70.0),
            worker=random.randrange(8),
            size=0.5,
        )
        for _ in range(2)
    )
    return attrs.evolve(plan, jobs=jobs, faults=(*plan.faults, *cuts))


def regretted(plan: Plan) -> Plan:
    """The same with long jobs that are cancelled, and daemons that die while they say so."""
    random = Random(f"regretted {plan.seed}")
    jobs = tuple(
        attrs.evolve(
            job,
            script=attrs.evolve(job.script, kind="long", stop_s=3.0),
            duration_s=60.0,
            queue_timeout_s=None,
            cancel_at=job.at + random.uniform(0.7, 4.0),
        )
        for job in plan.jobs
    )
    kill = Fault(kind="daemon_kill", at=0.0, lasts_s=0.1, worker=0, size=0.5)
    strikes = (
        Strike(boundary="command.before", visit=random.randint(at, at + 1), fault=kill)
        for at in (1, 3, 6)
    )
    return attrs.evolve(plan, jobs=jobs, strikes=(*strikes, *plan.strikes))


def paused(plan: Plan) -> Plan:
    """The same with jobs that are paused and resumed, none of them cancelled, and the daemon
    killed meanwhile."""
    random = Random(f"paused {plan.seed}")
    jobs = tuple(_with_pauses(random, attrs.evolve(job, cancel_at=None), 1.0) for job in plan.jobs)
    kill = Fault(kind="daemon_kill", at=0.0, lasts_s=0.1, worker=0, size=0.5)
    strikes = tuple(
        Strike(boundary=boundary, visit=random.randint(1, 9), fault=kill)
        for boundary in ("release.before", "release.done", "command.before", "save.done")
    )
    lost = tuple(
        Fault(
            kind="kept_lost",
            at=random.uniform(4.0, 15.0),
            lasts_s=0.1,
            worker=random.randrange(8),
            size=0.5,
        )
        for _ in range(random.choice((0, 0, 1)))
    )
    # Long enough for an attempt to be given up, whose code has paused meanwhile.
    cuts = tuple(
        Fault(
            kind=random.choice(("agent_cut", "cut")),
            at=random.uniform(2.0, 10.0),
            lasts_s=random.uniform(8.0, 30.0),
            worker=random.randrange(8),
            size=0.5,
        )
        for _ in range(random.choice((0, 0, 1, 2)))
    )
    return attrs.evolve(
        plan, jobs=jobs, faults=(*plan.faults, *lost, *cuts), strikes=(*strikes, *plan.strikes)
    )


def hurried(plan: Plan) -> Plan:
    """The same on a disk so slow that much happens while a record is being saved, with a manager
    that is gone after it has taken a launch, and with most jobs cancelled."""
    random = Random(f"hurried {plan.seed}")
    jobs = tuple(
        attrs.evolve(
            job,
            cancel_at=job.at + random.uniform(0.0, 3.0) if random.random() < 0.6 else None,
            retries=random.choice((0, 2)),
        )
        for job in plan.jobs
    )
    slow = Fault(kind="daemon_disk_slow", at=0.1, lasts_s=24.0, worker=0, size=1.0)
    gone = Fault(kind="manager_down", at=0.0, lasts_s=9.0, worker=0, size=0.5)
    strikes = [Strike(boundary="launch.done", visit=random.randint(1, 6), fault=gone)]
    for boundary in ("prepare.before", "launch.before"):
        kind = random.choice(("worker_disk_full", "device_gone", "node_power", "launch_refused"))
        fault = attrs.evolve(gone, kind=kind, lasts_s=4.0)
        strikes.append(Strike(boundary=boundary, visit=random.randint(1, 6), fault=fault))
    others = (
        attrs.evolve(fault, kind="reset") if fault.kind == slow.kind else fault
        for fault in plan.faults
    )
    faults = (slow, *others)
    return attrs.evolve(plan, jobs=jobs, faults=faults, strikes=(*strikes, *plan.strikes))
