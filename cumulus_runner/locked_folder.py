"""Folders and files held by a lock, in a place where somebody may take them away."""

from __future__ import annotations

import fcntl
import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def hold_folder(path: str) -> int | None:
    """The folder's descriptor, with a shared lock; None: it isn't there, or is being taken away."""
    try:
        folder = os.open(path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if is_at(folder, path):
            return folder
    except BlockingIOError:
        pass
    except BaseException:
        os.close(folder)
        raise
    os.close(folder)
    return None


def is_at(descriptor: int, path: str) -> bool:
    """The path leads to what is open there."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def hold_alone(descriptor: int) -> bool:
    """Takes the exclusive lock; False where somebody else has one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
