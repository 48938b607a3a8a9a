"""How the daemon is at one moment, for its metrics: plain values, and how they are read. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from cumulus_wire.codes import WaitReason
from cumulus_wire.grant import Tier
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import AgentView, Disagreement, Node
from cumulusd.metrics_labels import OTHERS, DeviceShare, device_shares, worker_labels, worker_names

#: What a worker can be, each in the metrics from the start.
WORKER_STATES = ("ready", "faulty", "agent_away", "paused", "drained", "down")
_TIERS = tuple(tier.value for tier in Tier)


@attrs.frozen(kw_only=True)
class RouterShare:
    """The WAMP router. Counts of what happened are since the start."""

    sessions_by_role: Mapping[str, int] = attrs.field(factory=dict)
    connections: int = 0
    queued_bytes: int = 0  #: waiting for slow peers
    calls_in_flight: int = 0
    refusals: Mapping[str, int] = attrs.field(factory=dict)  #: by reason, all there are
    events_dropped: int = 0  #: for slow subscribers
    messages: Mapping[str, int] = attrs.field(factory=dict)  #: by direction: in, out
    bytes: Mapping[str, int] = attrs.field(factory=dict)  #: the same


@attrs.frozen(kw_only=True)
class JobsShare:
    """The jobs that have not ended."""

    by_state: Mapping[str, int] = attrs.field(factory=dict)
    waiting: Mapping[str, int] = attrs.field(factory=dict)  #: by wait reason, all there are
    queue_length: int = 0
    oldest_wait_s: float = 0.0  #: of those in the queue
    partitions: Mapping[str, int] = attrs.field(factory=dict)  #: held, by tier


@attrs.frozen(kw_only=True)
class PoolShare:
    """The workers."""

    by_state: Mapping[str, int] = attrs.field(factory=dict)  #: all of `WORKER_STATES`
    agents_connected: int = 0
    devices: tuple[DeviceShare, ...] = ()
    disagreements: Mapping[str, int] = attrs.field(factory=dict)  #: by label, 0 for those without
    without_series: int = 0  #: workers that are summed up


@attrs.frozen(kw_only=True)
class MetricsSnapshot:
    """How things are now. Mappings go from a state's (or role's) name to a count."""

    jobs: JobsShare = JobsShare()
    pool: PoolShare = PoolShare()
    router: RouterShare = RouterShare()
    journal_bytes: int = 0  #: on disk at the daemon
    output_bytes: int = 0  #: the same of what jobs left to be downloaded
    store_commits: int = 0  #: since the start
    store_failures: int = 0
    store_waiting: int = 0  #: jobs whose change is not on disk yet
    parts: Mapping[str, str] = attrs.field(factory=dict)  #: part -> "ok" or why not
    #: listener -> when its certificate expires, in unix seconds
    certificates: Mapping[str, float] = attrs.field(factory=dict)
    reload_ok: bool = True  #: the last reload left nothing as it was


def jobs_share(
    live: Iterable[JobRecord],
    queue_length: int,
    now: float,
    wait_reason: Callable[[JobRecord], WaitReason | None],
) -> JobsShare:
    """Of the records that are not through. `now`: unix seconds."""
    records = list(live)
    alive = [record for record in records if record.end is None]
    waiting = Counter(wait_reason(record) for record in alive)
    queued = [record.waits_since for record in alive if record.phase is Phase.QUEUED]
    tiers = Counter(
        record.grant.tier if record.grant.tier in _TIERS else OTHERS
        for record in records
        if record.grant is not None and record.phase is not Phase.ENDED
    )
    return JobsShare(
        by_state=Counter(record.state.value for record in alive),
        waiting={reason.value: waiting[reason] for reason in WaitReason},
        queue_length=queue_length,
        oldest_wait_s=max(0.0, now - min(queued, default=now)),
        partitions={tier: tiers[tier] for tier in (*_TIERS, *([OTHERS] if tiers[OTHERS] else []))},
    )


def pool_share(
    nodes: Sequence[Node], agents: Mapping[str, AgentView], disagreements: Iterable[Disagreement]
) -> PoolShare:
    """Of the workers as platform and agents tell them."""
    labels = worker_labels(worker_names(nodes, agents))
    states = Counter(
        worker_state(node, agents.get(node.node_id)) for node in nodes if node.is_worker
    )
    told = dict.fromkeys(labels.values(), 0)
    for one in disagreements:
        told[labels.get(one.node_id, OTHERS)] = told.get(labels.get(one.node_id, OTHERS), 0) + 1
    return PoolShare(
        by_state={state: states[state] for state in WORKER_STATES},
        agents_connected=len(agents),
        devices=tuple(device_shares(agents, labels)),
        disagreements=told,
        without_series=sum(label == OTHERS for label in labels.values()),
    )


def worker_state(node: Node, agent: AgentView | None) -> str:
    """Which of `WORKER_STATES` a worker is in."""
    if node.state != "ready":
        return "down"
    if node.availability != "active":
        return "drained" if node.availability == "drain" else "paused"
    if agent is None:
        return "agent_away"
    return "ready" if agent.fault is None else "faulty"
