"""What the local platform brings into the daemon. Of `wiring`."""

import os
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger

from cumulusd.agent.options import AgentOptions
from cumulusd.agent.service import AgentService
from cumulusd.config import Config
from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.local.environment import installer_environment, runner_environment
from cumulusd.local.platform import ISOLATION_NOTE, NODE_ID, LocalPlatform
from cumulusd.smoke_jobs import SmokeJobs
from cumulusd.web.provision import Provision
from cumulusd.wiring import UNPACKED_FACTOR, ClosingPlatform, Fingerprint, PoolChanged


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
