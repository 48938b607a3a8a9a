"""The configuration's section `web`."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from cumulusd.config_platform import Section
from cumulusd.origins import parse_origin

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class Web(Section):
    """Which pages of browsers may use the daemon, beside its own."""

    #: Origins, such as https://dash.example.org.
    allowed_origins: Annotated[
        tuple[Annotated[str, Field(max_length=300)], ...], Field(strict=False, max_length=100)
    ] = ()
    #: Names under which a daemon without tokens answers, beside localhost.
    host_names: Annotated[
        tuple[Annotated[str, Field(max_length=253)], ...], Field(strict=False, max_length=100)
    ] = ()

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parse_origin(origin)
        return value

    @field_validator("host_names")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST.fullmatch(name):
                raise ValueError(f"{name!r} is no host name; write it without scheme and port")
        return value
