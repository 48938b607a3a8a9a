"""What Prometheus gets: counts of ends, and gauges from one snapshot per scrape."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.metrics import DeviceShare, Metrics, MetricsSnapshot, RouterShare


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
            jobs_by_state={"running": 2, "pending": 3},
            queue_length=3,
            workers_by_state={"ready": 1},
            agents_connected=1,
            devices=(
                DeviceShare(hostname="lab", device_index=0, units_total=10_000, units_free=2_500),
            ),
            disagreements={"lab": 2, "attic": 0},
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
    assert found["cumulus_device_units_free", ("0", "lab")] == 2_500
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
