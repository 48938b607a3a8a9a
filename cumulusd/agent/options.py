"""What the agent is told at its start."""

import sys
from collections.abc import Mapping
from pathlib import Path

import attrs

from cumulus_wire.engine_metrics import DEFAULT_ADDRESS
from cumulusd.chronos.devices import Selection
from cumulusd.chronos.libchronos import AUTO, BUILTIN, DEFAULT_LOCKS, LIBCHRONOS

CHRONOS_BACKENDS = (AUTO, LIBCHRONOS, BUILTIN)


@attrs.frozen(kw_only=True)
class AgentOptions:
    """Settings of one agent; every bound has its unit in its name."""

    count_cpu_devices: bool = False
    gpu_reserve_fraction: float = 0.05  #: of a GPU's memory, for driver and contexts
    cpu_reserve_fraction: float = 0.0  #: the same of CPU devices
    #: the interpreter of the jobs' code, for `job.json`; None: the runner's own
    job_python: str | None = None
    #: an interpreter with pyopencl, for the look at the drivers
    discovery_python: str = sys.executable
    uv: str | None = None  #: None: the runner looks on PATH
    #: for uv, under what the daemon says with each job
    installer_environment: Mapping[str, str] = attrs.field(factory=dict)
    #: a CA bundle that jobs in containers are to have; copied into the agent's folder
    ca_bundle: Path | None = None
    package_max_bytes: int = 512 << 20  #: unpacked
    package_max_files: int = 20_000
    outputs_max_bytes: int = 2 << 30  #: what one job may leave to be downloaded
    journal_max_bytes: int = 256 << 20  #: on the worker, not yet acknowledged
    segment_bytes: int = 8 << 20
    #: no job is prepared while less is free on the disk of the agent's folder
    min_free_bytes: int = 256 << 20
    #: the environments of jobs with requirements: of all owners, and of each
    requirements_cache_max_bytes: int = 50 << 30
    requirements_cache_owner_max_bytes: int = 20 << 30
    #: how often they are measured
    requirements_cache_interval_s: float = 60.0
    #: between TERM and KILL when a job is over its time: what ignores TERM is gone within 5 s
    stop_grace_s: float = 3.0
    discovery_timeout_s: float = 30.0
    discovery_interval_s: float = 300.0
    package_timeout_s: float = 240.0  #: for fetching one package, retries included
    release_wait_s: float = 10.0  #: for the journal to arrive at the daemon
    expiry_grace_s: float = 60.0  #: beyond set-up and run time, until a partition is draining
    #: beyond that, for a container that starts late, until its runner ends in any case
    start_margin_s: float = 120.0
    #: what may hold jobs to their shares where the worker offers it, see `cumulus_wire.grant`; for
    #: jobs in containers only, where the mounts are
    tiers: tuple[str, ...] = ()
    #: whether each job proves the OpenCL layer, also where one just like it has
    prove_each_job: bool = False
    #: whether libchronos books beside the ledger: one of `CHRONOS_BACKENDS`
    chronos_backend: str = AUTO
    chronos_library: str | None = None  #: its path; None: the one that is installed
    chronos_locks: str = DEFAULT_LOCKS  #: the folder of its lock files, which it has built in
    #: who owns the jobs' folders where containers run as another user; None: the agent itself
    job_uid: int | None = None
    job_gid: int | None = None
    #: host:port of the engine's own metrics (`metrics-addr`); None: there are none
    engine_metrics: str | None = DEFAULT_ADDRESS
    #: the daemon's name in HTTP's Host header
    host: str = "localhost"

    @property
    def selection(self) -> Selection:
        """Which devices count."""
        return Selection(
            count_cpu_devices=self.count_cpu_devices,
            gpu_reserve_fraction=self.gpu_reserve_fraction,
            cpu_reserve_fraction=self.cpu_reserve_fraction,
        )
