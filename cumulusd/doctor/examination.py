"""All that `cumulusd doctor` looks at, in the order in which it is told. One that fails keeps no
other from its turn, and each is bounded."""

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread

from cumulusd.config import Config, warnings
from cumulusd.config_platform import SwarmPlatform
from cumulusd.doctor import advertised, listeners, local_platform, machine, manager, ports, workers
from cumulusd.doctor import running as daemon
from cumulusd.doctor.finding import Finding, fault, of_error, ok, warning
from cumulusd.doctor.running import Running
from cumulusd.doctor.swarm_look import Look, look
from cumulusd.errors import CumulusError
from cumulusd.swarm.answers import NodeInfo
from cumulusd.swarm.endpoint import TlsFiles, parse_endpoint
from cumulusd.swarm.engine import Engine
from cumulusd.tasks import wait_at_most

#: One check, whatever it asks. Each of its own waits is shorter.
CHECK_TIMEOUT_S = 60.0
ENGINE_TIMEOUT_S = 10.0

Told = Callable[[Finding], None]


async def examine(config: Config, reactor: Any, told: Told, *, probe: bool = False) -> None:
    """Looks at everything; `told` hears of each finding at once. `config` is sound. `probe`: tries
    the job image on each worker. Raises nothing of a check's."""
    await _Examination(config, reactor, told, probe).run()


class _Examination:
    def __init__(self, config: Config, reactor: Any, told: Told, probe: bool) -> None:
        self._config = config
        self._probe = probe
        self._reactor = reactor
        self._told = told

    async def run(self) -> None:
        config = self._config
        self._tell([ok("configuration", f"it is sound; the platform is {config.platform.type}")])
        self._tell(
            warning("configuration", each, "docs/operations.md, TLS") for each in warnings(config)
        )
        running = await self._asked("daemon", lambda: daemon.ask(config))
        running = running or Running(is_there=None)
        now = time.time()
        hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        blocking: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
            ("daemon", lambda: daemon.examine(config, running)),
            ("listener", lambda: listeners.examine(config, running.is_there)),
            ("state_dir", lambda: machine.state_folder(config)),
            ("disk", lambda: machine.disk(config)),
            (
                "open files",
                lambda: machine.open_files(config, running.open_files_limit, hard_limit),
            ),
            ("tokens", lambda: machine.tokens(config, running.tokens, now)),
            ("certificate", lambda: machine.certificates(config, now)),
        ]
        for subject, check in blocking:
            await self._checked(subject, check)
        if config.s3 is not None:
            await self._bucket()
        swarm = config.platform.swarm
        if config.platform.type == "swarm" and swarm is not None:
            await self._swarm(swarm, running)
        else:
            local = config.platform.local
            await self._checked("python", lambda: local_platform.examine(local))
            await self._checked("workers", lambda: daemon.pool(running.workers))

    # -- inside

    async def _swarm(self, swarm: SwarmPlatform, running: Running) -> None:
        config = self._config
        seen = await self._look(swarm)
        await self._checked("engine", lambda: manager.examine(seen))
        await self._checked(
            "advertise_url", lambda: advertised.examine(config, swarm, running.is_there)
        )
        await self._checked("ports", lambda: ports.swarm_ports(seen))
        await self._checked("firewall", lambda: ports.firewall(seen))
        instance = None if running.status is None else str(running.status["instance_id"])
        wanted = workers.Wanted(
            job_image=str(config.jobs.image),
            advertise_url=swarm.advertise_url,
            instance_id=instance,
            agents=workers.agents_of(running.workers),
            image_is_tried=self._probe,
        )
        await self._checked("workers", lambda: daemon.pool(running.workers))
        await self._checked("workers", lambda: workers.examine(seen, wanted))
        if self._probe:
            able = [
                node
                for node in workers.enrolled_nodes(seen, instance)
                if node.state == "ready" and node.availability == "active"
            ]
            await self._probed(swarm, able)

    async def _probed(self, swarm: SwarmPlatform, nodes: Sequence[NodeInfo]) -> None:
        from cumulusd.doctor import probe

        engine: Engine | None = None
        try:
            engine = self._engine(swarm)
            image = str(self._config.jobs.image)
            self._tell(await probe.probe(engine, nodes, image, self._reactor))
        except CancelledError:
            raise
        except Exception as error:
            self._tell([_failed("image", error)])
        finally:
            if engine is not None:
                await engine.close()

    def _engine(self, swarm: SwarmPlatform) -> Engine:
        """Raises InvalidArgument when a TLS file can't be used."""
        tls = None
        if swarm.tls is not None:
            tls = TlsFiles(
                ca_cert=swarm.tls.ca_cert,
                client_cert=swarm.tls.client_cert,
                client_key=swarm.tls.client_key,
            )
        return Engine(
            self._reactor, parse_endpoint(swarm.endpoint, tls), deadline_s=ENGINE_TIMEOUT_S
        )

    async def _look(self, swarm: SwarmPlatform) -> Look:
        try:
            engine = self._engine(swarm)
        except CumulusError as error:  # a TLS file
            return Look(name=swarm.endpoint, errors=[error])
        try:
            images = [str(self._config.jobs.image), swarm.agent_image]
            return await look(engine, images, time.time)
        finally:
            await engine.close()

    async def _bucket(self) -> None:
        # Only here: who has no S3 goes without its libraries.
        from cumulusd.doctor import bucket

        section = self._config.s3
        assert section is not None
        asking = Deferred.fromCoroutine(bucket.examine(section, self._reactor))
        try:
            found = await wait_at_most(self._reactor, CHECK_TIMEOUT_S, asking)
        except CancelledError:
            raise
        except Exception as error:
            found = _failed("s3", error)
        self._tell([found or _late("s3")])

    async def _checked(self, subject: str, check: Callable[[], Iterable[Finding]]) -> None:
        """Runs it in a thread; it is told of, whatever comes of it."""
        found = await self._asked(subject, lambda: list(check()))
        if found is not None:
            self._tell(found)

    async def _asked(self, subject: str, ask: Callable[[], Any]) -> Any:
        """What it gives; None when it failed or took too long, which is told."""
        asking: Deferred[Any] = deferToThread(lambda: (ask(),))
        try:
            answer = await wait_at_most(self._reactor, CHECK_TIMEOUT_S, asking)
        except CancelledError:
            raise
        except Exception as error:
            self._tell([_failed(subject, error)])
            return None
        if answer is None:
            self._tell([_late(subject)])
            return None
        return answer[0]

    def _tell(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self._told(finding)


def _failed(subject: str, error: Exception) -> Finding:
    if isinstance(error, CumulusError):
        return of_error(subject, error)
    said = f"this check itself failed: {type(error).__name__}: {error}"
    return fault(subject, said, "it is a fault of Cumulus's: report it; the other checks count")


def _late(subject: str) -> Finding:
    return fault(
        subject,
        f"this check gave no answer within {CHECK_TIMEOUT_S:g} s",
        "is a disk, a network or a name server stuck?",
    )
