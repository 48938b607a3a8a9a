"""One schedule: the world of a plan, its faults, and what must hold after every step."""

import hashlib
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import attrs
from twisted.logger import LogLevel, formatEvent

from cumulus_wire.codes import EndReason
from cumulusd.chronos.ledger import PartitionState
from cumulusd.errors import CumulusError, InvalidArgument
from cumulusd.jobs import machine
from cumulusd.jobs.journal import Journal
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.package_owners import PackageOwners
from tests.sim import sim_invariants, sim_oracle
from tests.sim.sim_clients import PACKAGE, PACKAGE_SHA256, Facts, Reader, Submitter
from tests.sim.sim_clock import SimClock
from tests.sim.sim_coverage import Coverage
from tests.sim.sim_daemon import JOURNAL_CAP_BYTES, SETTINGS, Daemon, Disk
from tests.sim.sim_faults import Faults
from tests.sim.sim_machine import simulated
from tests.sim.sim_network import Network
from tests.sim.sim_plan import Fault, Plan, make_plan
from tests.sim.sim_runner import Runner
from tests.sim.sim_swarm import Container, Node, Swarm
from tests.sim.sim_worker import Worker

#: A schedule that takes more steps than this goes round in circles.
MAX_STEPS = 400_000
_PRESENT_EVERY_S = 0.25
#: The daemon looks at the nodes every two seconds: after so long it knows that one is there.
_KNOWN_AFTER_S = 2.5


class Violated(Exception):
    """A schedule did what must never happen."""

    def __init__(self, seed: int, what: str) -> None:
        super().__init__(f"seed {seed}: {what}")
        self.seed = seed
        self.what = what


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of a schedule."""

    seed: int
    violations: tuple[str, ...]
    coverage: Coverage
    jobs: int
    faults: int
    steps: int
    simulated_s: float
    digest: str  #: of the trace: the same for the same seed and code


class World:
    """Everything of one schedule. `run` it once."""

    def __init__(self, plan: Plan, root: Path, say: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.root = root
        self._say = say
        self.verbose = say is not None  #: logs are wanted, not failures only
        self.random = Random(f"world {plan.seed}")
        self.clock = SimClock()
        self.begun_at = self.clock.now
        self.coverage = Coverage()
        self.violations: list[str] = []
        self._digest = hashlib.sha256()
        self.settings = SETTINGS
        self.journal_cap_bytes = JOURNAL_CAP_BYTES
        self.network = Network(self.clock, self.random)
        self.swarm = Swarm(self.clock, self.random, self._start_container)
        self.disk = Disk(root / "daemon")
        self.workers_root = root / "workers"
        self.workers: list[Worker] = []
        self.by_node: dict[str, Worker] = {}
        self.daemon: Daemon | None = None
        self._dying: list[Daemon] = []
        self.manager_up = True
        self.manager_away_at = -1e9
        self.manager_late_s = 0.0
        self.disk_away_at = -1e9
        self.daemon_started_at = 0.0
        self.wall_offset_s = 0.0
        self.clock_jumped = False
        self.power_was_lost = False
        self.launch_refusals = 0
        self.last_present: dict[str, float] = {}
        self.last_absent: dict[str, float] = {}
        self.prepare_troubles: set[str] = set()
        self.call_faults: dict[str, tuple[str, float]] = {}
        self._call_fault_at: dict[str, float] = {}
        self._boundaries: dict[str, int] = {}
        self._strikes = {(one.boundary, one.visit): one for one in plan.strikes}
        self.without_device: set[str] = set()
        self.faults = Faults(self)
        self.over = False
        self.readers: list[Reader] = []
        self.facts = {job.key: Facts(plan=job) for job in plan.jobs}
        self.by_job: dict[str, Facts] = {}
        self._submitters = [Submitter(self, facts) for facts in self.facts.values()]
        self._ids = 0
        self._make_workers()

    # -- the run

    def run(self) -> Outcome:
        """Until every job has ended and nothing is left, or something is violated."""
        self._schedule()
        try:
            self._run()
        except Violated:
            pass
        except Exception:
            # What a callback of the code under test raised would end its process.
            self.violations.append(f"raised: {traceback.format_exc()}")
        finally:
            self._end_everything()
        return Outcome(
            seed=self.plan.seed,
            violations=tuple(self.violations),
            coverage=self.coverage,
            jobs=len(self.facts),
            faults=sum(self.coverage.faults.values()),
            steps=self.clock.steps,
            simulated_s=self.clock.now - self.begun_at,
            digest=self._digest.hexdigest()[:16],
        )

    def _run(self) -> None:
        faults_until = max((fault.at + fault.lasts_s for fault in self.plan.faults), default=0.0)
        work_s = sum(
            (job.duration_s + job.setup_timeout_s + 12.0) * (1 + job.retries + 2 * len(job.pauses))
            for job in self.plan.jobs
        )
        quiet_at = self.begun_at + max(faults_until, 12.0)
        deadline = quiet_at + 60.0 + work_s
        self._run_until(lambda: self.clock.now > quiet_at and self._all_ended(), deadline, "end")
        self.trace("all jobs have ended")
        settled_at = self.clock.now + 8 * self.settings.reap_interval_s
        self._run_until(lambda: not sim_invariants.leaks(self), settled_at, "be cleared")
        self._run_until(
            lambda: all(reader.done for reader in self.readers), settled_at + 30.0, "be read"
        )
        self.over = True
        self._stop_in_order()

    def _run_until(self, true: Callable[[], bool], deadline: float, what: str) -> None:
        checked_at = -1.0
        while True:
            if not self.clock.step():
                self.violation(f"nothing moves any more, and something is still to {what}")
            if self.violations:
                raise Violated(self.plan.seed, self.violations[0])
            sim_invariants.check(self)
            if self.clock.steps > MAX_STEPS:
                self.violation(f"still to {what} after {MAX_STEPS} steps: {self._state()}")
            if self.clock.now > checked_at + 0.05:
                checked_at = self.clock.now
                if true():
                    return
                if self.clock.now > deadline:
                    self.violation(f"still to {what} at {self._at():.1f} s: {self._state()}")

    def _all_ended(self) -> bool:
        return (
            self.faults.open == 0
            and all(each.done for each in self._submitters)
            and all(facts.ended for facts in self.facts.values())
        )

    def _state(self) -> str:
        waits = []
        for facts in self.facts.values():
            if not facts.ended:
                record = facts.record
                phase = record.phase if record is not None else "not submitted"
                waits.append(f"{facts.name} {phase}")
        if not waits:
            waits = sim_invariants.leaks(self) or [
                f"reader of {reader._facts.name} at {reader._offset}"
                for reader in self.readers
                if not reader.done
            ]
        return ", ".join(waits)

    def _stop_in_order(self) -> None:
        daemon = self.daemon
        if daemon is None:
            return
        stopping = daemon.stop()
        ended: list[Any] = []
        stopping.addBoth(ended.append)
        for _ in range(20_000):
            if ended or not self.clock.step():
                break
        if not ended:
            self.violation("the daemon doesn't stop")
        if ended[0] is not None:
            self.violation(f"stopping the daemon failed: {ended[0]}")
        left = self.clock.timers_of(daemon.clock)
        if left:
            self.violation(f"the stopped daemon left timers: {[each.call for each in left]}")
        self.daemon = None
        daemon.kill()
        self._dying.append(daemon)

    def _end_everything(self) -> None:
        self.over = True
        if self.daemon is not None:
            self._dying.append(self.daemon)
            self.daemon.kill()
            self.daemon = None
        for daemon in self._dying:
            daemon.tidy()
        for worker in self.workers:
            worker.kill_agent()
            for runner in list(worker.runners):
                runner.kill()
        self.disk.database.close()

    # -- setting up

    def _make_workers(self) -> None:
        self.disk.root.mkdir(parents=True)
        (self.disk.root / "packages").mkdir()
        (self.disk.root / "packages" / f"{PACKAGE_SHA256}.zip").write_bytes(PACKAGE)
        owners = PackageOwners(self.disk.root / "packages" / "owners")
        for job in self.plan.jobs:
            owners.add(job.owner, PACKAGE_SHA256)
        self.workers_root.mkdir()
        for number, devices in enumerate(self.plan.devices):
            node_id = f"n{number}"
            resources = {f"cumulus_gpu{index}": sim_invariants.UNITS for index in range(devices)}
            node = Node(node_id, f"host{number}", resources)
            self.swarm.nodes[node_id] = node
            worker = Worker(
                node,
                self.workers_root / node_id,
                clock=self.clock,
                random=self.random,
                network=self.network,
                swarm=self.swarm,
                device_count=devices,
                find_daemon=self._listening_daemon,
                call_ended=self._call_ended,
                make_runner=self._make_runner,
                violation=self.note,
            )
            self.workers.append(worker)
            self.by_node[node_id] = worker
            self.last_present[node_id] = self.last_absent[node_id] = self.clock.now

    def _schedule(self) -> None:
        for worker in self.workers:
            worker.start_agent()
        self._start_daemon()
        for submitter, job in zip(self._submitters, self.plan.jobs, strict=True):
            self.clock.callLater(0.3 + job.at, submitter.submit)
            if job.cancel_at is not None:
                self.clock.callLater(0.3 + job.cancel_at, submitter.cancel)
            if job.pauses:
                self.clock.callLater(0.3 + job.pauses[0][0], submitter.pause)
        for fault in self.plan.faults:
            self.clock.callLater(fault.at, self.faults.begin, fault)
        self._look_who_is_there()

    # -- what the parts tell

    def violation(self, what: str) -> None:
        """Ends the schedule."""
        self.trace("VIOLATION {}", what)
        self.violations.append(what)
        raise Violated(self.plan.seed, what)

    def trace(self, text: str, *arguments: Any) -> None:
        """One line of what happened."""
        line = f"{self._at():9.4f} {text.format(*arguments)}"
        self._digest.update(line.encode())
        if self._say is not None:
            self._say(line)

    def logged(self, event: Mapping[str, Any]) -> None:
        """A log event of the code under test. Failures are violations, except those that tell of
        an error that was injected."""
        if self._say is not None and self.daemon is not None:
            self._say(f"{self._at():9.4f}   log: {formatEvent(dict(event))}")
        if str(event.get("log_format")).startswith("ledger and platform disagree"):
            # Nothing but a real one lasts from one comparison to the next.
            self.violations.append(formatEvent(dict(event)))
        failure = event.get("log_failure")
        if event["log_level"] < LogLevel.critical or failure is None or self.over:
            return
        if self.clock.burying:
            return
        if isinstance(failure.value, Violated) or "already awaited coroutine" in str(failure.value):
            return  # what is left of a killed process
        disk_fault = self.disk.full or self.disk.sync_fails
        disk_fault = disk_fault or any(worker.disk_full for worker in self.workers)
        injected = isinstance(failure.value, OSError | CumulusError) and disk_fault
        if not injected:
            self.violations.append(f"logged: {formatEvent(dict(event))}\n{failure.getTraceback()}")

    def token(self) -> str:
        """In place of `secrets.token_hex`: told from others, and the same in each run."""
        self._ids += 1
        return f"{self._ids:06x}"

    def record_changed(self, before: JobRecord | None, after: JobRecord) -> None:
        """A reader of the table would see this now."""
        key = after.spec.idempotency_key
        assert key is not None
        facts = self.facts[key]
        if facts.job_id is None:
            facts.job_id = after.job_id
            self.by_job[after.job_id] = facts
            facts.made_at = facts.asked_at
        if facts.job_id != after.job_id:
            self.note(f"job {facts.name} has a second record, {after.job_id}")
        if before is None or before.phase is not after.phase:
            self.trace("job {} {}", facts.name, after.phase)
        known, facts.record = facts.record, after
        wrong = sim_oracle.judge_timeline(known, after)
        if wrong is not None:
            self.note(f"{facts.name} {wrong}")
        if after.placement is not None and after.end is None:
            facts.deaths += self.faults.befalling(after.placement.node_id)
        if known is not None and len(after.attempts) > len(known.attempts):
            wrong = sim_oracle.judge_attempt(self, facts, after)
            self.coverage.ends[f"attempt: {after.attempts[-1].reason}"] += 1
            if wrong is not None:
                self.note(f"an attempt of {facts.name} {wrong}")
        if known is not None and after.attempt != known.attempt:
            facts.deaths.clear()
            facts.exit_here_at = None
            self.trace("job {} attempt {}", facts.name, after.attempt)
            wrong = sim_oracle.judge_left(self, facts, known, after.journal_start)
            if wrong is not None:
                self.note(f"an attempt of {facts.name} left its worker: {wrong}")
            facts.journal.begin(after.attempt, after.journal_start)
        if known is not None:
            wrong = sim_oracle.judge_pause(self, facts, known, after)
            if wrong is not None:
                self.note(f"job {facts.name} {wrong}")
        if facts.end is not None and after.end != facts.end:
            self.note(f"the end of {facts.name} changed from {facts.end} to {after.end}")
        if after.end is not None and facts.end is None:
            facts.end = after.end
            said = f"{after.end.state}/{after.end.reason}"
            self.coverage.ends[said] += 1
            self.trace("job {} ended: {}", facts.name, said)
            wrong = sim_oracle.judge_end(self, facts, after)
            if wrong is not None:
                self.note(f"job {facts.name} {wrong}")
        if after.phase is Phase.ENDED and not facts.ended and self.daemon is not None:
            if after.end is None:
                self.note(f"job {facts.name} is gone without an end")
            if self.daemon.journals._stopped:
                return  # its journal is looked at after the next start
            wrong = sim_oracle.judge_ended(self, facts, after)
            if wrong is not None:
                self.note(f"job {facts.name} left its worker: {wrong}")
            facts.ended = True

    def note(self, what: str) -> None:
        """A violation found inside of a callback of the code under test: told at the next check."""
        self.trace("VIOLATION {}", what)
        self.violations.append(what)

    def boundary(self, name: str, job_id: str) -> None:
        """The daemon is at this boundary; it may be killed here."""
        if self.daemon is None or self.over:
            return
        self.coverage.boundaries[name] += 1
        number = self._boundaries[name] = self._boundaries.get(name, 0) + 1
        strike = self._strikes.get((name, number))
        if strike is None:
            return
        self.trace("strike {} at {} of {}", strike.fault.kind, name, job_id)
        if strike.fault.kind in ("daemon_kill", "daemon_power"):
            # Within the call, so that nothing of this daemon comes after the boundary.
            self.coverage.crashes[name] += 1
            self.coverage.faults[strike.fault.kind] += 1
            self.kill_daemon(strike.fault.kind == "daemon_power")
            return
        record = self.by_job[job_id].record if job_id in self.by_job else None
        placement = record.placement if record is not None else None
        fault = strike.fault
        if placement is not None:
            fault = attrs.evolve(fault, worker=int(placement.node_id[1:]))
        self.faults.open += 1
        self.clock.callLater(0, self._struck, fault)

    def _struck(self, fault: Fault) -> None:
        self.faults.open -= 1
        if not self.over:
            self.faults.begin(fault)

    def stepped(self, phase: Phase, kind: machine.EventKind) -> None:
        self.coverage.pairs[phase, kind] += 1

    def _call_ended(self, verb: str, kwargs: Mapping[str, Any]) -> None:
        self.boundary(f"{verb}.done", str(kwargs.get("job_id") or ""))

    def call_fault(self, node_id: str) -> tuple[float, bool]:
        """(how late this call arrives, whether it arrives twice)."""
        kind, until = self.call_faults.get(node_id, ("", 0.0))
        if self.clock.now > until:
            return 0.0, False
        self._call_fault_at[node_id] = self.clock.now
        if kind == "double_calls":
            return 0.0, True
        return (self.random.uniform(0.5, 9.0) if self.random.random() < 0.6 else 0.0), False

    def quiet_since(self, node_id: str) -> float:
        """Since when nothing keeps the daemon from that node, nor its disk from it."""
        return max(
            self.last_absent.get(node_id, 0.0),
            self._call_fault_at.get(node_id, -1e9),
            self.manager_away_at,
            self.disk_away_at,
            self.daemon_started_at,
        )

    def is_draining(self, node_id: str, job_id: str, attempt: int) -> bool:
        """Whether that partition's time is over."""
        held = self.by_node[node_id].ledger.find(job_id, attempt)
        return held is not None and held.state is PartitionState.DRAINING

    def calls_failed(self, node_id: str) -> bool:
        """Calls to that node went wrong lately."""
        return self.clock.now - self._call_fault_at.get(node_id, -1e9) < 14.0

    def refusal_of_manager(self, what: str) -> Exception | None:
        """The manager's answer to a change, when it is a refusal."""
        if what == "launch" and self.launch_refusals > 0:
            self.launch_refusals -= 1
            for facts in self.facts.values():
                facts.launches_refused += 1
            return InvalidArgument("refused", details={"platform": "rpc error: invalid"})
        return None

    # -- what the oracle asks

    def ended_by_exit(self, facts: Facts) -> bool:
        """Its end is what a runner said."""
        assert facts.end is not None
        said = (facts.end.state.value, facts.end.reason and facts.end.reason.value)
        return said in facts.journal.exits.values() and not self.tells_without_exit(
            facts.end.reason
        )

    def tells_without_exit(self, reason: EndReason | None) -> bool:
        """The daemon may say this of itself too."""
        return reason in (
            EndReason.CANCELLED_BY_USER,
            EndReason.DURATION_EXCEEDED,
            EndReason.SETUP_TIMEOUT,
            EndReason.RUNNER_FAILED,
        )

    def received(self, job_id: str, journal: Journal | None) -> None:
        """The daemon took bytes of that journal."""
        facts = self.by_job.get(job_id)
        if facts is not None and journal is not None and journal.finished:
            facts.exit_here_at = facts.exit_here_at or self.clock.now

    def acknowledged(self, job_id: str, offset: int) -> None:
        """The daemon tells a worker that it may delete what is below."""
        durable = self.durable_offset(job_id)
        facts = self.by_job.get(job_id)
        start = facts.record.journal_start if facts is not None and facts.record else 0
        if offset > max(durable, start):
            self.note(f"{offset} B of {job_id} are acknowledged, {durable} B are on disk")

    def durable_offset(self, job_id: str) -> int:
        """Up to where that journal would survive a loss of power."""
        folder = self.disk.root / "journals" / job_id
        if not folder.is_dir():
            return 0
        return max(
            (int(path.stem) + self.disk.synced.get(str(path), 0) for path in folder.iterdir()),
            default=0,
        )

    # -- containers

    def _start_container(self, container: Container) -> Runner:
        record = self.by_job[container.job_id].record
        if record is not None and record.phase is Phase.PAUSED:
            self.note(f"a container of {container.job_id} starts while it is paused")
        node_id = container.task.service.node_id
        self.trace("container of {} starts on {}", container.job_id, node_id)
        return self.by_node[node_id].run(container)

    def _make_runner(self, worker: Worker, container: Container) -> Runner:
        facts = self.by_job[container.job_id]
        runner = _Runner(worker, container, facts.plan.script, facts.journal)
        runner.facts = facts
        return runner

    # -- who is there

    def _listening_daemon(self) -> Daemon | None:
        return self.daemon if self.daemon is not None and not self.daemon.stopping else None

    def _look_who_is_there(self) -> None:
        for worker in self.workers:
            node = worker.node
            there = (
                self.daemon is not None
                and self.daemon.has_agent(worker.node_id)
                and node.state == "ready"
                and node.availability == "active"
                and worker.node_id not in self.without_device
                and not self.network.is_cut(worker.node_id)
            )
            now, node_id = self.clock.now, worker.node_id
            if not there:
                self.last_absent[node_id] = now
            elif now - self.last_absent[node_id] > _KNOWN_AFTER_S:
                self.last_present[node_id] = now
        if not self.manager_up:
            self.manager_away_at = self.clock.now
        if self.disk.full or self.disk.slow_s or self.disk.sync_fails:
            self.disk_away_at = self.clock.now
        sim_invariants.check_could_run(self)
        self.clock.callLater(_PRESENT_EVERY_S, self._look_who_is_there)

    # -- the daemon's lives

    @property
    def last_daemon(self) -> Daemon:
        """The one that runs, or the one that was killed or stopped last: it may have told an end
        in its last moment."""
        return self.daemon if self.daemon is not None else self._dying[-1]

    def _start_daemon(self) -> None:
        if self.daemon is None and not self.over:
            self.daemon = Daemon(self)
            self.daemon_started_at = self.clock.now
            self.trace("daemon starts")
            self.daemon.start()

    def kill_daemon(self, power: bool) -> None:
        daemon = self.daemon
        if daemon is None:
            return
        self.trace("daemon killed{}", ", power lost" if power else "")
        self.daemon = None
        self._dying.append(daemon)
        daemon.kill()
        for facts in self.facts.values():
            facts.exit_here_at = None
        self.clock.callLater(0, self._bury, daemon, power)

    def _bury(self, daemon: Daemon, power: bool) -> None:
        self._dying.remove(daemon)
        daemon.tidy()
        if power:
            self.power_was_lost = True
            self.disk.lose_power(self.random)
        for each in (*self._submitters, *self.readers):
            each.daemon_died(daemon)
        self.clock.callLater(self.random.uniform(0.4, 2.5), self._start_daemon)

    def _at(self) -> float:
        return self.clock.now - self.begun_at


class _Runner(Runner):
    """Tells the oracle when things begin."""

    facts: Facts

    def _begin(self) -> None:
        self.facts.setup_began_at = self.worker.clock.now
        super()._begin()

    def _run(self) -> None:
        orders, record = self._orders, self.facts.record
        left_s = max(1.0, self.facts.plan.duration_s - orders["ran_s"])
        if abs(orders["duration_s"] - left_s) > 1e-6:
            self.worker.violation(f"{orders['duration_s']} s for job {self.job_id}, not {left_s}")
        is_current = record is not None and record.attempt == self.attempt
        if record is not None and is_current and record.ran_s != orders["ran_s"]:
            self.worker.violation(f"job {self.job_id} ran {record.ran_s} s before")
        super()._run()
        self.facts.code_began_at = self.code_began_at

    def _refuse(self) -> None:
        self.facts.deaths.append("too late")

    def _last_moment(self) -> None:
        self.facts.deaths.append("last moment")
        super()._last_moment()


def temporary_root() -> Path:
    """A folder in memory where there is one."""
    shared = Path("/dev/shm")
    where = shared if os.access(shared, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="cumulus-sim-", dir=where))


def run_seed(
    seed: int,
    *,
    say: Callable[[str], None] | None = None,
    plan: Plan | None = None,
    root: Path | None = None,
) -> Outcome:
    """Runs the schedule of that seed."""
    folder = temporary_root() if root is None else root
    try:
        (folder / "s").mkdir()
        world = World(plan or make_plan(seed), folder / "s", say)
        with simulated(world):
            return world.run()
    finally:
        shutil.rmtree(folder / "s", ignore_errors=True)
        if root is None:
            shutil.rmtree(folder)
