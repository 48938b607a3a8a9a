"""The daemon as one service: its parts started in order, and stopped in the opposite one."""

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from cumulusd import __version__, activation
from cumulusd.admin.unix_socket import AdminPort
from cumulusd.config import Config, warnings
from cumulusd.heartbeat import Heartbeat, status_line
from cumulusd.jobs import timeline
from cumulusd.jobs.model import JobRecord
from cumulusd.notify import Notifier
from cumulusd.parts import Parts
from cumulusd.tasks import Tasks, wait_at_most
from cumulusd.tls import SCHEME, parse_listener

#: Each step of the ordered stop gets this long; all together stay below systemd's TimeoutStopSec.
STOP_STEP_S = 5.0
#: What the service manager grants each step of the start, which can't report while it is at it.
START_STEP_S = 300.0
#: Jobs taken up between two reports.
_REPORT_JOBS = 500


class Cumulusd(Service):
    """Starts the parts in order, stops them in the opposite one, each step bounded."""

    name = "cumulusd"
    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        assemble: Callable[[Config, Any], Parts],
        reread: Callable[[], Config] | None = None,
        *,
        notifier: Notifier | None = None,
        watchdog_s: float | None = None,
    ) -> None:
        """`assemble` makes the parts of that configuration; `reread` loads it anew, raising
        ConfigError: with it, SIGHUP does so. `notifier` tells the service manager, which wants to
        hear of it every `watchdog_s` (None: it doesn't watch)."""
        self._config = config
        self._reactor = reactor
        self._assemble = assemble
        self._reread = reread
        self._parts: Parts | None = None
        self._ports: list[IListeningPort] = []
        self._reloading = Tasks()
        self._is_reloading = False
        self._notifier = notifier or Notifier(None, reactor)
        self._heartbeat = Heartbeat(
            self._notifier,
            reactor,
            watchdog_s=watchdog_s,
            stuck_s=lambda: 0.0 if self._parts is None else self._parts.store.stuck_s,
            status=self._status,
        )
        self._telling_ready: IDelayedCall | None = None

    def privilegedStartService(self) -> None:
        """Loads what is on disk, assembles, and listens; ends the process when it can't."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._notifier.starting("Starting: loading what is on disk", START_STEP_S)
        self._parts = parts = self._assemble(self._config, self._reactor)
        port = AdminPort(self._config.admin_path, parts.admin, self._reactor)
        port.startListening()
        self._ports.append(port)
        inside = parts.pool.inside()
        if inside is not None:
            self._listen(inside[0], parts.site, inside[1])
        for description in self._config.listen:
            self._listen(self._endpoint(parts, description), parts.site, description)

    def startService(self) -> None:
        """Takes up the jobs that were found and begins to work."""
        super().startService()  # type: ignore[no-untyped-call]
        parts = self._parts
        assert parts is not None
        parts.store.start()
        parts.supervisor.resume(parts.records)
        live = list(parts.table.live())
        for index, record in enumerate(live):
            if index % _REPORT_JOBS == 0:
                progress = f"Starting: taking up jobs, {index} of {len(live)}"
                self._notifier.starting(progress, START_STEP_S)
            parts.intake.resume(record)
        parts.table.watch(self._count)
        parts.supervisor.placing.start()
        parts.watcher.start()
        parts.history.start()
        parts.s3.start()
        parts.news.start()
        parts.certificates.start()
        parts.loop_lag.start()
        parts.tokens.start()
        parts.pool.start(parts.supervisor.placing.refresh)
        for warning in warnings(self._config):
            self._log.warn("{warning}", warning=warning)
        if self._reread is not None:
            signal.signal(signal.SIGHUP, self._hang_up)
        self._log.info(
            "cumulusd {version} is up: {platform} platform, listening on {listen},"
            " {live} job(s) taken up again",
            version=__version__,
            platform=parts.pool.platform.name,
            listen=", ".join(self._config.listen),
            live=len(live),
        )
        # Once the event loop turns: only then is anybody answered.
        self._telling_ready = self._reactor.callLater(0, self._tell_ready)

    async def reload(self) -> None:
        """Reads the configuration again and hands it to the parts that take one while they run;
        what goes wrong is logged, and shown by the metric `cumulus_reload_ok`."""
        parts, reread = self._parts, self._reread
        assert parts is not None and reread is not None

        def read() -> Awaitable[Config]:
            return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), reread)

        if self._is_reloading:  # it follows the one under way, which tells the manager
            await parts.reloads.reload(read)
            return
        self._is_reloading = True
        self._notifier.reloading("Reloading the configuration")
        try:
            await parts.reloads.reload(read)
        finally:
            self._is_reloading = False
            if self.running:
                self._notifier.ready(self._status())

    def stopService(self) -> Deferred[None]:
        """New work is refused, then parts end one after the other; fires when all have."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._parts is None:
            self._notifier.close()
            return
        if self._telling_ready is not None and self._telling_ready.active():
            self._telling_ready.cancel()
        self._notifier.stopping("Stopping")
        parts = self._parts
        parts.relay.close()
        for name, step in self._stop_steps(parts):
            self._notifier.status(f"Stopping: {name}")
            started_at = self._reactor.seconds()
            try:
                await wait_at_most(self._reactor, STOP_STEP_S, Deferred.fromCoroutine(_await(step)))
            except Exception:
                # One part's failure must not keep the others from ending in order.
                self._log.failure("stopping the {part} failed", part=name)
            if self._reactor.seconds() - started_at >= STOP_STEP_S:
                self._log.error("stopping the {part} took too long, going on", part=name)
        self._log.info(
            "cumulusd has stopped; running jobs go on and are taken up at the next start"
        )
        self._heartbeat.stop()
        self._notifier.close()

    # -- inside

    def _stop_steps(self, parts: Parts) -> list[tuple[str, Callable[[], Any]]]:
        """In this order."""
        return [
            ("reloading", self._stop_reloading),
            ("listening", self._stop_listening),
            ("tokens", parts.tokens.stop),
            ("admin socket", parts.admin.stop),
            ("web", parts.site.stop),
            ("router", lambda: parts.router.stop(STOP_STEP_S - 1.0)),
            ("workers' agents", parts.pool.stop),
            ("agents' link", parts.link.stop),
            ("watcher", parts.watcher.stop),
            ("history", parts.history.stop),
            ("event loop's lag", parts.loop_lag.stop),
            ("workers' metrics", parts.worker_metrics.stop),
            ("S3", parts.s3.stop),
            ("progress", parts.progress.stop),
            ("news of workers", parts.news.stop),
            ("supervisor", parts.supervisor.stop),
            ("intake", parts.intake.stop),
            ("workers", parts.workers.stop),
            ("platform", parts.pool.platform.close),
            ("journals", parts.journals.stop),
            ("store", parts.store.stop),
        ]

    def _tell_ready(self) -> None:
        self._notifier.ready(self._status())
        self._heartbeat.start()

    def _status(self) -> str:
        """What `systemctl status` shows."""
        parts = self._parts
        assert parts is not None
        return status_line(
            parts.table.live(),
            len(parts.supervisor.placing.agents()),
            {**parts.health(), "reload": parts.reloads.trouble or "ok"},
        )

    def _hang_up(self, number: int, frame: Any) -> None:
        """SIGHUP, in whatever the process was doing: the reactor takes it from here."""
        self._reactor.callFromThread(self._begin_reload)

    def _begin_reload(self) -> None:
        self._reloading.start(self.reload(), "reloading")

    async def _stop_reloading(self) -> None:
        assert self._parts is not None
        self._parts.certificates.stop()
        if self._reread is not None:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        await self._reloading.stop()

    def _endpoint(self, parts: Parts, description: str) -> IStreamServerEndpoint:
        try:
            if description.startswith(SCHEME):
                return parts.certificates.endpoint(parse_listener(description, Path("/")))
            if description.startswith(activation.SCHEME):
                wanted = activation.parse_inherited(description)
                return activation.inherited_endpoint(self._reactor, wanted)
        except activation.NotHandedOver as error:
            raise SystemExit(f"cumulusd: can't listen on {description}: {error}") from error
        endpoint: IStreamServerEndpoint = serverFromString(  # type: ignore[no-untyped-call]
            self._reactor, description
        )
        return endpoint

    def _count(self, before: JobRecord | None, after: JobRecord) -> None:
        """Tells the metrics of a job that came or ended."""
        assert self._parts is not None
        metrics = self._parts.metrics
        over = None if before is None else timeline.passed(before, after)
        if over is not None:
            metrics.stage_over(over)
        if before is None:
            metrics.job_submitted()
        elif before.end is None and after.end is not None:
            run_s = after.ran_s or None
            if after.started_at is not None and after.ended_at is not None:
                run_s = after.ran_s + max(0.0, after.ended_at - after.started_at)
            metrics.job_ended(after.end.state, after.end.reason, run_s)

    def _listen(self, endpoint: IStreamServerEndpoint, site: Any, description: str) -> None:
        """Listens, or ends the process with a clear message."""
        failures: list[Exception] = []
        listening: Deferred[IListeningPort] = endpoint.listen(site)
        listening.addCallbacks(self._ports.append, lambda failure: failures.append(failure.value))
        if not failures:
            return
        error = failures[0]
        why = str(error.socketError) if isinstance(error, CannotListenError) else str(error)
        raise SystemExit(
            f"cumulusd: can't listen on {description}: {why}."
            " Is another cumulusd running? Change `listen` in the configuration, or stop it."
        )

    async def _stop_listening(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            stopping = port.stopListening()
            if stopping is not None:
                await stopping


async def _await(step: Callable[[], Any]) -> None:
    result = step()
    if result is not None:
        await result
