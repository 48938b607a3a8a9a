"""The configuration's section `jobs`: what jobs may ask for, and what is kept of them."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cumulusd.config_platform import Section, absolute

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Jobs(Section):
    """Bounds and defaults of jobs."""

    #: The image of job containers; the local platform has none.
    image: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    #: How long ended jobs, their journals and results are kept.
    history_hours: Annotated[float, Field(ge=24, le=8760)] = 24.0
    #: Disk for the journals of ended jobs: beyond it output goes before its time, then results,
    #: those of the oldest ends first; status and durations stay.
    history_max_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 50)] = 20 << 30
    #: Most ended jobs that are kept: beyond it the oldest ends go before their time.
    history_max_jobs: Annotated[int, Field(ge=1_000, le=10_000_000)] = 100_000
    #: Most jobs waiting, of all owners and of one.
    max_queued: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_queued_per_owner: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    #: Longest `duration_s` a job may ask for.
    max_duration_s: Annotated[float, Field(ge=1, le=31_622_400)] = 604_800.0
    #: For jobs that don't say: 0 fails rather than waits, None waits for ever.
    default_queue_timeout_s: Annotated[float, Field(ge=0, le=31_622_400)] | None = None
    #: Disk kept per job's journal at the daemon; the middle is dropped beyond it.
    journal_cap_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 1 << 30
    #: No job is accepted while less than this is free on the disk of `state_dir`, or prepared on a
    #: worker whose disk has less.
    min_free_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 256 << 20
    #: Disk on each worker for the environments of jobs with requirements: of all owners, of one.
    requirements_cache_max_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 50 << 30
    requirements_cache_owner_max_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 20 << 30
    #: Largest code package, as a zip.
    package_max_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 36)] = 2 << 30
    #: What one job may leave to be downloaded, and what the daemon keeps of all jobs' together:
    #: beyond it the oldest go before their time.
    outputs_max_bytes: Annotated[int, Field(ge=0, le=1 << 45)] = 2 << 30
    outputs_history_max_bytes: Annotated[int, Field(ge=0, le=1 << 50)] = 20 << 30
    #: Set in every job, under what the job's submitter sets.
    environment: Annotated[dict[str, str], Field(max_length=256)] = {}
    #: For installing requirements: a CA bundle, and the package index.
    ca_bundle: Annotated[Path, Field(strict=False)] | None = None
    index_url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)] | None = None

    @field_validator("environment")
    @classmethod
    def _names_of_variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if name.startswith("CUMULUS_"):
                raise ValueError(f"{name}: names that begin with CUMULUS_ are the daemon's own")
            if "\0" in text or len(text) > 65_536:
                raise ValueError(f"the value of {name} holds a NUL or is over 65536 characters")
        return value

    @field_validator("ca_bundle")
    @classmethod
    def _bundle_is_there(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        path = absolute(value, info)
        if not path.is_file():
            raise ValueError(f"no file at {path}")
        return path

    @model_validator(mode="after")
    def _one_journal_within_history(self) -> "Jobs":
        if self.history_max_bytes < self.journal_cap_bytes:
            raise ValueError(
                f"history_max_bytes ({self.history_max_bytes}) is under journal_cap_bytes "
                f"({self.journal_cap_bytes}): a job's output would be dropped at its end"
            )
        return self

    @model_validator(mode="after")
    def _outputs_of_one_within_all(self) -> "Jobs":
        if self.outputs_history_max_bytes < self.outputs_max_bytes:
            raise ValueError(
                f"outputs_history_max_bytes ({self.outputs_history_max_bytes}) is under "
                f"outputs_max_bytes ({self.outputs_max_bytes}): what one job leaves would be "
                "dropped at its end"
            )
        return self

    @model_validator(mode="after")
    def _one_cache_within_all(self) -> "Jobs":
        if (
            self.requirements_cache_owner_max_bytes > self.requirements_cache_max_bytes
            and "requirements_cache_owner_max_bytes" in self.model_fields_set
        ):
            raise ValueError(
                f"requirements_cache_owner_max_bytes ({self.requirements_cache_owner_max_bytes}) "
                f"is over requirements_cache_max_bytes ({self.requirements_cache_max_bytes})"
            )
        return self

    @property
    def cache_options(self) -> dict[str, Any]:
        """What agents are told of the environments, wherever they run."""
        return {
            "requirements_cache_max_bytes": self.requirements_cache_max_bytes,
            "requirements_cache_owner_max_bytes": self.requirements_cache_owner_max_bytes,
        }

    @model_validator(mode="after")
    def _one_owner_within_all(self) -> "Jobs":
        if (
            self.max_queued_per_owner > self.max_queued
            and "max_queued_per_owner" in self.model_fields_set
        ):
            raise ValueError(
                f"max_queued_per_owner ({self.max_queued_per_owner}) is over "
                f"max_queued ({self.max_queued})"
            )
        return self
