"""What this worker has to hold jobs to their shares, as its operator has installed it.

========================  ==========================================================================
`<root>/mps/pipe`         CUDA_MPS_PIPE_DIRECTORY of a running `nvidia-cuda-mps-control`
`<root>/mps/shm`          what is /dev/shm to that daemon (a tmpfs), and to its clients
`<root>/hami/libvgpu.so`  HAMi-core
========================  ==========================================================================
"""

import os
import stat
from pathlib import Path

from cumulus_wire.grant import Tier
from cumulusd.chronos.tiers import Offers


def look(root: Path, tiers: tuple[str, ...]) -> Offers:
    """What is there now. `tiers`: those that may be used."""
    pipes, shared = root / "mps" / "pipe", root / "mps" / "shm"
    library = root / "hami" / "libvgpu.so"
    # The control daemon makes the pipe `control` when it starts.
    serving = (pipes / "control").exists() and shared.is_dir()
    return Offers(
        tiers=frozenset(Tier(name) for name in tiers),
        mps_pipes=str(pipes) if serving else None,
        mps_shared_memory=str(shared) if serving else None,
        hami_library=str(library) if _is_library(library) else None,
    )


def _is_library(path: Path) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0
