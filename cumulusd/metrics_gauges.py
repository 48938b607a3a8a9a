"""What is, as Prometheus's gauges and counters: one snapshot at each scrape."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cumulusd.metrics_labels import DeviceShare
from cumulusd.metrics_snapshot import JobsShare, MetricsSnapshot, PoolShare, RouterShare


class Gauges(Collector):
    """Makes the gauges of a scrape from one snapshot."""

    def __init__(self, snapshot: Callable[[], MetricsSnapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterator[Metric]:
        """Nothing: else the registry would take a snapshot before the daemon is put together."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The gauges."""
        now = self._snapshot()
        yield from _jobs(now.jobs)
        yield from _pool(now.pool)
        yield from _router(now.router)
        yield _one("cumulus_journal_bytes", "Journals on disk", now.journal_bytes)
        yield _one("cumulus_output_bytes", "Outputs of jobs on disk", now.output_bytes)
        # A gauge by its type, for those who know it under this name.
        yield _one(
            "cumulus_store_commits", "Commits of the job store since the start", now.store_commits
        )
        yield CounterMetricFamily(
            "cumulus_store_failures", "Commits that the disk refused", value=now.store_failures
        )
        yield _one(
            "cumulus_store_waiting", "Jobs whose change is not on disk yet", now.store_waiting
        )
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


def _jobs(jobs: JobsShare) -> Iterator[Metric]:
    yield _by("cumulus_jobs", "Jobs that have not ended", "state", jobs.by_state)
    yield _one("cumulus_jobs_active", "Jobs that have not ended", sum(jobs.by_state.values()))
    yield _one("cumulus_queue_length", "Jobs waiting to be placed", jobs.queue_length)
    yield _one(
        "cumulus_queue_oldest_wait_seconds",
        "How long the job that waits longest to be placed has waited",
        jobs.oldest_wait_s,
    )
    yield _by("cumulus_jobs_waiting", "Jobs that don't run yet, by why", "reason", jobs.waiting)
    yield _by("cumulus_partitions", "Partitions that jobs hold", "tier", jobs.partitions)


def _pool(pool: PoolShare) -> Iterator[Metric]:
    yield _by("cumulus_workers", "Workers of the pool", "state", pool.by_state)
    yield _one("cumulus_agents_connected", "Agents connected", pool.agents_connected)
    yield _one(
        "cumulus_workers_without_series",
        "Workers beyond those with series of their own, which are summed up",
        pool.without_series,
    )
    yield from _devices(pool.devices)
    yield _by(
        "cumulus_share_disagreements",
        "Differences between ledger, jobs and what the platform reserves",
        "worker",
        pool.disagreements,
    )


def _devices(devices: tuple[DeviceShare, ...]) -> Iterator[Metric]:
    labels = ["worker", "device"]
    total = GaugeMetricFamily("cumulus_device_units", "Units of a device", labels=labels)
    free = GaugeMetricFamily("cumulus_device_units_free", "Units not booked", labels=labels)
    memory = GaugeMetricFamily(
        "cumulus_device_memory_bytes", "What the shares of a device divide", labels=labels
    )
    in_use = GaugeMetricFamily(
        "cumulus_device_memory_in_use_bytes", "What of it is booked", labels=labels
    )
    for device in devices:
        values = [device.worker, device.device]
        total.add_metric(values, device.units_total)
        free.add_metric(values, device.units_free)
        memory.add_metric(values, device.memory_bytes)
        in_use.add_metric(values, device.memory_bytes_in_use)
    yield from (total, free, memory, in_use)


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
