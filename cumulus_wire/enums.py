"""`IntEnum` and `StrEnum` as `enum` has them; in a job's runner light ones: each start would wait
for the import of `enum` and of all that it needs."""

import cumulus_wire

TYPE_CHECKING = False
if TYPE_CHECKING or not cumulus_wire.is_light:
    from enum import IntEnum, StrEnum
else:
    from cumulus_wire.light_enums import IntEnum, StrEnum

__all__ = ["IntEnum", "StrEnum"]
