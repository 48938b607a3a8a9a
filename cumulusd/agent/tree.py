"""Deletes what a job left, however deep, odd or hostile. Blocking: for a thread."""

import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_PASSES = 5


def delete_tree(trash: int, name: str) -> None:
    """Deletes folder `name` of the folder open as `trash`. Nothing there: nothing done.

    Never follows a link; needs two descriptors and no stack, whatever the depth: folders inside
    are moved up into `trash` first. Raises OSError when something can't be deleted.
    """
    folders = [name]
    while folders:
        folder = folders.pop()
        if not _is_folder(trash, folder):
            _unlink(trash, folder)
            continue
        _allow(trash, folder)
        inside = os.open(folder, _DIRECTORY, dir_fd=trash)
        try:
            for _ in range(_MAX_PASSES):
                if not _empty(inside, trash, name, folders):
                    break
        finally:
            os.close(inside)
        os.rmdir(folder, dir_fd=trash)


def _empty(inside: int, trash: int, name: str, folders: list[str]) -> bool:
    """One pass over a folder; whether there was anything in it."""
    found = False
    with os.scandir(inside) as entries:
        for entry in entries:
            found = True
            if not entry.is_dir(follow_symlinks=False):
                _unlink(inside, entry.name)
                continue
            _allow(inside, entry.name)
            moved = f"{name}.{os.urandom(8).hex()}"
            os.rename(entry.name, moved, src_dir_fd=inside, dst_dir_fd=trash)
            folders.append(moved)
    return found


def _is_folder(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _unlink(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def _allow(parent: int, name: str) -> None:
    """Lets us into a folder whose owner took its own rights away."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
            # By the descriptor: a link put in its place meanwhile is not followed.
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
