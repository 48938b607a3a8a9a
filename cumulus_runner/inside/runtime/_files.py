"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Begins the names of drafts; nothing else begins so.
DRAFT = ".draft-"
#: This process's own that are being written.
_open: set[str] = set()


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Gives a draft's path, of the same ending, to be written: on success it is made durable and
    takes the place of `path`; else nothing of it stays."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    draft = os.path.join(folder, f"{DRAFT}{os.getpid()}-{os.urandom(4).hex()}-{name}")
    _open.add(draft)
    try:
        yield draft
        _flush(draft, os.O_RDONLY)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    finally:
        _open.discard(draft)
    _flush(folder, os.O_RDONLY | os.O_DIRECTORY)


def remove_drafts(folder: str) -> None:
    """Of processes that are gone."""
    folder = os.path.abspath(folder)
    for name in os.listdir(folder):
        pid, path = name[len(DRAFT) :].partition("-")[0], os.path.join(folder, name)
        if not name.startswith(DRAFT) or not pid.isdecimal():
            continue
        # In a container the next attempt has the same numbers as the one before.
        own = int(pid) == os.getpid()
        if path not in _open if own else not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _flush(path: str, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
