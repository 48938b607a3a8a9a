"""Where the contract is tried: some engine, and what is on it."""

from pathlib import Path
from typing import Any

import attrs

from cumulusd.jobs.model import Grant
from cumulusd.jobs.ports import Container, ContainerSpec
from cumulusd.swarm.endpoint import Endpoint
from cumulusd.swarm.engine import Engine
from cumulusd.swarm.platform import SwarmPlatform
from cumulusd.swarm.service_spec import JobSettings
from cumulusd.tasks import sleep

UNITS = 10_000
#: On the fake; real workers have theirs.
WORKER_ROOT = "/var/lib/cumulus"
FOLDER = f"{WORKER_ROOT}/jobs/contract"


@attrs.define(kw_only=True)
class Contracted:
    """One engine and its pool. `worker_id` has one device of 10,000 units, `cumulus_gpu0`;
    `folder` is there on it, below `worker_root`; `image` is one with a shell, by id."""

    reactor: Any
    endpoint: Endpoint
    worker_id: str
    image: str
    worker_root: str
    folder: str
    instance_id: str
    patience_s: float
    platforms: list[SwarmPlatform] = attrs.field(factory=list)
    engines: list[Engine] = attrs.field(factory=list)
    launched: list[tuple[SwarmPlatform, str, int]] = attrs.field(factory=list)

    def engine(self) -> Engine:
        engine = Engine(self.reactor, self.endpoint)
        self.engines.append(engine)
        return engine

    def platform(
        self, script: str, *, image: str | None = None, instance_id: str | None = None
    ) -> SwarmPlatform:
        """Its containers run that script of the shell instead of the runner."""
        settings = JobSettings(
            instance_id=instance_id or self.instance_id,
            worker_root=self.worker_root,
            command=("/bin/sh", "-c", script),
        )
        platform = SwarmPlatform(
            engine=self.engine(), clock=self.reactor, settings=settings, image=image or self.image
        )
        self.platforms.append(platform)
        return platform

    def spec(self, job_id: str, attempt: int = 1, **grant: Any) -> ContainerSpec:
        values: dict[str, Any] = {
            "partition_id": "p1",
            "device_id": "d0",
            "device_name": "a device",
            "device_index": 0,
            "units": 1000,
            "gpu_memory_bytes": 1 << 20,
            "tier": "advisory",
            "tier_note": "",
            "folder": self.folder,
            **grant,
        }
        return ContainerSpec(
            job_id=job_id,
            attempt=attempt,
            node_id=self.worker_id,
            grant=Grant(**values),
            cpu_cores=0.5,
            memory_bytes=64 << 20,
            stop_grace_s=0.0,
        )

    async def launch(self, platform: SwarmPlatform, spec: ContainerSpec) -> None:
        self.launched.append((platform, spec.job_id, spec.attempt))
        await platform.launch(spec)

    async def until(
        self, platform: SwarmPlatform, job_id: str, wanted: Any, what: str
    ) -> Container | None:
        """The container, as soon as `wanted(container)`."""
        ends_s = self.reactor.seconds() + self.patience_s
        while True:
            container = (await platform.containers()).get(job_id)
            if wanted(container):
                return container
            assert self.reactor.seconds() < ends_s, f"not {what} in time: {container}"
            await sleep(self.reactor, 0.02)

    async def ended(self, platform: SwarmPlatform, job_id: str) -> Container:
        found = await self.until(
            platform, job_id, lambda one: one is not None and not one.alive, "ended"
        )
        assert found is not None
        return found

    async def close(self) -> None:
        """Nothing of the tests stays on the engine."""
        for platform, job_id, attempt in self.launched:
            await platform.stop(job_id, attempt)
        for platform, job_id, attempt in self.launched:
            await self.until(
                platform, job_id, lambda one: one is None or not one.alive, "ended by the test"
            )
            await platform.remove(job_id, attempt)
        for platform in self.platforms:
            await platform.close()
        for engine in self.engines:
            await engine.close()


def socket_endpoint(path: Path) -> Endpoint:
    return Endpoint(socket_path=str(path))
