"""The configuration's section `chronos`: how jobs are held to their shares of a device."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cumulusd.config_platform import Section

TierName = Literal["mig", "mps", "hami", "opencl"]
#: What `auto` means, the strongest first.
AUTO_TIERS: tuple[TierName, ...] = ("mig", "mps", "hami", "opencl")


class ChronosSection(Section):
    """Partitions of devices. Tiers are for Swarm's workers: the local platform only books."""

    #: Who books beside the agent's ledger: `auto` takes libchronos where it is installed.
    backend: Literal["auto", "libchronos", "builtin"] = "auto"
    #: Its path, as the workers' agents see it; None: where the system's loader finds it.
    library: Annotated[str, Field(max_length=1024)] | None = None
    #: How often workers look at their drivers again, and how long one look may take.
    discovery_interval_s: Annotated[float, Field(ge=1, le=86400)] = 300.0
    discovery_timeout_s: Annotated[float, Field(ge=0.5, le=600)] = 30.0
    #: What may hold jobs to their shares where a worker offers it; `auto`: whatever there is. With
    #: an empty list shares are booked only.
    tiers: Literal["auto"] | Annotated[tuple[TierName, ...], Field(strict=False)] = "auto"

    @field_validator("tiers")
    @classmethod
    def _tiers_differ(cls, value: str | tuple[TierName, ...]) -> str | tuple[TierName, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a tier is there twice")
        return value

    #: Whether each job proves the OpenCL layer, also where one just like it did on its worker.
    prove_each_job: bool = False

    #: What of a device's memory no share has: for the driver, and for contexts, which are outside
    #: of any limit. Another value counts for each device when no job is on it.
    gpu_reserve_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.05
    cpu_reserve_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.0

    @field_validator("library")
    @classmethod
    def _library_is_a_path(cls, value: str | None) -> str | None:
        if value is not None and not PurePosixPath(value).is_absolute():
            raise ValueError(f"{value!r} is no absolute path")
        return value

    @model_validator(mode="after")
    def _library_is_for_somebody(self) -> "ChronosSection":
        if self.library is not None and self.backend == "builtin":
            raise ValueError("library goes with backend auto or libchronos")
        return self

    @property
    def agent_options(self) -> dict[str, Any]:
        """What agents are told of it, wherever they run."""
        return {
            "chronos_backend": self.backend,
            "chronos_library": self.library,
            "prove_each_job": self.prove_each_job,
            "discovery_interval_s": self.discovery_interval_s,
            "discovery_timeout_s": self.discovery_timeout_s,
            "gpu_reserve_fraction": self.gpu_reserve_fraction,
            "cpu_reserve_fraction": self.cpu_reserve_fraction,
        }

    @property
    def allowed_tiers(self) -> tuple[TierName, ...]:
        """By name."""
        return AUTO_TIERS if self.tiers == "auto" else self.tiers
