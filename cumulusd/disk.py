"""Whether a disk has room: asked anew each time, which costs microseconds."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from cumulusd.errors import Unavailable

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that a disk is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return error is not None and is_full(error.__cause__)


class FileSystem(Protocol):
    """What is used of `os.statvfs_result`."""

    @property
    def f_bavail(self) -> int: ...
    @property
    def f_frsize(self) -> int: ...
    @property
    def f_files(self) -> int: ...
    @property
    def f_favail(self) -> int: ...


class Disk:
    """The disk that holds `folder`, of which `min_free_bytes` are to stay free."""

    def __init__(
        self,
        folder: Path,
        min_free_bytes: int,
        statvfs: Callable[[Path], FileSystem] = os.statvfs,
    ) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._statvfs = statvfs

    def fault(self, wanted_bytes: int = 0) -> str | None:
        """Why nothing new should be put there, `wanted_bytes` of it at least; None: it may be."""
        try:
            found = self._statvfs(self._folder)
        except OSError as error:
            return f"the disk that holds {self._folder} can't be asked for its room: {error}"
        free_bytes = found.f_bavail * found.f_frsize
        if found.f_files and not found.f_favail:
            return f"the disk that holds {self._folder} can't hold one more file (no free inodes)"
        if free_bytes - wanted_bytes >= self._min_free_bytes:
            return None
        wanted = f", {wanted_bytes} are wanted" if wanted_bytes else ""
        return (
            f"the disk that holds {self._folder} has {free_bytes} bytes free{wanted}, and "
            f"{self._min_free_bytes} are to stay free"
        )

    def free_bytes(self) -> int | None:
        """What may still be written; None when it can't be told."""
        try:
            found = self._statvfs(self._folder)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    def lacking_bytes(self) -> int:
        """How much must be freed until `fault` is none; 0 also when that can't be told."""
        free_bytes = self.free_bytes()
        return 0 if free_bytes is None else max(0, self._min_free_bytes - free_bytes)

    def refusal(self, troubles: Mapping[str, str | None]) -> Unavailable | None:
        """Why no new job can be taken; None: it can. `troubles`: part -> what it failed at when it
        wrote last, if it did."""
        why = self.fault()
        failing = [f"the {part} can't be written ({why})" for part, why in troubles.items() if why]
        if why is None and not failing:
            return None
        free_bytes = self.free_bytes()
        if why is None:
            free = "an unknown number of" if free_bytes is None else free_bytes
            why = (
                f"{' and '.join(failing)}; the disk that holds {self._folder} has {free} bytes free"
            )
        return Unavailable(
            f"No new jobs are accepted: {why}",
            details={
                "path": str(self._folder),
                "free_bytes": free_bytes,
                "min_free_bytes": self._min_free_bytes,
            },
            hint="Running jobs go on. Make room on that disk, and jobs are accepted again: no "
            "restart is needed.",
        )
