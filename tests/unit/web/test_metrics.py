"""What Prometheus gets: counts of ends, and gauges from one snapshot per scrape."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs.model import Stage
from cumulusd.jobs.timeline import Span
from cumulusd.metrics import Metrics
from cumulusd.metrics_labels import DeviceShare
from cumulusd.metrics_snapshot import JobsShare, MetricsSnapshot, PoolShare, RouterShare


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, label values in the order of the labels' names) -> value."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_a_fresh_daemon_has_no_ratio_and_asks_only_when_scraped() -> None:
    asked = []

    def snapshot() -> MetricsSnapshot:
        asked.append(1)
        return MetricsSnapshot()

    metrics = Metrics(snapshot)
    assert not asked
    found = samples(metrics)
    assert len(asked) == 1
    assert found["cumulus_jobs_active", ()] == 0
    assert found["cumulus_jobs_ended_total", ("none", "completed")] == 0
    assert ("cumulus_job_success_ratio", ()) not in found


def test_ends_make_counts_ratio_average_and_histogram() -> None:
    metrics = Metrics(MetricsSnapshot)
    metrics.job_submitted()
    metrics.submit_refused("too_many")
    metrics.job_ended(JobState.COMPLETED, None, 2.0)
    metrics.job_ended(JobState.COMPLETED, None, 4.0)
    metrics.job_ended(JobState.FAILED, EndReason.USER_ERROR, 6.0)
    metrics.job_ended(JobState.FAILED, EndReason.REQUIREMENTS_FAILED, None)
    found = samples(metrics)
    assert found["cumulus_jobs_ended_total", ("none", "completed")] == 2
    assert found["cumulus_jobs_ended_total", ("user_error", "failed")] == 1
    assert found["cumulus_job_success_ratio", ()] == 0.5
    assert found["cumulus_job_run_seconds_average", ()] == pytest.approx(4.0)
    assert found["cumulus_job_run_seconds_count", ()] == 3
    assert found["cumulus_job_run_seconds_bucket", ("5.0",)] == 2
    assert found["cumulus_jobs_submitted_total", ()] == 1
    assert found["cumulus_submits_refused_total", ("too_many",)] == 1


def test_gauges_come_from_the_snapshot() -> None:
    metrics = Metrics(
        lambda: MetricsSnapshot(
            jobs=JobsShare(
                by_state={"running": 2, "pending": 3},
                waiting={"no_free_share": 3, "placing": 0},
                queue_length=3,
                oldest_wait_s=9.5,
                partitions={"mig": 2, "advisory": 0},
            ),
            pool=PoolShare(
                by_state={"ready": 1, "down": 0},
                agents_connected=1,
                devices=(
                    DeviceShare(
                        worker="lab",
                        device="0",
                        units_total=10_000,
                        units_free=2_500,
                        memory_bytes=8 << 30,
                        memory_bytes_in_use=6 << 30,
                    ),
                ),
                disagreements={"lab": 2, "attic": 0},
                without_series=7,
            ),
            router=RouterShare(
                sessions_by_role={"client": 4},
                connections=5,
                queued_bytes=6,
                refusals={"uri": 7, "slow_peer": 0},
                events_dropped=8,
                messages={"in": 9, "out": 10},
                bytes={"in": 11, "out": 12},
            ),
            journal_bytes=77,
            output_bytes=78,
            parts={"store": "ok", "platform": "away"},
        )
    )
    found = samples(metrics)
    assert found["cumulus_jobs_active", ()] == 5
    assert found["cumulus_jobs", ("running",)] == 2
    assert found["cumulus_queue_length", ()] == 3
    assert found["cumulus_workers", ("ready",)] == 1
    assert found["cumulus_workers", ("down",)] == 0
    assert found["cumulus_workers_without_series", ()] == 7
    assert found["cumulus_jobs_waiting", ("no_free_share",)] == 3
    assert found["cumulus_queue_oldest_wait_seconds", ()] == 9.5
    assert found["cumulus_partitions", ("mig",)] == 2
    assert found["cumulus_device_units_free", ("0", "lab")] == 2_500
    assert found["cumulus_device_memory_bytes", ("0", "lab")] == 8 << 30
    assert found["cumulus_device_memory_in_use_bytes", ("0", "lab")] == 6 << 30
    assert found["cumulus_share_disagreements", ("lab",)] == 2
    assert found["cumulus_share_disagreements", ("attic",)] == 0
    assert found["cumulus_sessions", ("client",)] == 4
    assert found["cumulus_router_connections", ()] == 5
    assert found["cumulus_router_queued_bytes", ()] == 6
    assert found["cumulus_router_refusals_total", ("uri",)] == 7
    assert found["cumulus_router_refusals_total", ("slow_peer",)] == 0
    assert found["cumulus_router_events_dropped_total", ()] == 8
    assert found["cumulus_router_messages_total", ("in",)] == 9
    assert found["cumulus_router_bytes_total", ("out",)] == 12
    assert found["cumulus_journal_bytes", ()] == 77
    assert found["cumulus_output_bytes", ()] == 78
    assert found["cumulus_part_ok", ("platform",)] == 0
    assert found["cumulusd_process_resident_memory_bytes", ()] > 1e6


def test_two_daemons_in_one_process_share_nothing() -> None:
    one, other = Metrics(MetricsSnapshot), Metrics(MetricsSnapshot)
    one.job_submitted()
    assert samples(other)["cumulus_jobs_submitted_total", ()] == 0


def test_what_happens_is_timed_and_counted() -> None:
    metrics = Metrics(MetricsSnapshot)
    metrics.stage_over(Span(stage=Stage.QUEUED, seconds=3.0))
    metrics.stage_over(Span(stage=Stage.SETUP, seconds=0.2))
    metrics.stage_over(Span(stage=Stage.PAUSED, seconds=999.0))
    metrics.journal_received(100)
    metrics.journal_sent(40)
    metrics.engine_asked("nodes", "2xx", 0.02)
    metrics.store_committed(0.004)
    metrics.loop_lagged(0.3)
    found = samples(metrics)
    assert found["cumulus_job_phase_seconds_sum", ("queued",)] == 3.0
    assert found["cumulus_job_phase_seconds_count", ("setup",)] == 1
    assert found["cumulus_job_phase_seconds_count", ("launching",)] == 0
    assert ("cumulus_job_phase_seconds_count", ("paused",)) not in found
    assert found["cumulus_journal_received_bytes_total", ()] == 100
    assert found["cumulus_journal_sent_bytes_total", ()] == 40
    assert found["cumulus_engine_request_seconds_count", ("nodes", "2xx")] == 1
    assert found["cumulus_store_commit_seconds_sum", ()] == 0.004
    assert found["cumulus_event_loop_lag_seconds_bucket", ("0.25",)] == 0
    assert found["cumulus_event_loop_lag_seconds_bucket", ("0.5",)] == 1
