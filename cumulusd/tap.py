"""Puts the daemon together: configuration in, service out. The only one that knows all parts."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from cumulusd import __version__
from cumulusd.config import Config
from cumulusd.disk import Disk
from cumulusd.errors import CumulusError
from cumulusd.identity import Authenticator, Principal
from cumulusd.jobs.history import History
from cumulusd.jobs.intake import Intake
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.output_pull import OutputPull
from cumulusd.jobs.outputs import Outputs
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.ports import RunInThread
from cumulusd.jobs.progress import ProgressBoard
from cumulusd.jobs.secret_values import SecretValues
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.store import Store
from cumulusd.jobs.store_file import store_path
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.table import JobTable
from cumulusd.jobs.watcher import Watcher
from cumulusd.metrics import Metrics, MetricsSnapshot
from cumulusd.parts import Parts
from cumulusd.protocol.procedures import Procedures
from cumulusd.protocol.router import Router
from cumulusd.relay import Relay
from cumulusd.spec import SpecLimits
from cumulusd.steady_time import steady_wall_clock
from cumulusd.submissions import SubmitLimits
from cumulusd.tasks import wait_at_most
from cumulusd.web.agent_link import AgentLinkFactory
from cumulusd.web.site import make_site
from cumulusd.wiring import LocalParts, PlatformParts, installer_variables
from cumulusd.workers.workers import AgentWorkers

_T = TypeVar("_T")
#: Each step of the ordered stop gets this long.
_STOP_STEP_S = 5.0
_JOURNAL_SEGMENT_BYTES = 8 << 20


def make_service(config: Config, reactor: Any = None) -> IService:
    """The daemon as one service. `reactor`: None takes the running one."""
    if reactor is None:
        from twisted.internet import reactor as running

        reactor = running
        # Twisted's timers go by the wall clock, which is set and jumps: a job must not be given up
        # for that. Nothing is scheduled yet.
        reactor.seconds = time.monotonic
    return Cumulusd(config, reactor)


def open_store(config: Config, reactor: Any) -> tuple[Store, list[JobRecord]]:
    """The job store and what it holds. Raises StoreUnusable; ends the process when the folder
    can't be used."""
    state = config.state_dir
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = Store(store_path(state), reactor.callFromThread)
        return store, store.load()
    except OSError as error:
        raise SystemExit(f"cumulusd: state_dir {state} can't be used: {error}") from error


def platform_parts(
    config: Config,
    reactor: Any,
    authenticator: Authenticator,
    instance_id: str,
    run_in_thread: RunInThread,
) -> PlatformParts:
    """What the configured platform brings."""
    if config.platform.type == "local":
        return LocalParts(config, reactor, authenticator)
    # Only here: a laptop without Docker goes without its libraries.
    from cumulusd.wiring_swarm import SwarmParts

    return SwarmParts(config, reactor, authenticator, instance_id, run_in_thread)


def assemble(config: Config, reactor: Any) -> Parts:
    """Makes every part and tells each of those it stands on. Nothing listens or runs yet."""
    state = config.state_dir
    wall_clock = steady_wall_clock()
    store, records = open_store(config, reactor)

    def run_in_thread(function: Callable[[], _T]) -> Awaitable[_T]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), function)

    # Some parts need each other: these look them up when they are called.
    def acknowledge(job_id: str, offset: int) -> None:
        link.acknowledge(job_id, offset)

    def owns_job(who: Principal, job_id: str) -> bool:
        return relay.owns(who, job_id)

    def is_storing(job_id: str) -> bool:
        return intake.is_storing(job_id)

    def progressed(job_id: str) -> None:
        record = table.get(job_id)
        if record is not None:
            procedures.job_changed(record)

    def make_room_for_outputs(size_bytes: int) -> Awaitable[None]:
        return history.make_room_for_outputs(size_bytes)

    def fetch_output(
        node_id: str, job_id: str, attempt: int, name: str, offset: int, length: int
    ) -> Deferred[tuple[bytes, int]]:
        return link.fetch(node_id, job_id, attempt, name, offset, length)

    def health() -> dict[str, str]:
        return parts.health()

    def snapshot() -> MetricsSnapshot:
        return parts.snapshot()

    def refused(code: str) -> None:
        metrics.submit_refused(code)

    def no_room() -> CumulusError | None:
        return disk.refusal({"job store": store.healthy, "journals": journals.trouble})

    settings = Settings(
        agent_grace_s=config.agent_grace_s,
        history_s=config.jobs.history_hours * 3600.0,
        history_max_bytes=config.jobs.history_max_bytes,
        history_max_jobs=config.jobs.history_max_jobs,
        outputs_history_max_bytes=config.jobs.outputs_history_max_bytes,
    )
    authenticator = Authenticator(config.authenticator_tokens())
    disk = Disk(state, config.jobs.min_free_bytes)
    table = JobTable()
    packages = Packages(
        state / "packages",
        run_in_thread=run_in_thread,
        max_package_bytes=config.jobs.package_max_bytes,
    )
    router = Router(
        clock=reactor,
        authenticator=authenticator,
        owns_job=owns_job,
    )
    session = router.local()
    secrets = SecretValues(state / "secrets", run_in_thread)
    workers = AgentWorkers(
        session.call,
        reactor,
        secrets=secrets.load,
        environment=config.jobs.environment,
        installer_environment=installer_variables(config.jobs),
    )
    session.watch_registrations(workers.registration_changed)
    pool = platform_parts(config, reactor, authenticator, store.instance_id(), run_in_thread)
    platform = pool.platform
    tails = LogTails()
    journals = Journals(
        state / "journals",
        clock=reactor,
        run_in_thread=run_in_thread,
        cap_bytes=config.jobs.journal_cap_bytes,
        segment_bytes=min(_JOURNAL_SEGMENT_BYTES, config.jobs.journal_cap_bytes // 8),
        on_durable=acknowledge,
    )
    supervisor = Supervisor(
        table=table,
        store=store,
        journals=journals,
        tails=tails,
        platform=platform,
        workers=workers,
        clock=reactor,
        wall_clock=wall_clock,
        settings=settings,
        secrets=secrets,
        is_storing=is_storing,
    )
    progress = ProgressBoard(reactor, progressed)
    table.watch(progress.job_changed)
    outputs = Outputs(state / "outputs", run_in_thread=run_in_thread)
    intake = Intake(
        table=table,
        journals=journals,
        packages=packages,
        tails=tails,
        clock=reactor,
        tell=supervisor.tell,
        named=supervisor.placing.named,
        nudge=supervisor.nudge,
        acknowledge=acknowledge,
        pull=OutputPull(
            outputs=outputs,
            source=fetch_output,
            clock=reactor,
            run_in_thread=run_in_thread,
            agent_grace_s=config.agent_grace_s,
            max_bytes=config.jobs.outputs_max_bytes,
            no_room=disk.fault,
            make_room=make_room_for_outputs,
        ),
        progress=progress.feed,
    )
    link = AgentLinkFactory(authenticator.authenticate_header, intake, reactor)
    watcher = Watcher(
        table=table,
        journals=journals,
        platform=platform,
        workers=workers,
        clock=reactor,
        settings=settings,
        tell=supervisor.tell,
        named=supervisor.placing.named,
    )
    history = History(
        table=table,
        store=store,
        journals=journals,
        packages=packages,
        outputs=outputs,
        clock=reactor,
        wall_clock=wall_clock,
        settings=settings,
    )
    relay = Relay(
        table=table,
        journals=journals,
        packages=packages,
        outputs=outputs,
        supervisor=supervisor,
        parts=health,
        clock=reactor,
        wall_clock=wall_clock,
        limits=SubmitLimits(
            max_queued=config.jobs.max_queued,
            max_queued_per_owner=config.jobs.max_queued_per_owner,
            spec=SpecLimits(
                max_duration_s=config.jobs.max_duration_s,
                package_max_bytes=config.jobs.package_max_bytes,
                default_queue_timeout_s=config.jobs.default_queue_timeout_s,
            ),
        ),
        platform_name=platform.name,
        forget=history.delete,
        refused=refused,
        no_room=no_room,
        disagreements=lambda: watcher.agreement.shown,
        image_python=pool.image_python,
        progress=progress.of,
    )
    procedures = Procedures(relay, session)
    procedures.register()
    table.watch(lambda before, after: procedures.job_changed(after))
    metrics = Metrics(snapshot)
    site = make_site(
        relay=relay,
        authenticator=authenticator,
        metrics=metrics,
        ws=router.websocket_resource(),
        agent=link.resource(),
        enroll=pool.enroll,
        clock=reactor,
    )
    parts = Parts(
        store=store,
        disk=disk,
        records=records,
        table=table,
        journals=journals,
        router=router,
        workers=workers,
        pool=pool,
        supervisor=supervisor,
        intake=intake,
        link=link,
        watcher=watcher,
        history=history,
        progress=progress,
        relay=relay,
        metrics=metrics,
        site=site,
    )
    return parts


class Cumulusd(Service):
    """Starts the parts in order, stops them in the opposite one, each step bounded."""

    name = "cumulusd"
    _log = Logger()

    def __init__(self, config: Config, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        self._parts: Parts | None = None
        self._ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:
        """Loads what is on disk, assembles, and listens; ends the process when it can't."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._parts = parts = assemble(self._config, self._reactor)
        inside = parts.pool.inside()
        if inside is not None:
            self._listen(inside[0], parts.site, inside[1])
        for description in self._config.listen:
            endpoint = serverFromString(self._reactor, description)  # type: ignore[no-untyped-call]
            self._listen(endpoint, parts.site, description)

    def startService(self) -> None:
        """Takes up the jobs that were found and begins to work."""
        super().startService()  # type: ignore[no-untyped-call]
        parts = self._parts
        assert parts is not None
        parts.store.start()
        parts.supervisor.resume(parts.records)
        live = [record for record in parts.records if record.phase is not Phase.ENDED]
        for record in live:
            parts.intake.resume(record)
        parts.table.watch(self._count)
        parts.supervisor.placing.start()
        parts.watcher.start()
        parts.history.start()
        parts.pool.start(parts.supervisor.placing.refresh)
        self._log.info(
            "cumulusd {version} is up: {platform} platform, listening on {listen},"
            " {live} job(s) taken up again",
            version=__version__,
            platform=parts.pool.platform.name,
            listen=", ".join(self._config.listen),
            live=len(live),
        )

    def stopService(self) -> Deferred[None]:
        """New work is refused, then parts end one after the other; fires when all have."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._parts is None:
            return
        parts = self._parts
        parts.relay.close()
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("listening", self._stop_listening),
            ("web", parts.site.stop),
            ("router", lambda: parts.router.stop(_STOP_STEP_S - 1.0)),
            ("workers' agents", parts.pool.stop),
            ("agents' link", parts.link.stop),
            ("watcher", parts.watcher.stop),
            ("history", parts.history.stop),
            ("progress", parts.progress.stop),
            ("supervisor", parts.supervisor.stop),
            ("intake", parts.intake.stop),
            ("workers", parts.workers.stop),
            ("platform", parts.pool.platform.close),
            ("journals", parts.journals.stop),
            ("store", parts.store.stop),
        ]
        for name, step in steps:
            started_at = self._reactor.seconds()
            try:
                await wait_at_most(
                    self._reactor, _STOP_STEP_S, Deferred.fromCoroutine(_await(step))
                )
            except Exception:
                # One part's failure must not keep the others from ending in order.
                self._log.failure("stopping the {part} failed", part=name)
            if self._reactor.seconds() - started_at >= _STOP_STEP_S:
                self._log.error("stopping the {part} took too long, going on", part=name)
        self._log.info(
            "cumulusd has stopped; running jobs go on and are taken up at the next start"
        )

    # -- inside

    def _count(self, before: JobRecord | None, after: JobRecord) -> None:
        """Tells the metrics of a job that came or ended."""
        assert self._parts is not None
        metrics = self._parts.metrics
        if before is None:
            metrics.job_submitted()
        elif before.end is None and after.end is not None:
            run_s = None
            if after.started_at is not None and after.ended_at is not None:
                run_s = max(0.0, after.ended_at - after.started_at)
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

    def _run_in_thread(self, function: Callable[[], _T]) -> Awaitable[_T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function)


async def _await(step: Callable[[], Any]) -> None:
    result = step()
    if result is not None:
        await result
