"""What Prometheus sees. Counts of what happened are kept here; what is, is asked at each scrape."""

from collections.abc import Callable, Iterator, Mapping

import attrs
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: From a trivial job to a day's training.
_RUN_BUCKETS_S = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)


@attrs.frozen(kw_only=True)
class DeviceShare:
    """One device's booking."""

    hostname: str
    device_index: int
    units_total: int
    units_free: int


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
class MetricsSnapshot:
    """How things are now. Mappings go from a state's (or role's) name to a count."""

    jobs_by_state: Mapping[str, int] = attrs.field(factory=dict)  #: those that have not ended
    queue_length: int = 0
    workers_by_state: Mapping[str, int] = attrs.field(factory=dict)
    agents_connected: int = 0
    devices: tuple[DeviceShare, ...] = ()
    disagreements: Mapping[str, int] = attrs.field(factory=dict)  #: by worker, all there are
    router: RouterShare = RouterShare()
    journal_bytes: int = 0  #: on disk at the daemon
    output_bytes: int = 0  #: the same of what jobs left to be downloaded
    store_commits: int = 0  #: since the start
    parts: Mapping[str, str] = attrs.field(factory=dict)  #: part -> "ok" or why not
    #: listener -> when its certificate expires, in unix seconds
    certificates: Mapping[str, float] = attrs.field(factory=dict)
    reload_ok: bool = True  #: the last reload left nothing as it was


class Metrics:
    """The registry. `snapshot` is called at every scrape and must be quick.

    One per daemon, with a registry of its own: nothing is process-global.
    """

    def __init__(self, snapshot: Callable[[], MetricsSnapshot]) -> None:
        self._registry = CollectorRegistry()
        self._submitted = Counter(
            "cumulus_jobs_submitted", "Jobs accepted", registry=self._registry
        )
        self._refused = Counter(
            "cumulus_submits_refused",
            "Submits refused, by error code",
            ["code"],
            registry=self._registry,
        )
        self._ended = Counter(
            "cumulus_jobs_ended",
            "Jobs ended, by state and reason (none: completed)",
            ["state", "reason"],
            registry=self._registry,
        )
        self._run_s = Histogram(
            "cumulus_job_run_seconds",
            "How long the user's code ran, of ended jobs",
            buckets=_RUN_BUCKETS_S,
            registry=self._registry,
        )
        self._totals = _Totals()
        self._registry.register(_Now(snapshot, self._totals))
        ProcessCollector(namespace="cumulusd", registry=self._registry)
        # A series from the start on, so that the first one's rate is right.
        self._ended.labels(JobState.COMPLETED.value, "none")

    def job_submitted(self) -> None:
        """A job was accepted."""
        self._submitted.inc()

    def submit_refused(self, code: str) -> None:
        """A submit was refused, with that error code."""
        self._refused.labels(code).inc()

    def job_ended(self, state: JobState, reason: EndReason | None, run_s: float | None) -> None:
        """A job ended. `run_s`: how long its code ran; None when it never did."""
        self._ended.labels(state.value, "none" if reason is None else reason.value).inc()
        self._totals.ended += 1
        self._totals.completed += state is JobState.COMPLETED
        if run_s is not None:
            self._run_s.observe(run_s)
            self._totals.ran += 1
            self._totals.run_s += run_s

    def text(self) -> bytes:
        """Everything, in Prometheus's text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)


@attrs.define
class _Totals:
    ended: int = 0
    completed: int = 0
    ran: int = 0
    run_s: float = 0.0


class _Now(Collector):
    """Makes the gauges of a scrape from one snapshot."""

    def __init__(self, snapshot: Callable[[], MetricsSnapshot], totals: _Totals) -> None:
        self._snapshot = snapshot
        self._totals = totals

    def describe(self) -> Iterator[Metric]:
        """Nothing: else the registry would take a snapshot before the daemon is put together."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The gauges."""
        now, totals = self._snapshot(), self._totals
        yield _by("cumulus_jobs", "Jobs that have not ended", "state", now.jobs_by_state)
        yield _one(
            "cumulus_jobs_active", "Jobs that have not ended", sum(now.jobs_by_state.values())
        )
        yield _one("cumulus_queue_length", "Jobs waiting to be placed", now.queue_length)
        yield _by("cumulus_workers", "Workers of the pool", "state", now.workers_by_state)
        yield _one("cumulus_agents_connected", "Agents connected", now.agents_connected)
        yield from _router(now.router)
        yield _one("cumulus_journal_bytes", "Journals on disk", now.journal_bytes)
        yield _one("cumulus_output_bytes", "Outputs of jobs on disk", now.output_bytes)
        yield _one("cumulus_store_commits", "Commits of the job store", now.store_commits)
        yield _by(
            "cumulus_part_ok",
            "1 where that part of the daemon is operational",
            "part",
            {part: int(why == "ok") for part, why in now.parts.items()},
        )
        yield _by(
            "cumulus_tls_certificate_expires_timestamp_seconds",
            "When the certificate of that listener expires, in unix seconds",
            "listener",
            now.certificates,
        )
        yield _one(
            "cumulus_reload_ok",
            "0 where the last reload (SIGHUP) could not take everything; see the log",
            int(now.reload_ok),
        )
        yield from _devices(now.devices)
        yield _by(
            "cumulus_share_disagreements",
            "Differences between ledger, jobs and what the platform reserves",
            "worker",
            now.disagreements,
        )
        # Ratios are for people; rates come from the counters. Without jobs there is no ratio.
        if totals.ended:
            yield _one(
                "cumulus_job_success_ratio",
                "Share of completed jobs among those ended since the daemon's start",
                totals.completed / totals.ended,
            )
        if totals.ran:
            yield _one(
                "cumulus_job_run_seconds_average",
                "Average time the user's code ran, of jobs ended since the daemon's start",
                totals.run_s / totals.ran,
            )


def _one(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)


def _by(name: str, help: str, label: str, counts: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for key, count in sorted(counts.items()):
        family.add_metric([key], count)
    return family


def _counted(name: str, help: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help, labels=[label])
    for key, count in sorted(counts.items()):
        family.add_metric([key], count)
    return family


def _router(router: RouterShare) -> Iterator[Metric]:
    yield _by("cumulus_sessions", "WAMP sessions", "role", router.sessions_by_role)
    yield _one("cumulus_calls_in_flight", "WAMP calls not yet answered", router.calls_in_flight)
    yield _one(
        "cumulus_router_connections", "WebSockets of the router, joined or not", router.connections
    )
    yield _one(
        "cumulus_router_queued_bytes", "What waits for peers to take it", router.queued_bytes
    )
    yield _counted(
        "cumulus_router_refusals",
        "Requests refused and sessions ended, by reason (docs/operations.md)",
        "reason",
        router.refusals,
    )
    yield CounterMetricFamily(
        "cumulus_router_events_dropped",
        "Events dropped for subscribers that are too slow",
        value=router.events_dropped,
    )
    yield _counted(
        "cumulus_router_messages", "WAMP messages by direction", "direction", router.messages
    )
    yield _counted(
        "cumulus_router_bytes",
        "Bytes of WAMP messages by direction, without WebSocket and TLS",
        "direction",
        router.bytes,
    )


def _devices(devices: tuple[DeviceShare, ...]) -> Iterator[Metric]:
    labels = ["worker", "device"]
    total = GaugeMetricFamily("cumulus_device_units", "Units of a device", labels=labels)
    free = GaugeMetricFamily("cumulus_device_units_free", "Units not booked", labels=labels)
    for device in devices:
        values = [device.hostname, str(device.device_index)]
        total.add_metric(values, device.units_total)
        free.add_metric(values, device.units_free)
    yield total
    yield free
