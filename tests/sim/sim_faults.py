"""The faults of a schedule: what each does to the world, and whom it may cost the end it had."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.sim_plan import Fault
from tests.sim.sim_worker import Worker

if TYPE_CHECKING:
    from tests.sim.sim_world import World


class Faults:
    """Begins them and ends them."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.open = 0  #: how many are not over
        self._befalls: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def befalling(self, node_id: str) -> list[str]:
        """What may end a job on that worker now."""
        return [why for why, count in self._befalls[node_id].items() if count > 0]

    def begin(self, fault: Fault) -> None:
        """It is over by itself."""
        self.open += 1
        self._world.coverage.faults[fault.kind] += 1
        worker = self._world.workers[fault.worker % len(self._world.workers)]
        self._world.trace("fault {} {} {:.2f} s", fault.kind, worker.node_id, fault.lasts_s)
        begin: Callable[[Fault, Worker], Callable[[], None] | None]
        begin = getattr(self, f"_fault_{fault.kind}")
        end = begin(fault, worker)
        self._world.clock.callLater(fault.lasts_s, self._over, fault, end)

    def _over(self, fault: Fault, end: Callable[[], None] | None) -> None:
        self.open -= 1
        self._world.trace("fault {} is over", fault.kind)
        if end is not None:
            end()

    def _fault_daemon_kill(self, fault: Fault, worker: Worker) -> None:
        self._world.kill_daemon(power=False)

    def _fault_daemon_power(self, fault: Fault, worker: Worker) -> None:
        self._world.kill_daemon(power=True)

    def _fault_daemon_stop(self, fault: Fault, worker: Worker) -> None:
        daemon = self._world.daemon
        if daemon is None:
            return

        def stopped(result: object) -> None:
            if self._world.daemon is daemon:
                self._world.kill_daemon(power=False)

        daemon.stop().addBoth(stopped)

    def _fault_agent_kill(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        worker.kill_agent()
        return worker.start_agent

    def _fault_runner_kill(self, fault: Fault, worker: Worker) -> None:
        alive = self._world.swarm.live_containers()
        if alive:
            victim = alive[int(fault.size * len(alive)) % len(alive)]
            self._world.by_job[victim.job_id].deaths.append("killed")
            self._world.swarm.end_container(victim, 137, quiet=False)

    def _fault_node_power(self, fault: Fault, worker: Worker) -> Callable[[], None] | None:
        if not worker.node.engine_up:
            return None
        self._world.prepare_troubles.add(worker.node_id)
        self._condemn(worker, "power")
        self._world.network.cut(worker.node_id)
        worker.lose_power()

        def back() -> None:
            self._condemn(worker, "power", over=True)
            self._world.network.mend(worker.node_id)
            worker.power_back()
            self._world.clock.callLater(self._world.random.uniform(0.5, 2.0), worker.start_agent)

        return back

    def _fault_engine_down(self, fault: Fault, worker: Worker) -> Callable[[], None] | None:
        if not worker.node.engine_up:
            return None
        self._condemn(worker, "engine")
        self._world.swarm.engine_died(worker.node, power=False)

        def back() -> None:
            self._condemn(worker, "engine", over=True)
            worker.kill_agent()  # it is a container too
            self._world.swarm.engine_back(worker.node)
            self._world.clock.callLater(self._world.random.uniform(0.3, 1.5), worker.start_agent)

        return back

    def _fault_cut(self, fault: Fault, worker: Worker) -> Callable[[], None] | None:
        if self._world.network.is_cut(worker.node_id) or not worker.node.engine_up:
            return None
        self._condemn(worker, "cut")
        self._world.network.cut(worker.node_id)
        self._world.swarm.lose(worker.node)

        def back() -> None:
            self._condemn(worker, "cut", over=True)
            self._world.network.mend(worker.node_id)
            if worker.node.engine_up:
                self._world.swarm.find(worker.node)

        return back

    def _fault_agent_cut(self, fault: Fault, worker: Worker) -> Callable[[], None] | None:
        if self._world.network.is_cut(worker.node_id):
            return None
        self._world.network.cut(worker.node_id)
        return lambda: self._world.network.mend(worker.node_id)

    def _fault_reset(self, fault: Fault, worker: Worker) -> None:
        self._world.network.reset(worker.node_id, int(fault.size * 4))

    def _fault_manager_down(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        self._world.manager_up = False

        def back() -> None:
            self._world.manager_up = True
            self._world.manager_away_at = self._world.clock.now

        return back

    def _fault_manager_slow(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        self._world.manager_late_s = 4.0 * fault.size

        def back() -> None:
            self._world.manager_late_s = 0.0

        return back

    def _fault_daemon_disk_slow(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        self._world.disk.slow_s = 1.5 * fault.size

        def back() -> None:
            self._world.disk.slow_s = 0.0

        return back

    def _fault_device_gone(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        """A driver loses a device; the agent sees it at its next start."""
        self._world.without_device.add(worker.node_id)
        if not worker.devices:
            return lambda: None
        self._condemn(worker, "device")
        gone = worker.devices.popitem()
        worker.kill_agent()
        self._world.clock.callLater(0.3, worker.start_agent)

        def back() -> None:
            self._condemn(worker, "device", over=True)
            worker.devices[gone[0]] = gone[1]
            worker.kill_agent()
            worker.start_agent()
            if worker.agent is not None:
                self._world.without_device.discard(worker.node_id)

        return back

    def _fault_launch_refused(self, fault: Fault, worker: Worker) -> None:
        self._world.launch_refusals = 1

    def _fault_late_calls(self, fault: Fault, worker: Worker) -> None:
        self._world.call_faults[worker.node_id] = (
            fault.kind,
            self._world.clock.now + fault.lasts_s,
        )

    _fault_double_calls = _fault_late_calls

    def _fault_daemon_clock(self, fault: Fault, worker: Worker) -> None:
        self._world.clock_jumped = True
        self._world.wall_offset_s += (fault.size - 0.5) * 7200.0

    def _fault_worker_clock(self, fault: Fault, worker: Worker) -> None:
        worker.wall_offset_s += (fault.size - 0.5) * 7200.0

    def _fault_daemon_disk_full(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        self._world.disk.full = True

        def freed() -> None:
            self._world.disk.full = False

        return freed

    def _fault_daemon_sync_fails(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        self._world.disk.sync_fails = True

        def mended() -> None:
            self._world.disk.sync_fails = False

        return mended

    def _fault_worker_disk_full(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        worker.disk_full = True
        self._world.prepare_troubles.add(worker.node_id)

        def freed() -> None:
            worker.disk_full = False

        return freed

    def _fault_kept_lost(self, fault: Fault, worker: Worker) -> None:
        """Somebody deletes what jobs kept on a worker that they have left."""
        kept = worker.root / "kept"
        for path in sorted(kept.iterdir()) if kept.exists() else ():
            facts = self._world.by_job.get(path.name)
            record = None if facts is None else facts.record
            if facts is not None and record is not None and record.placement is None:
                shutil.rmtree(path)
                facts.kept_lost = True

    def _fault_image_missing(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        worker.node.images_missing = True
        self._condemn(worker, "image")

        def there() -> None:
            self._condemn(worker, "image", over=True)
            worker.node.images_missing = False

        return there

    def _fault_drain(self, fault: Fault, worker: Worker) -> Callable[[], None]:
        self._condemn(worker, "drain")
        worker.node.availability = "drain"
        self._world.swarm.drain(worker.node)

        def active() -> None:
            self._condemn(worker, "drain", over=True)
            worker.node.availability = "active"

        return active

    def _condemn(self, worker: Worker, why: str, over: bool = False) -> None:
        """Jobs that are on that worker now, or come before it is `over`, may end for this."""
        self._befalls[worker.node_id][why] += -1 if over else 1
        for facts in self._world.facts.values():
            record = facts.record
            if (
                record is not None
                and record.placement is not None
                and record.placement.node_id == worker.node_id
                and facts.end is None
            ):
                facts.deaths.append(why)
