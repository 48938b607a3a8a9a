"""The parts of one daemon as a value, and what can be said of them together."""

from collections import Counter
from collections.abc import Iterable

import attrs

from cumulusd.admin.site import AdminSite
from cumulusd.admin.tokens import Tokens
from cumulusd.certificates import Certificates
from cumulusd.disk import Disk
from cumulusd.jobs.history import History
from cumulusd.jobs.intake import Intake
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.outputs import Outputs
from cumulusd.jobs.ports import Node
from cumulusd.jobs.progress import ProgressBoard
from cumulusd.jobs.store import Store
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.table import JobTable
from cumulusd.jobs.watcher import Watcher
from cumulusd.metrics import DeviceShare, Metrics, MetricsSnapshot, RouterShare
from cumulusd.protocol.router import Router
from cumulusd.relay import Relay
from cumulusd.reloading import Reloads
from cumulusd.web.agent_link import AgentLinkFactory
from cumulusd.web.site import CumulusSite
from cumulusd.wiring import PlatformParts
from cumulusd.wiring_s3 import S3Parts
from cumulusd.worker_news import WorkerNews
from cumulusd.workers.workers import AgentWorkers


@attrs.frozen(kw_only=True)
class Parts:
    """All parts of one daemon, put together but not started."""

    store: Store
    disk: Disk
    records: list[JobRecord]  #: what the store held
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
    site: CumulusSite
    certificates: Certificates
    reloads: Reloads
    tokens: Tokens
    admin: AdminSite

    def health(self) -> dict[str, str]:
        """Part -> "ok" or what is wrong with it."""
        platform = self.supervisor.placing.error or self.watcher.platform_error
        return {
            "platform": platform or "ok",
            "store": self.store.healthy or "ok",
            "journals": self.journals.trouble or "ok",
            "disk": self.disk.fault() or "ok",
            **self.pool.health(),
        }

    def snapshot(self) -> MetricsSnapshot:
        """How things are now, for metrics."""
        placing, router = self.supervisor.placing, self.router.stats()
        traffic = router.traffic
        agents = placing.agents()
        workers = [node for node in placing.nodes if node.is_worker]
        return MetricsSnapshot(
            jobs_by_state=Counter(
                record.state.value for record in self.table.live() if record.end is None
            ),
            queue_length=placing.waiting_count,
            workers_by_state=Counter(
                "ready" if node.usable and node.node_id in agents else "unusable"
                for node in workers
            ),
            agents_connected=len(agents),
            devices=tuple(
                DeviceShare(
                    hostname=agent.hostname,
                    device_index=device.index,
                    units_total=device.units_total,
                    units_free=device.units_free,
                )
                for agent in agents.values()
                for device in agent.devices
            ),
            disagreements=self._disagreements(workers),
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
            store_commits=self.store.stats.commits,
            parts=self.relay.health(),
            certificates=self.certificates.expires_at(),
            reload_ok=self.reloads.trouble is None,
        )

    def _disagreements(self, workers: Iterable[Node]) -> dict[str, int]:
        """By host name, 0 for those without."""
        counts = Counter(one.node_id for one in self.watcher.agreement.shown)
        return {node.hostname: counts[node.node_id] for node in workers}
