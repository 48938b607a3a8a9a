"""What each platform brings into the daemon. Of `assembly`, which alone puts this to use."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from twisted.internet.interfaces import IStreamServerEndpoint

from cumulusd import job_network
from cumulusd.config import Config
from cumulusd.config_jobs import Jobs
from cumulusd.identity import Authenticator
from cumulusd.jobs.ports import Platform, RunInThread
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


def platform_parts(
    config: Config,
    reactor: Any,
    authenticator: Authenticator,
    instance_id: str,
    run_in_thread: RunInThread,
    metrics: Metrics,
) -> PlatformParts:
    """What the configured platform brings."""
    # Each only where it is wanted: a laptop without Docker goes without its libraries, and a daemon
    # of a Swarm starts a quarter of a second sooner without the agent's.
    if config.platform.type == "local":
        from cumulusd.wiring_local import LocalParts

        return LocalParts(config, reactor, authenticator)
    from cumulusd.wiring_swarm import SwarmParts

    return SwarmParts(
        config, reactor, authenticator, instance_id, run_in_thread, metrics.engine_asked
    )
