"""The parts of one daemon as a value, and what can be said of them together."""

import os
import resource
from collections.abc import Callable
from typing import Any

import attrs

from cumulusd import __version__
from cumulusd.admin.site import AdminSite
from cumulusd.admin.tokens import Tokens
from cumulusd.certificates import Certificates
from cumulusd.disk import Disk
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.history import History
from cumulusd.jobs.intake import Intake
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.outputs import Outputs
from cumulusd.jobs.progress import ProgressBoard
from cumulusd.jobs.store import Store
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.table import JobTable
from cumulusd.jobs.watcher import Watcher
from cumulusd.loop_lag import LoopLag
from cumulusd.metrics import Metrics
from cumulusd.metrics_labels import OTHERS, worker_labels, worker_names
from cumulusd.metrics_snapshot import MetricsSnapshot, RouterShare, jobs_share, pool_share
from cumulusd.open_files import OpenFiles
from cumulusd.protocol.router import Router
from cumulusd.relay import Relay
from cumulusd.reloading import Reloads
from cumulusd.views import worker_views
from cumulusd.web.agent_link import AgentLinkFactory
from cumulusd.web.site import CumulusSite
from cumulusd.wiring import PlatformParts
from cumulusd.wiring_s3 import S3Parts
from cumulusd.worker_news import WorkerNews
from cumulusd.workers.engine_metrics import WorkerMetrics
from cumulusd.workers.workers import AgentWorkers


@attrs.frozen(kw_only=True)
class Parts:
    """All parts of one daemon, put together but not started."""

    wall_clock: Callable[[], float]
    store: Store
    disk: Disk
    open_files: OpenFiles
    records: list[JobRecord | EndedJob]  #: what the store held
    table: JobTable
    journals: Journals
    outputs: Outputs
    router: Router
    workers: AgentWorkers
    pool: PlatformParts  #: the platform and what comes with it
    supervisor: Supervisor
    intake: Intake
    link: AgentLinkFactory
    watcher: Watcher
    history: History
    s3: S3Parts
    progress: ProgressBoard
    news: WorkerNews
    relay: Relay
    metrics: Metrics
    loop_lag: LoopLag
    worker_metrics: WorkerMetrics
    site: CumulusSite
    certificates: Certificates
    reloads: Reloads
    tokens: Tokens
    admin: AdminSite

    def health(self) -> dict[str, str]:
        """Part -> "ok" or what is wrong with it."""
        placing = self.supervisor.placing
        room = None if self.open_files.has_room() else "no open file is left for a connection"
        return {
            "platform": placing.error or placing.silence or self.watcher.platform_error or "ok",
            "store": self.store.fault or "ok",
            "router": self.router.fault or room or "ok",
            "journals": self.journals.trouble or "ok",
            "disk": self.disk.fault() or "ok",
            **self.pool.health(),
        }

    def status(self) -> dict[str, Any]:
        """How things are now, for this machine's operators; as JSON has it."""
        placing = self.supervisor.placing
        told = self.watcher.agreement.shown
        return {
            "version": __version__,
            "pid": os.getpid(),
            "instance_id": self.store.instance_id(),
            "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "parts": self.relay.health(),
            "workers": list(worker_views(placing.nodes, placing.agents(), told)),
        }

    def own_series(self) -> dict[str, str | None]:
        """Node id -> the worker's label in metrics; None: it has no series of its own."""
        placing = self.supervisor.placing
        labels = worker_labels(worker_names(placing.nodes, self.workers.agents()))
        return {node_id: None if label == OTHERS else label for node_id, label in labels.items()}

    def snapshot(self) -> MetricsSnapshot:
        """How things are now, for metrics."""
        placing, router = self.supervisor.placing, self.router.stats()
        traffic = router.traffic
        stored = self.store.stats
        return MetricsSnapshot(
            jobs=jobs_share(
                self.table.live(),
                placing.waiting_count,
                self.wall_clock(),
                placing.wait_reason,
            ),
            pool=pool_share(placing.nodes, placing.agents(), self.watcher.agreement.shown),
            router=RouterShare(
                sessions_by_role={role.value: count for role, count in router.sessions.items()},
                connections=router.connections,
                queued_bytes=router.queued_bytes,
                calls_in_flight=router.calls_in_flight,
                refusals=router.refusals,
                events_dropped=router.events_dropped,
                messages={"in": traffic.messages_in, "out": traffic.messages_out},
                bytes={"in": traffic.bytes_in, "out": traffic.bytes_out},
            ),
            journal_bytes=self.journals.total_bytes,
            output_bytes=self.outputs.total_bytes,
            store_commits=stored.commits,
            store_failures=stored.failures,
            store_waiting=stored.waiting,
            parts=self.relay.health(),
            certificates=self.certificates.expires_at(),
            reload_ok=self.reloads.trouble is None,
        )
