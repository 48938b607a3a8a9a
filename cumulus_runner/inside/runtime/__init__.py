"""What a job's code may ask of Cumulus: checkpoints, artifacts, pauses, progress.

Importing it needs the standard library only; a framework, or boto3, is imported when it is used.
Outside of a job it works on the current directory.
"""

from ._artifacts import LocalArtifactStore, S3ArtifactStore, get_artifact_store
from ._auto import AutoCheckpointManager, get_auto_checkpoint_manager
from ._checkpoints import Checkpointer, get_last_checkpoint_info
from ._control import CooperativePause, progress, should_pause
from ._distributed import (
    DistributedCheckpointer,
    create_distributed_checkpointer,
    find_latest_checkpoint,
    get_checkpointer,
    get_distributed_checkpointer,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from ._interrupt import save_on_interrupt
from ._places import job_dir, output_dir
from ._s3 import S3Error

__all__ = [
    "AutoCheckpointManager",
    "Checkpointer",
    "CooperativePause",
    "DistributedCheckpointer",
    "LocalArtifactStore",
    "S3ArtifactStore",
    "S3Error",
    "create_distributed_checkpointer",
    "find_latest_checkpoint",
    "get_artifact_store",
    "get_auto_checkpoint_manager",
    "get_checkpointer",
    "get_distributed_checkpointer",
    "get_last_checkpoint_info",
    "job_dir",
    "list_checkpoints",
    "load_checkpoint",
    "output_dir",
    "progress",
    "save_checkpoint",
    "save_on_interrupt",
    "should_pause",
]
