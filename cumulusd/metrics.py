"""What Prometheus sees. Counts of what happened are kept here; what is, is asked at each scrape."""

from collections.abc import Callable, Iterator

import attrs
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cumulus_wire.codes import RETRIED, EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs.model import Stage
from cumulusd.jobs.timeline import Span
from cumulusd.metrics_gauges import Gauges
from cumulusd.metrics_snapshot import MetricsSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: From a trivial job to a day's training.
_RUN_BUCKETS_S = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
#: From a start on an idle worker to a night in the queue.
_PHASE_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 8 * 3600)
_ENGINE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15)
_LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
#: What a job goes through beside its run, which has a histogram of its own; a pause is the user's.
TIMED_STAGES = (Stage.QUEUED, Stage.PREPARING, Stage.LAUNCHING, Stage.SETUP, Stage.ENDING)


class Metrics:
    """The registry. `snapshot` is called at every scrape and must be quick.

    One per daemon, with a registry of its own: nothing is process-global.
    """

    def __init__(self, snapshot: Callable[[], MetricsSnapshot]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._submitted = Counter("cumulus_jobs_submitted", "Jobs accepted", registry=registry)
        self._refused = Counter(
            "cumulus_submits_refused",
            "Submits refused, by error code",
            ["code"],
            registry=registry,
        )
        self._ended = Counter(
            "cumulus_jobs_ended",
            "Jobs ended, by state and reason (none: completed)",
            ["state", "reason"],
            registry=registry,
        )
        self._run_s = Histogram(
            "cumulus_job_run_seconds",
            "How long the user's code ran, of ended jobs",
            buckets=_RUN_BUCKETS_S,
            registry=registry,
        )
        self._phase_s = Histogram(
            "cumulus_job_phase_seconds",
            "How long jobs were in each phase: queued (until a place was found), preparing, "
            "launching, setup, ending",
            ["phase"],
            buckets=_PHASE_BUCKETS_S,
            registry=registry,
        )
        self._received = Counter(
            "cumulus_journal_received_bytes",
            "Bytes of journals that agents sent",
            registry=registry,
        )
        self._sent = Counter(
            "cumulus_journal_sent_bytes",
            "Bytes of journals that went to followers of jobs",
            registry=registry,
        )
        self._engine_s = Histogram(
            "cumulus_engine_request_seconds",
            "Requests to the Docker Engine, by kind of object and status (none: no answer)",
            ["object", "status"],
            buckets=_ENGINE_BUCKETS_S,
            registry=registry,
        )
        self._commit_s = Histogram(
            "cumulus_store_commit_seconds",
            "How long a commit of the job store (the checkpoint) took, that succeeded",
            buckets=_COMMIT_BUCKETS_S,
            registry=registry,
        )
        self._lag_s = Histogram(
            "cumulus_event_loop_lag_seconds",
            "How much later than wished the event loop ran a timer, asked once a second",
            buckets=_LAG_BUCKETS_S,
            registry=registry,
        )
        self._ratios = _Ratios()
        registry.register(Gauges(snapshot))
        registry.register(self._ratios)
        ProcessCollector(namespace="cumulusd", registry=registry)
        # A series from the start on, so that the first one's rate is right.
        self._ended.labels(JobState.COMPLETED.value, "none")
        for reason in sorted(RETRIED):
            self._ended.labels(JobState.FAILED.value, reason.value)
        for stage in TIMED_STAGES:
            self._phase_s.labels(stage.value)

    def job_submitted(self) -> None:
        """A job was accepted."""
        self._submitted.inc()

    def submit_refused(self, code: str) -> None:
        """A submit was refused, with that error code."""
        self._refused.labels(code).inc()

    def job_ended(self, state: JobState, reason: EndReason | None, run_s: float | None) -> None:
        """A job ended. `run_s`: how long its code ran; None when it never did."""
        self._ended.labels(state.value, "none" if reason is None else reason.value).inc()
        self._ratios.ended += 1
        self._ratios.completed += state is JobState.COMPLETED
        if run_s is not None:
            self._run_s.observe(run_s)
            self._ratios.ran += 1
            self._ratios.run_s += run_s

    def stage_over(self, span: Span) -> None:
        """A job left a stage."""
        if span.stage in TIMED_STAGES:
            self._phase_s.labels(span.stage.value).observe(span.seconds)

    def journal_received(self, size_bytes: int) -> None:
        """An agent sent so much of a journal."""
        self._received.inc(size_bytes)

    def journal_sent(self, size_bytes: int) -> None:
        """So much of a journal went to who follows a job."""
        self._sent.inc(size_bytes)

    def engine_asked(self, kind: str, status: str, seconds: float) -> None:
        """The Docker Engine was asked. `kind` and `status` are of small sets."""
        self._engine_s.labels(kind, status).observe(seconds)

    def store_committed(self, seconds: float) -> None:
        """A commit of the job store succeeded. May be called from any thread."""
        self._commit_s.observe(seconds)

    def loop_lagged(self, seconds: float) -> None:
        """A timer ran so much later than wished."""
        self._lag_s.observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)


@attrs.define(eq=False)
class _Ratios(Collector):
    """For people; rates come from the counters. Without jobs there is no ratio."""

    ended: int = 0
    completed: int = 0
    ran: int = 0
    run_s: float = 0.0

    def collect(self) -> Iterator[Metric]:
        """Those that there are by now."""
        if self.ended:
            yield GaugeMetricFamily(
                "cumulus_job_success_ratio",
                "Share of completed jobs among those ended since the daemon's start",
                value=self.completed / self.ended,
            )
        if self.ran:
            yield GaugeMetricFamily(
                "cumulus_job_run_seconds_average",
                "Average time the user's code ran, of jobs ended since the daemon's start",
                value=self.run_s / self.ran,
            )
