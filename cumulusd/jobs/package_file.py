"""How a package's file comes to be there. All of it blocks."""

import hashlib
import os
from pathlib import Path

from cumulusd.jobs.segments import write_at
from cumulusd.jobs.upload_hashes import Progress


def size_bytes(path: Path) -> int | None:
    """None: there is no such file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def store(
    aside: Path, target: Path, sha256: str, size_bytes: int, progress: Progress
) -> str | None:
    """Makes the checked upload the package. Gives its real hash when that is another. `progress`:
    how far it is hashed. Raises OSError."""
    try:
        fd = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
        try:
            held = os.fstat(fd).st_size
            progress.hash_to(fd, held)
            found: str = progress.digest.hexdigest()
            if found != sha256 or held != size_bytes:
                return found
            os.fsync(fd)
        finally:
            os.close(fd)
        move(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return None


def store_whole(aside: Path, target: Path, sha256: str, data: bytes) -> str | None:
    """Makes `data` the package, by way of `aside`. Gives its real hash when that is another.
    Raises OSError."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        return found
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_at(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        move(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return None


def move(path: Path, target: Path) -> None:
    """Durably. Raises OSError."""
    os.replace(path, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
