"""Values and helpers that the tests of jobs share."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.python.failure import Failure

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.states import JobState
from cumulusd.jobs.model import (
    Checkpoint,
    End,
    EndedAttempt,
    Fate,
    Grant,
    JobRecord,
    JobSpec,
    Moment,
    OutputInfo,
    Phase,
    Placement,
    ResultInfo,
    Stage,
    Wait,
)
from cumulusd.jobs.ports import AgentView, Device, Node

_T = TypeVar("_T")


def spec(gpu_memory: float = 0.5, **changes: Any) -> JobSpec:
    """A specification."""
    values: dict[str, Any] = {
        "package_sha256": "ab" * 32,
        "package_size_bytes": 10,
        "gpu_memory": gpu_memory,
        "duration_s": 60.0,
    }
    return JobSpec(**(values | changes))


def record(job_id: str = "job-1", gpu_memory: float = 0.5, **changes: Any) -> JobRecord:
    """A queued job; spec fields as `spec=spec(...)`."""
    values: dict[str, Any] = {
        "job_id": job_id,
        "owner": "ann",
        "spec": spec(gpu_memory),
        "phase": Phase.QUEUED,
        "created_at": 100.0,
    }
    return JobRecord(**(values | changes))


def full_record() -> JobRecord:
    """Every field set, so that the golden files name them all."""
    return JobRecord(
        job_id="job-1",
        owner="ann",
        spec=JobSpec(
            package_sha256="ab" * 32,
            package_size_bytes=1234,
            gpu_memory=0.25,
            duration_s=60.0,
            requirements=("six", "numpy>=2"),
            setup_timeout_s=30.0,
            queue_timeout_s=5.5,
            priority=3,
            name="train",
            environment={"A": "1"},
            cpu_cores=2.0,
            memory_bytes=1 << 30,
            python_version="3.11.7",
            idempotency_key="k",
            retries=2,
            needs_python="3.11",
            secret_names=("TOKEN",),
        ),
        phase=Phase.ENDED,
        created_at=1.5,
        attempt=2,
        attempts=(
            EndedAttempt(
                attempt=1,
                reason=EndReason.WORKER_LOST,
                message="gone",
                node_id="n0",
                hostname="gpu0",
                started_at=1.7,
                ended_at=1.8,
            ),
        ),
        journal_start=4096,
        queued_at=1.9,
        wait=Wait(reason=WaitReason.NO_FREE_SHARE, message="busy", details={"position": 1}),
        placement=Placement(node_id="n1", hostname="gpu1", device_id="d1"),
        grant=Grant(
            partition_id="p1",
            device_id="d1",
            device_name="Card",
            device_index=0,
            units=2500,
            gpu_memory_bytes=1 << 30,
            tier="none",
            tier_note="books only",
            folder="/f",
            environment={"X": "y"},
            mounts=(("/a", "/b", True),),
            lifetime_s=900.0,
        ),
        fate=Fate(drained=True, down=True),
        stop_reason=EndReason.CANCELLED_BY_USER,
        setup_at=2.0,
        started_at=3.0,
        ended_at=4.0,
        end=End(
            state=JobState.FAILED,
            reason=EndReason.USER_ERROR,
            message="ValueError: x",
            exit_code=1,
            signal=9,
            error={"type": "ValueError"},
            result=ResultInfo(encoding="json", size_bytes=2, sha256="cd"),
            hint="look",
            log_tail="epoch 7\n",
            outputs=(OutputInfo(name="plots/loss.png", size_bytes=7, sha256="ef"),),
            outputs_note="1 more is over the limit",
        ),
        pause_requested=True,
        pauses=1,
        checkpoints=(
            Checkpoint(
                filename="epoch_7.pt",
                path="/k/checkpoints/epoch_7.pt",
                epoch=7,
                step=700,
                framework="pytorch",
                timestamp=3.5,
                size_bytes=99,
                s3_key="jobs/job-1/epoch_7.pt",
            ),
        ),
        pinned_node="n1",
        ran_s=12.5,
        paused_at=3.75,
        moments=(
            Moment(stage=Stage.QUEUED, at=1.5, attempt=1),
            Moment(stage=Stage.ENDED, at=4.0, attempt=2),
        ),
    )


def running(
    job_id: str, node_id: str, device_id: str, gpu_memory: float, **changes: Any
) -> JobRecord:
    """A job that runs there."""
    values: dict[str, Any] = {
        "phase": Phase.RUNNING,
        "placement": Placement(node_id=node_id, hostname=f"host-{node_id}", device_id=device_id),
        "started_at": 100.0,
    }
    return record(job_id, gpu_memory, **(values | changes))


def node(node_id: str = "n1", **changes: Any) -> Node:
    """A usable worker."""
    values: dict[str, Any] = {
        "node_id": node_id,
        "hostname": f"host-{node_id}",
        "state": "ready",
        "availability": "active",
        "is_worker": True,
    }
    return Node(**(values | changes))


def device(
    device_id: str = "d0", index: int = 0, free: int = 10_000, total: int = 10_000
) -> Device:
    """A GPU."""
    return Device(
        device_id=device_id,
        index=index,
        name=f"Card {device_id}",
        kind="gpu",
        memory_bytes=8 << 30,
        units_total=total,
        units_free=free,
        tier="none",
    )


def agents(**devices: tuple[Device, ...]) -> dict[str, AgentView]:
    """Node id -> agent with these devices."""
    return {
        node_id: AgentView(node_id=node_id, hostname=f"host-{node_id}", devices=each)
        for node_id, each in devices.items()
    }


def result_of(waiting: "Deferred[_T] | Coroutine[Deferred[Any], Any, _T]") -> _T:
    """The result of what has fired already; raises its error. Fails when it still waits."""
    results: list[Any] = []
    ensureDeferred(waiting).addBoth(results.append)
    assert results, "it has not fired yet"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]  # type: ignore[no-any-return]


class Threads:
    """`run_in_thread` that runs at once, or holds the work until `release`."""

    def __init__(self, held: bool = False) -> None:
        self.held = held
        self.ran = 0
        self._waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def __call__(self, function: Callable[[], _T]) -> Deferred[_T]:
        if self.held:
            waiting: Deferred[_T] = Deferred()
            self._waiting.append((waiting, function))
            return waiting
        return self._run(function)

    def _run(self, function: Callable[[], _T]) -> Deferred[_T]:
        self.ran += 1
        try:
            return succeed(function())
        except Exception as error:
            return fail(error)

    @property
    def waiting(self) -> int:
        """Pieces of work held."""
        return len(self._waiting)

    def release(self) -> None:
        """Does the oldest piece of work held."""
        waiting, function = self._waiting.pop(0)
        self._run(function).chainDeferred(waiting)
