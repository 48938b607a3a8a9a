"""The configuration's section `chronos`: how jobs are held to their shares of a device."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from cumulusd.config_platform import Section

TierName = Literal["mig", "mps", "hami", "opencl"]
#: What `auto` means, the strongest first.
AUTO_TIERS: tuple[TierName, ...] = ("mig", "mps", "hami")


class ChronosSection(Section):
    """Partitions of devices, on Swarm's workers: the local platform books shares only."""

    #: What may hold jobs to their shares where a worker offers it; `auto`: whatever there is. With
    #: an empty list shares are booked only.
    tiers: Literal["auto"] | Annotated[tuple[TierName, ...], Field(strict=False)] = "auto"

    @field_validator("tiers")
    @classmethod
    def _tiers_differ(cls, value: str | tuple[TierName, ...]) -> str | tuple[TierName, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a tier is there twice")
        return value

    @property
    def allowed_tiers(self) -> tuple[TierName, ...]:
        """By name."""
        return AUTO_TIERS if self.tiers == "auto" else self.tiers
