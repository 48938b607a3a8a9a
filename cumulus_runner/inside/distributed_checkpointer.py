"""The old name of what is in `runtime`."""

from runtime import (
    DistributedCheckpointer,
    create_distributed_checkpointer,
    get_distributed_checkpointer,
)

__all__ = [
    "DistributedCheckpointer",
    "create_distributed_checkpointer",
    "get_distributed_checkpointer",
]
