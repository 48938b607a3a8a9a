"""What the Swarm platform brings into the daemon. Of `assembly`, which alone puts this to use."""

from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger

from cumulus_wire.engine_metrics import DEFAULT_ADDRESS
from cumulusd.config import Config
from cumulusd.errors import CumulusError
from cumulusd.identity import Authenticator
from cumulusd.jobs.ports import RunInThread
from cumulusd.provision_scripts import http_url, made_out
from cumulusd.provisioning import Provisioning
from cumulusd.smoke_jobs import SmokeJobs
from cumulusd.swarm import agent_plan
from cumulusd.swarm.agent_services import AgentServices
from cumulusd.swarm.agent_spec import CA_BUNDLE_FILE, DAEMON_CA_FILE, AgentSettings
from cumulusd.swarm.agent_tokens import AgentTokens
from cumulusd.swarm.answers import Event
from cumulusd.swarm.endpoint import TlsFiles, parse_endpoint
from cumulusd.swarm.engine import Engine
from cumulusd.swarm.enrolment import Enrolment
from cumulusd.swarm.image_reference import ImageBy
from cumulusd.swarm.joining import Joining, JoinSettings
from cumulusd.swarm.platform import SwarmPlatform
from cumulusd.swarm.service_spec import JobSettings
from cumulusd.swarm.transport import Asked
from cumulusd.swarm.trial import Trial
from cumulusd.tasks import Merged, Tasks, sleep
from cumulusd.web.provision import Provision
from cumulusd.wiring import UNPACKED_FACTOR, ClosingPlatform, Fingerprint, PoolChanged

CHECK_INTERVAL_S = 2.0
#: How soon a revoked provisioning token's machine knows no valid join token of Swarm's any more.
SWEEP_INTERVAL_S = 15.0
#: Between two looks at the nodes for whom the Swarm tells of many that change.
TELL_PAUSE_S = 0.25
#: By what workers are told images, by the configuration's word for who has them.
IMAGES_BY = {"auto": ImageBy.AUTO, "registry": ImageBy.DIGEST, "orchestrator": ImageBy.ID}
#: Who the jobs' processes are in their containers; the job image has this user.
JOB_UID = JOB_GID = 1000


class SwarmParts:
    """The Swarm: its engine, the agents on its nodes, and how nodes join."""

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        authenticator: Authenticator,
        instance_id: str,
        run_in_thread: RunInThread,
        asked: Asked,
    ) -> None:
        """`asked` is told of each request to the engine. Raises CumulusError when a file of the
        configuration's can't be used."""
        swarm, jobs = config.platform.swarm, config.jobs
        assert swarm is not None and jobs.image is not None  # the configuration was checked
        self._tasks = Tasks()
        self._pool_changed: PoolChanged | None = None
        tls = None
        if swarm.tls is not None:
            tls = TlsFiles(
                ca_cert=swarm.tls.ca_cert,
                client_cert=swarm.tls.client_cert,
                client_key=swarm.tls.client_key,
            )
        self._engine = Engine(reactor, parse_endpoint(swarm.endpoint, tls), asked=asked)
        self._clock = reactor
        self._engine_error: str | None = "the engine has not answered yet"
        self._swarm = SwarmPlatform(
            engine=self._engine,
            settings=JobSettings(
                instance_id=instance_id,
                worker_root=swarm.worker_root,
                uid=JOB_UID,
                gid=JOB_GID,
            ),
            image=jobs.image,
            image_by=IMAGES_BY[config.provisioning.images_from],
            clock=reactor,
        )
        self.platform: ClosingPlatform = self._swarm
        tokens = AgentTokens(config.state_dir, authenticator)
        tokens.load()
        self._agents = AgentServices(
            engine=self._engine,
            settings=AgentSettings(
                instance_id=instance_id,
                image=swarm.agent_image,
                image_by=IMAGES_BY[config.provisioning.images_from],
                url=swarm.advertise_url,
                worker_root=swarm.worker_root,
                options={
                    "count_cpu_devices": swarm.count_cpu_devices,
                    "tiers": list(config.chronos.allowed_tiers),
                    **config.chronos.agent_options,
                    "package_max_bytes": jobs.package_max_bytes * UNPACKED_FACTOR,
                    "outputs_max_bytes": jobs.outputs_max_bytes,
                    "min_free_bytes": jobs.min_free_bytes,
                    **jobs.cache_options,
                    **engine_metrics_option(swarm.engine_metrics),
                    "job_uid": JOB_UID,
                    "job_gid": JOB_GID,
                },
                files=_files({CA_BUNDLE_FILE: jobs.ca_bundle, DAEMON_CA_FILE: swarm.advertise_ca}),
            ),
            tokens=tokens,
            names=swarm.enroll,
            clock=reactor,
            enrolled=self._tell,
        )
        self._provisioning = Provisioning(config.state_dir, time)
        self._join_settings = join_settings(config)
        self._instance_id = instance_id
        self._run_in_thread = run_in_thread
        self._enrolment: Enrolment | None = None
        self._telling = Merged(
            self._tell_now,
            "telling of changed nodes",
            tasks=self._tasks,
            clock=reactor,
            pause_s=TELL_PAUSE_S,
        )

    def provision(self, jobs: SmokeJobs, fingerprint: Fingerprint) -> Provision | None:
        """By tokens, and a script that they are given to."""
        joining = Joining(
            provisioning=self._provisioning,
            engine=self._engine,
            settings=self._join_settings,
            clock=self._clock,
            run_in_thread=self._run_in_thread,
        )
        self._enrolment = enrolment = Enrolment(
            provisioning=self._provisioning,
            agents=self._agents,
            engine=self._engine,
            jobs=jobs,
            clock=self._clock,
            run_in_thread=self._run_in_thread,
        )
        trial = Trial(
            instance_id=self._instance_id,
            provisioning=self._provisioning,
            agents=self._agents,
            engine=self._engine,
            jobs=jobs,
            run_in_thread=self._run_in_thread,
        )
        url = self._join_settings.advertise_url
        return SwarmProvision(joining, enrolment, trial, url, fingerprint, self._run_in_thread)

    def inside(self) -> tuple[IStreamServerEndpoint, str] | None:
        """Agents dial the configured addresses."""
        return None

    def image_python(self) -> str | None:
        """As the image on the manager says it."""
        return self._swarm.image_python

    def start(self, pool_changed: PoolChanged) -> None:
        """Begins to look after agents and to hear of nodes."""
        self._pool_changed = pool_changed
        self._tasks.start(self._check(), "asking the engine what it is")
        self._agents.start()
        hearing = self._engine.watch_events(
            ["node", "service", "secret"], connected=self._look, heard=self._heard
        )
        self._tasks.start(hearing, "hearing of the Swarm's nodes")
        if self._enrolment is not None:
            self._tasks.start(self._sweep(self._enrolment), "looking at provisioning tokens")

    async def stop(self) -> None:
        """Ends both; agents and jobs go on."""
        await self._agents.stop()
        await self._tasks.stop()

    def health(self) -> Mapping[str, str]:
        """Is the engine one that we can use, and are the agents looked after?"""
        return {"engine": self._engine_error or "ok", "agents": self._agents.error or "ok"}

    # -- inside

    async def _sweep(self, enrolment: Enrolment) -> None:
        """Tokens are revoked by a command, and expire: nothing else tells of it."""
        while True:
            await sleep(self._clock, SWEEP_INTERVAL_S)
            await enrolment.sweep()

    async def _check(self) -> None:
        """Asks until the engine has proved to be a manager that we understand. From then on what
        is wrong with it shows in the calls."""
        while True:
            try:
                await self._swarm.check()
                self._engine_error = None
                return
            except CumulusError as error:
                text = f"{error.message}; {error.hint}" if error.hint else error.message
                if text != self._engine_error:
                    self._log.error("the Swarm can't be used: {why}", why=text)
                self._engine_error = text
            await sleep(self._clock, CHECK_INTERVAL_S)

    def _heard(self, event: Event) -> None:
        if event.kind == "node":
            self._look()
        elif agent_plan.may_be_an_agents(event.name):
            # Jobs come and go as services too.
            self._agents.nudge()

    def _look(self) -> None:
        """Nodes may have changed: placing is to know, the agents are looked after, and those that
        have left are removed."""
        self._agents.nudge()
        if self._enrolment is not None:
            self._tasks.start(self._enrolment.sweep(), "removing nodes that have left")
        self._telling.ask()

    async def _tell_now(self) -> None:
        try:
            await self._tell()
        except CumulusError as error:
            # Placing asks by itself every few seconds, and shows what is wrong.
            self._log.debug("the nodes can't be asked just now: {why}", why=error.message)

    async def _tell(self) -> None:
        if self._pool_changed is not None:
            await self._pool_changed()


class SwarmProvision:
    """Implements `cumulusd.web.provision.Provision` by the use cases of this platform."""

    def __init__(
        self,
        joining: Joining,
        enrolment: Enrolment,
        trial: Trial,
        advertise_url: str,
        fingerprint: Fingerprint,
        run_in_thread: RunInThread,
    ) -> None:
        self.join = joining.join
        self.image = joining.image
        self.enroll = enrolment.enroll
        self.leave = enrolment.leave
        self.status = trial.status
        self._advertise_url = advertise_url
        self._fingerprint = fingerprint
        self._run_in_thread = run_in_thread

    async def script(self, name: str) -> bytes:
        """Made out to the address that workers dial. Raises NotFound."""
        url, pin = http_url(self._advertise_url), None
        if url.startswith("https:"):
            pin = self._fingerprint(urlsplit(url).port)
        return await self._run_in_thread(lambda: made_out(name, url, pin))


def join_settings(config: Config) -> JoinSettings:
    """What machines are told of the configuration."""
    swarm, said = config.platform.swarm, config.provisioning
    assert swarm is not None and config.jobs.image is not None  # the configuration was checked
    return JoinSettings(
        advertise_url=swarm.advertise_url,
        worker_root=swarm.worker_root,
        images=tuple(dict.fromkeys((config.jobs.image, swarm.agent_image))),
        image_by=IMAGES_BY[said.images_from],
        deny=said.deny,
        manager_addresses=said.manager_addresses,
        daemon_addresses=said.daemon_addresses,
        chronos_source=said.chronos_source,
        chronos_sha256=said.chronos_sha256,
        remote_api_port=said.remote_api_port,
        count_cpu_devices=swarm.count_cpu_devices,
    )


def engine_metrics_option(address: str | None) -> dict[str, str | None]:
    """For agents, only where it is not their default: those of earlier versions don't know it."""
    return {} if address == DEFAULT_ADDRESS else {"engine_metrics": address}


def _files(paths: Mapping[str, Path | None]) -> dict[str, bytes]:
    """What the agents are to have as files. Raises CumulusError."""
    files = {}
    for name, path in paths.items():
        if path is None:
            continue
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise CumulusError(f"{path} can't be read: {error.strerror}") from error
    return files
