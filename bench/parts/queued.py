"""A pool that is full and a line that waits, in memory: what one scheduling pass costs.

`Placing` is the real one, with the real table, queue and scheduler; platform, agents and clock only
say what they are told.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from bench.parts.errors import BenchError
from cumulusd.jobs.events import Event, EventKind
from cumulusd.jobs.model import JobRecord, JobSpec, Phase, Placement
from cumulusd.jobs.placing import Placing
from cumulusd.jobs.ports import AgentView, DelayedCall, Device, Node
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.table import JobTable

WORKERS = 100
DEVICES = 4
OWNERS = 20
#: What waiting jobs ask for, of a device.
SHARES = (0.1, 0.25, 0.5, 1.0)
UNITS = 10_000
_NOW = 1_800_000_000.0


class _Call:
    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self._active = True

    def cancel(self) -> None:
        self._active = False

    def active(self) -> bool:
        return self._active


class _Turns:
    """A clock that stands still; what is to be called is called when it is asked to."""

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque()

    def seconds(self) -> float:
        return 0.0

    def callLater(self, delay: float, call: Callable[..., Any], *args: Any) -> DelayedCall:
        made = _Call(lambda: call(*args))
        if delay == 0:
            self._calls.append(made)
        return made

    def run_one(self) -> float | None:
        """The seconds of CPU that the next call took, which does nothing but compute; None: there
        is none."""
        while self._calls:
            made = self._calls.popleft()
            if not made.active():
                continue
            made.cancel()
            begun = time.thread_time()
            made.call()
            return time.thread_time() - begun
        return None


class _Platform:
    async def nodes(self) -> Sequence[Node]:
        return [
            Node(
                node_id=f"node-{number:03}",
                hostname=f"worker-{number:03}",
                state="ready",
                availability="active",
                is_worker=True,
            )
            for number in range(WORKERS)
        ]


class _Workers:
    def __init__(self) -> None:
        devices = tuple(
            Device(
                device_id=f"gpu-{index}",
                index=index,
                name="GPU",
                kind="gpu",
                memory_bytes=80 << 30,
                units_total=UNITS,
                units_free=UNITS,  # what we have placed counts; agents are heard of later
                tier="none",
            )
            for index in range(DEVICES)
        )
        self._agents = {
            f"node-{number:03}": AgentView(
                node_id=f"node-{number:03}", hostname=f"worker-{number:03}", devices=devices
            )
            for number in range(WORKERS)
        }

    def agents(self) -> Mapping[str, AgentView]:
        return self._agents

    def watch(self, changed: Callable[[str], None]) -> None:
        """Nothing changes."""


class FullPool:
    """Every device is taken by one running job; so many others wait."""

    def __init__(self, waiting: int) -> None:
        self._turns = _Turns()
        self._table = JobTable()
        platform: Any = _Platform()
        workers: Any = _Workers()
        tell: Any = self._tell
        self._placing = Placing(
            table=self._table,
            platform=platform,
            workers=workers,
            clock=self._turns,
            wall_clock=lambda: _NOW,
            settings=Settings(),
            tell=tell,
        )
        self._running: deque[str] = deque()
        self._count = 0
        self.placed = 0  #: jobs that were placed so far
        for number in range(WORKERS):
            for index in range(DEVICES):
                self._run_one(f"node-{number:03}", f"gpu-{index}")
        for _ in range(waiting):
            self.submit()
        Deferred.fromCoroutine(self._placing.refresh())
        self.settle()

    def settle(self) -> list[float]:
        """Runs the passes that are wished for, until none is; what each took, in seconds of CPU."""
        took = []
        while (seconds := self._turns.run_one()) is not None:
            took.append(seconds)
            if len(took) > 1000:
                raise BenchError("scheduling passes wish for another one without end")
        return took

    def tick(self) -> list[float]:
        """A pass while nothing has changed, as every two seconds."""
        self._placing.soon()
        return self.settle()

    def submit(self) -> None:
        """One more job waits."""
        self._count += 1
        spec = _spec(SHARES[self._count % len(SHARES)])
        record = JobRecord(
            job_id=f"job_{self._count:08}",
            owner=f"owner-{self._count % OWNERS}",
            spec=spec,
            phase=Phase.QUEUED,
            created_at=_NOW - 100_000 + self._count,
        )
        self._table.put(record)
        self._placing.add(record)

    def end_one(self) -> None:
        """The job that has run longest is gone, and its share with it."""
        before = self._table.get(self._running.popleft())
        assert before is not None
        after = attrs.evolve(before, phase=Phase.ENDED, ended_at=_NOW)
        self._table.put(after)
        self._placing.changed(before, after)
        self._table.forget(after.job_id)

    def _run_one(self, node_id: str, device_id: str) -> None:
        self._count += 1
        placement = Placement(node_id=node_id, hostname=node_id, device_id=device_id)
        record = JobRecord(
            job_id=f"job_{self._count:08}",
            owner=f"owner-{self._count % OWNERS}",
            spec=_spec(1.0),
            phase=Phase.RUNNING,
            created_at=_NOW - 200_000 + self._count,
            started_at=_NOW - 60,
            placement=placement,
        )
        self._table.put(record)
        self._running.append(record.job_id)

    def _tell(self, job_id: str, kind: EventKind, *, event: Event | None = None) -> None:
        """As the supervisor, without the disk."""
        before = self._table.get(job_id)
        if kind is not EventKind.PLACED or before is None or event is None:
            raise BenchError(f"unexpected: {kind} of {job_id}")
        after = attrs.evolve(
            before, phase=Phase.RUNNING, wait=None, started_at=_NOW, placement=event.placement
        )
        self._table.put(after)
        self._placing.changed(before, after)
        self._running.append(job_id)
        self.placed += 1


def _spec(share: float) -> JobSpec:
    return JobSpec(
        package_sha256="ab" * 32, package_size_bytes=1000, gpu_memory=share, duration_s=3600.0
    )
