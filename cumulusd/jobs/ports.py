"""What jobs need of the world, as protocols: the platform, the workers' agents, the clock.

Implemented by `cumulusd.swarm` and `cumulusd.local` (Platform) and by `cumulusd.workers` (Workers).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any, Protocol, TypeVar

import attrs

from cumulusd.jobs.model import Grant, JobRecord, Placement

_T = TypeVar("_T")


class DelayedCall(Protocol):
    """A timer that can be stopped."""

    def cancel(self) -> None: ...
    def active(self) -> bool: ...


class Clock(Protocol):
    """Twisted's IReactorTime: monotonic seconds and timers."""

    def seconds(self) -> float: ...
    def callLater(self, delay: float, call: Callable[..., Any], *args: Any) -> DelayedCall: ...


class RunInThread(Protocol):
    """Runs a blocking function off the reactor thread."""

    def __call__(self, function: Callable[[], _T]) -> Awaitable[_T]: ...


@attrs.frozen(kw_only=True)
class Node:
    """A worker as the platform reports it."""

    node_id: str
    hostname: str
    state: str  #: "ready", "down", "unknown", ...
    availability: str  #: "active", "pause", "drain"
    is_worker: bool  #: enrolled as a GPU worker

    @property
    def usable(self) -> bool:
        """New jobs may be placed here."""
        return self.is_worker and self.state == "ready" and self.availability == "active"


@attrs.frozen(kw_only=True)
class Device:
    """A device as its worker's agent reports it."""

    device_id: str  #: stable identity
    index: int
    name: str
    kind: str  #: "gpu", "cpu", "accelerator"
    memory_bytes: int  #: what the shares divide: the total less the reserve
    units_total: int
    units_free: int
    tier: str  #: what holds a job to its share here, at best
    tier_note: str = ""  #: the same in a few words


@attrs.frozen(kw_only=True)
class Backend:
    """What books partitions on a worker, beside its agent's ledger."""

    name: str  #: "builtin": nothing but the ledger; "libchronos"
    fault: str | None = None  #: what is wrong with it, or why it isn't used


@attrs.frozen(kw_only=True)
class AgentView:
    """An agent that is connected."""

    node_id: str
    hostname: str
    devices: tuple[Device, ...]
    #: what went wrong at the last look for devices, or why there are none; None: nothing
    discovery_error: str | None = None
    #: why it takes no job now, its disk for one; None: it does
    fault: str | None = None
    backend: Backend = Backend(name="builtin")
    python_version: str | None = None  #: of its jobs' code, "3.11.7"; None: it isn't known there


@attrs.frozen(kw_only=True)
class ContainerSpec:
    """One job's container: one attempt, pinned to one node, inside its partition."""

    job_id: str
    attempt: int
    node_id: str
    grant: Grant
    cpu_cores: float | None
    memory_bytes: int | None
    stop_grace_s: float


@attrs.frozen(kw_only=True)
class Container:
    """A job's container as the platform sees it."""

    job_id: str
    attempt: int
    node_id: str | None
    alive: bool  #: it runs or may yet start
    exit_code: int | None
    message: str  #: the platform's own words


@attrs.frozen(kw_only=True)
class Holding:
    """A partition as its worker's ledger has it."""

    node_id: str
    job_id: str
    attempt: int
    device_index: int | None  #: None: an agent of an earlier version, which doesn't say
    units: int
    runs: bool = False  #: the attempt's container should be there now


@attrs.frozen(kw_only=True)
class Disagreement:
    """Where two say different things of a worker's shares. The same one is equal each time."""

    node_id: str
    message: str


class Platform(Protocol):
    """Who runs containers. Every call is idempotent; errors are CumulusError subclasses."""

    name: str

    async def nodes(self) -> Sequence[Node]:
        """All members of the pool. Raises Unavailable when the platform can't be asked."""

    def foresee_launch(self) -> None:
        """A launch follows in a moment: what it has to ask first may be asked now."""

    async def launch(self, spec: ContainerSpec) -> None:
        """Fires when the platform has accepted the container; launching it twice is one launch.

        Raises CumulusError with the platform's own words in `details["platform"]`.
        """

    async def containers(self) -> Mapping[str, Container]:
        """The containers of this daemon instance, in one look: by job id, the newest attempt's."""

    async def container(self, job_id: str, attempt: int) -> Container | None:
        """That attempt's alone; None: there is none."""

    async def all_containers(self) -> Sequence[Container]:
        """The same with those of older attempts, of a worker that came back."""

    async def stop(self, job_id: str, attempt: int) -> None:
        """Ends the container (TERM, then KILL). Fires when asked, not when it is gone."""

    async def remove(self, job_id: str, attempt: int) -> None:
        """Forgets the container. Call it only when the container is gone."""

    async def remove_ended(self, job_id: str, attempt: int) -> bool:
        """Forgets the container if it is gone; True when none is left. False: it is alive."""

    async def explain(self, job_id: str, attempt: int) -> str:
        """The end of the container's own log, for one whose runner never started."""

    async def disagreements(self, held: Mapping[str, Sequence[Holding]]) -> Sequence[Disagreement]:
        """Where what the platform itself reserves of devices isn't what the ledgers of these nodes
        hold. Also what is so for a moment only, while a job comes or goes."""


@attrs.frozen(kw_only=True)
class Kept:
    """What an attempt left on its worker for the next one."""

    checkpoints: bool  #: something in its checkpoint folder
    files: bool  #: something beside it: artifacts, outputs


@attrs.frozen(kw_only=True)
class Released:
    """How a release went."""

    done: bool  #: partition and folder are gone
    kept: Kept | None = None  #: what stays there; None: nothing


@attrs.frozen(kw_only=True)
class Inventory:
    """What an agent holds of jobs, live or not."""

    #: (job id, attempt), for every folder or partition there is
    jobs: Set[tuple[str, int]]
    holdings: tuple[Holding, ...] = ()  #: its partitions
    kept: Set[str] = frozenset()  #: ids of the jobs that left something for a next attempt


class Workers(Protocol):
    """The agents, asked over WAMP. Errors are CumulusError subclasses; Unavailable: it is away."""

    def agents(self) -> Mapping[str, AgentView]:
        """The agents connected now, by node id, with the free shares last heard of."""

    def watch(self, changed: Callable[[str], None]) -> None:
        """`changed(node_id)` is called when an agent comes, goes, or its shares change."""

    async def prepare(self, record: JobRecord, placement: Placement) -> Grant:
        """Fires when partition, folder and package are there. Idempotent per job and attempt."""

    async def release(
        self, node_id: str, job_id: str, attempt: int, *, keep: bool = False
    ) -> Released:
        """Gives partition and folder back; not done while the container may still run (the
        partition is then `draining`: call again). `keep`: what is for a next attempt stays."""

    async def stop_job(
        self, node_id: str, job_id: str, attempt: int, reason: str, grace_s: float
    ) -> bool:
        """Tells the runner to stop its job. True when a runner took the command."""

    async def pause_job(self, node_id: str, job_id: str, attempt: int, wanted: bool) -> bool:
        """Tells the runner whether the code is to pause. True when a runner took the command."""

    async def folder(self, node_id: str, job_id: str, attempt: int) -> tuple[int, bool]:
        """(end of the journal on the worker, the folder's lock is free), of that attempt.

        A free lock says that no process of it is left, not that the runner ever ran.
        Raises NotFound when there is no such folder.
        """

    async def inventory(self, node_id: str) -> Inventory:
        """What the agent holds."""
