"""What each platform brings into the daemon. Of `assembly`, which alone puts this to use."""

import os
import secrets
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger

from cumulusd import job_network
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.service import AgentService
from cumulusd.config import Config
from cumulusd.config_jobs import Jobs
from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.jobs.ports import Platform, RunInThread
from cumulusd.local.environment import installer_environment, runner_environment
from cumulusd.local.platform import ISOLATION_NOTE, NODE_ID, LocalPlatform
from cumulusd.metrics import Metrics
from cumulusd.smoke_jobs import SmokeJobs
from cumulusd.web.provision import Provision

#: How much larger than its zip a package may be.
UNPACKED_FACTOR = 4

PoolChanged = Callable[[], Awaitable[None]]
#: Of the daemon's public key at that port, as curl pins it; None: it speaks no TLS.
Fingerprint = Callable[[int | None], str | None]


class ClosingPlatform(Platform, Protocol):
    """A platform that has something to free."""

    async def close(self) -> None:
        """Frees it; jobs go on."""


class PlatformParts(Protocol):
    """What of the daemon depends on the platform."""

    platform: ClosingPlatform

    def inside(self) -> tuple[IStreamServerEndpoint, str] | None:
        """Where to listen beside the configured addresses, and that in words."""

    def start(self, pool_changed: PoolChanged) -> None:
        """Begins; `pool_changed` is to be awaited when the platform's nodes have changed."""

    def stop(self) -> Awaitable[None]:
        """Ends what `start` began; the platform itself is closed later."""

    def health(self) -> Mapping[str, str]:
        """Part -> "ok" or what is wrong with it."""

    def image_python(self) -> str | None:
        """The version of Python in the job image; None: there is none, or it doesn't tell."""

    def provision(self, jobs: SmokeJobs, fingerprint: Fingerprint) -> Provision | None:
        """How machines join the pool; None: it has none to join."""


def installer_variables(jobs: Jobs) -> dict[str, str]:
    """What the configuration has for uv, wherever it runs: the index, and the jobs' proxies."""
    return {
        **job_network.proxies(jobs.environment),
        **job_network.index(jobs.environment, jobs.index_url),
    }


class LocalParts:
    """The local platform and its agent: the one of a GPU worker, inside, over the same wire.

    It dials a socket in the abstract namespace, which leaves no file and needs no TLS.
    """

    _log = Logger()

    def __init__(self, config: Config, reactor: Any, authenticator: Authenticator) -> None:
        local, jobs = config.platform.local, config.jobs
        hostname = local.hostname or socket.gethostname()
        self._reactor = reactor
        self._address = f"\0cumulusd-{secrets.token_hex(16)}"
        self.platform: ClosingPlatform = LocalPlatform(
            root=config.state_dir / "local",
            hostname=hostname,
            clock=reactor,
            runner_python=Path(sys.executable),
            environment=runner_environment(os.environ, jobs.ca_bundle),
        )
        token = secrets.token_urlsafe(32)
        who = Principal(name="agent-local", owner="cumulusd", role=Role.AGENT, node_id=NODE_ID)
        authenticator.add(hash_token(token), who)
        self._agent = AgentService(
            reactor=reactor,
            endpoint=UNIXClientEndpoint(reactor, self._address),  # type: ignore[no-untyped-call]
            token=token,
            node_id=NODE_ID,
            hostname=hostname,
            root=config.state_dir / "worker",
            options=AgentOptions(
                count_cpu_devices=local.count_cpu_devices,
                job_python=str(local.python or sys.executable),
                uv=uv_path(),
                installer_environment=installer_environment(
                    os.environ, jobs.ca_bundle, jobs.index_url
                ),
                package_max_bytes=jobs.package_max_bytes * UNPACKED_FACTOR,
                outputs_max_bytes=jobs.outputs_max_bytes,
                min_free_bytes=jobs.min_free_bytes,
                engine_metrics=None,
                **jobs.cache_options,
                **config.chronos.agent_options,
            ),
        )

    def inside(self) -> tuple[IStreamServerEndpoint, str] | None:
        """The socket that the agent dials."""
        endpoint: IStreamServerEndpoint = UNIXServerEndpoint(  # type: ignore[no-untyped-call]
            self._reactor, self._address
        )
        return endpoint, "the embedded agent's socket"

    def start(self, pool_changed: PoolChanged) -> None:
        """The agent takes up what is in its folder, and connects."""
        self._agent.startService()
        self._log.warn("{note}", note=ISOLATION_NOTE)

    def stop(self) -> Deferred[None]:
        """The agent's sockets are closed; jobs go on."""
        return self._agent.stopService()

    def health(self) -> Mapping[str, str]:
        """Nothing beside the platform itself."""
        return {}

    def image_python(self) -> str | None:
        """There is no image: the agent asks the jobs' own interpreter."""
        return None

    def provision(self, jobs: SmokeJobs, fingerprint: Fingerprint) -> Provision | None:
        """This machine is all there is."""
        return None


def uv_path() -> str | None:
    """The `uv` that was installed beside this interpreter, or the one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def platform_parts(
    config: Config,
    reactor: Any,
    authenticator: Authenticator,
    instance_id: str,
    run_in_thread: RunInThread,
    metrics: Metrics,
) -> PlatformParts:
    """What the configured platform brings."""
    if config.platform.type == "local":
        return LocalParts(config, reactor, authenticator)
    # Only here: a laptop without Docker goes without its libraries.
    from cumulusd.wiring_swarm import SwarmParts

    return SwarmParts(
        config, reactor, authenticator, instance_id, run_in_thread, metrics.engine_asked
    )
