"""Every part of the daemon, made and told of those it stands on. Of `tap`."""

import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from cumulusd.admin.site import AdminSite
from cumulusd.admin.tokens import Tokens
from cumulusd.certificates import Certificates
from cumulusd.config import Config
from cumulusd.config_listen import open_to_others
from cumulusd.disk import Disk
from cumulusd.errors import CumulusError
from cumulusd.identity import DAEMON, Authenticator, Principal
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.history import History
from cumulusd.jobs.intake import Intake
from cumulusd.jobs.journals import Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import JobRecord
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
from cumulusd.login_secret import load_login_secret
from cumulusd.loop_lag import LoopLag
from cumulusd.metrics import Metrics
from cumulusd.metrics_snapshot import MetricsSnapshot
from cumulusd.open_files import OpenFiles
from cumulusd.origins import Origins
from cumulusd.parts import Parts
from cumulusd.protocol.admission import source_of
from cumulusd.protocol.auth import Secrets as LoginSecrets
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.procedures import Procedures
from cumulusd.protocol.router import Router
from cumulusd.relay import Relay
from cumulusd.reloading import Reloads
from cumulusd.smoke_jobs import SmokeJobs
from cumulusd.spec import SpecLimits
from cumulusd.steady_time import steady_wall_clock
from cumulusd.submissions import SubmitLimits
from cumulusd.tls import SCHEME, TlsUnusable, parse_listener
from cumulusd.web.agent_link import AgentLinkFactory
from cumulusd.web.site import make_site
from cumulusd.wiring import installer_variables, platform_parts
from cumulusd.wiring_s3 import S3Parts
from cumulusd.worker_news import WorkerNews
from cumulusd.workers.engine_metrics import WorkerMetrics
from cumulusd.workers.workers import AgentWorkers

_T = TypeVar("_T")
_JOURNAL_SEGMENT_BYTES = 8 << 20


def open_store(
    config: Config, reactor: Any, committed: Callable[[float], None]
) -> tuple[Store, list[JobRecord | EndedJob]]:
    """The job store and what it holds. `committed`: as of `Store`. Raises StoreUnusable; ends the
    process when the folder can't be used."""
    state = config.state_dir
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = Store(store_path(state), reactor.callFromThread, committed=committed)
        return store, store.load()
    except OSError as error:
        raise SystemExit(f"cumulusd: state_dir {state} can't be used: {error}") from error


def make_certificates(
    config: Config,
    reactor: Any,
    wall_clock: Callable[[], float],
    run_in_thread: RunInThread,
) -> Certificates:
    """Those of the listeners that speak TLS; ends the process when one can't be used any more."""
    try:
        return Certificates(
            [parse_listener(one, Path("/")) for one in config.listen if one.startswith(SCHEME)],
            clock=reactor,
            wall_clock=wall_clock,
            run_in_thread=run_in_thread,
        )
    except TlsUnusable as error:
        raise SystemExit(f"cumulusd: can't listen: {error}") from error


def assemble(config: Config, reactor: Any) -> Parts:
    """Makes every part and tells each of those it stands on. Nothing listens or runs yet."""
    state = config.state_dir
    wall_clock = steady_wall_clock()

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

    def status() -> dict[str, Any]:
        return parts.status()

    def own_series() -> dict[str, str | None]:
        return parts.own_series()

    async def take_tokens(config: Config) -> None:
        authenticator.configure(config.authenticator_tokens())

    def has_room(peer: str) -> bool:
        if open_files.has_room():
            return True
        router.connection_refused(
            source_of(peer),
            peer or "a unix socket",
            "open_files",
            f"{open_files.for_connections} of {open_files.limit} open files are in use, and the "
            "rest is for the daemon's own: give it more (LimitNOFILE, ulimit -n)",
        )
        return False

    def link_refused(host: str, peer: str, why: str) -> None:
        router.connection_refused(source_of(host), peer or "a unix socket", "agent_link", why)

    def no_room() -> CumulusError | None:
        return disk.refusal({"job store": store.healthy, "journals": journals.trouble})

    metrics = Metrics(snapshot)
    store, records = open_store(config, reactor, metrics.store_committed)
    settings = Settings(
        agent_grace_s=config.agent_grace_s,
        history_s=config.jobs.history_hours * 3600.0,
        history_max_bytes=config.jobs.history_max_bytes,
        history_max_jobs=config.jobs.history_max_jobs,
        outputs_history_max_bytes=config.jobs.outputs_history_max_bytes,
    )
    authenticator = Authenticator(config.authenticator_tokens())
    # Expiry is a date: by the clock as it is now, not by one that is followed at the next start.
    tokens = Tokens(
        state, authenticator, clock=reactor, wall_clock=time.time, run_in_thread=run_in_thread
    )
    tokens.load()
    open_door = open_to_others(config.listen) if authenticator.open else None
    if open_door is not None:  # the configuration was checked when there still were tokens
        raise SystemExit(f"cumulusd: {open_door}")
    open_files = OpenFiles(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    disk = Disk(state, config.jobs.min_free_bytes)
    table = JobTable()
    s3 = S3Parts(config.s3, reactor, store.instance_id(), table)
    packages = Packages(
        state / "packages",
        run_in_thread=run_in_thread,
        max_package_bytes=config.jobs.package_max_bytes,
    )
    origins = Origins(
        is_open=lambda: authenticator.open,
        allowed=config.web.allowed_origins,
        host_names=config.web.host_names,
    )
    router = Router(
        clock=reactor,
        authenticator=authenticator,
        limits=Limits(**config.router.model_dump()),
        owns_job=owns_job,
        allow_plain_tokens=config.allow_plain_tokens,
        secret=LoginSecrets(names=load_login_secret(state / "login_secret.json")),
        origins=origins,
        wall_clock=wall_clock,
    )
    session = router.local()
    secrets = SecretValues(state / "secrets", run_in_thread)
    workers = AgentWorkers(
        session.call,
        reactor,
        secrets=secrets.load,
        environment=config.jobs.environment,
        installer_environment=installer_variables(config.jobs),
        hidden_environment=s3.variables,
    )
    session.watch_registrations(workers.registration_changed)
    worker_metrics = WorkerMetrics(session.call, reactor, own_series)
    session.watch_registrations(worker_metrics.registration_changed)
    pool = platform_parts(
        config, reactor, authenticator, store.instance_id(), run_in_thread, metrics
    )
    platform = pool.platform
    tails = LogTails()
    journals = Journals(
        state / "journals",
        clock=reactor,
        run_in_thread=run_in_thread,
        cap_bytes=config.jobs.journal_cap_bytes,
        segment_bytes=min(_JOURNAL_SEGMENT_BYTES, config.jobs.journal_cap_bytes // 8),
        max_open_files=open_files.for_journals,
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
        counted=metrics.journal_received,
    )
    link = AgentLinkFactory(
        authenticator.authenticate_header,
        intake,
        reactor,
        allow_plain_tokens=config.allow_plain_tokens,
        refused=link_refused,
    )
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
        refused=metrics.submit_refused,
        no_room=no_room,
        disagreements=lambda: watcher.agreement.shown,
        image_python=pool.image_python,
        progress=progress.of,
        tails=tails,
        partitions=workers.partitions,
        sent=metrics.journal_sent,
    )
    procedures = Procedures(relay, session)
    procedures.register()
    news = WorkerNews(
        clock=reactor,
        views=lambda: relay.workers(DAEMON),
        publish=procedures.workers_changed,
        is_heard=procedures.hears_of_workers,
    )
    workers.watch(lambda node_id: news.changed())
    table.watch(lambda before, after: procedures.job_changed(after))
    supervisor.placing.tell_listeners(procedures.hears_of_job)
    table.watch_forgotten(procedures.job_forgotten)
    certificates = make_certificates(config, reactor, wall_clock, run_in_thread)
    site = make_site(
        relay=relay,
        authenticator=authenticator,
        metrics=metrics,
        worker_metrics=worker_metrics.text,
        ws=router.websocket_resource(),
        agent=link.resource(),
        provision=pool.provision(SmokeJobs(relay, table, supervisor), certificates.fingerprint),
        clock=reactor,
        allow_plain_tokens=config.allow_plain_tokens,
        origins=origins,
        has_room=has_room,
    )
    reloads = Reloads(config)
    reloads.add("certificates", lambda config: certificates.reload())
    reloads.add("tokens", take_tokens)
    authenticator.watch(tokens.cutting("session(s)", router.end_sessions))
    authenticator.watch(tokens.cutting("link(s)", link.end_links))
    authenticator.watch(tokens.cutting("HTTP request(s)", site.end_requests))
    parts = Parts(
        wall_clock=wall_clock,
        store=store,
        disk=disk,
        open_files=open_files,
        records=records,
        table=table,
        journals=journals,
        outputs=outputs,
        router=router,
        workers=workers,
        pool=pool,
        supervisor=supervisor,
        intake=intake,
        link=link,
        watcher=watcher,
        history=history,
        s3=s3,
        progress=progress,
        news=news,
        relay=relay,
        metrics=metrics,
        loop_lag=LoopLag(reactor, metrics.loop_lagged),
        worker_metrics=worker_metrics,
        site=site,
        certificates=certificates,
        reloads=reloads,
        tokens=tokens,
        admin=AdminSite(tokens, time.time, reactor, status),
    )
    return parts
