"""The environments that jobs keep on a worker: measured, and bounded by what was used last.

What lies in an owner's folder is written by that owner's jobs (`cumulus_wire.environments` has the
names): nothing here follows a link, and a lock is what tells that somebody uses something.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import attrs

from cumulus_wire.environments import LOCK_SUFFIX, MARKER, STALE_PREFIX, UV_CACHE, key_of_rough

MAX_OWNERS = 100_000
MAX_NAMES = 10_000
#: Deeper, or more files in one environment, and it counts as larger than any bound.
MAX_DEPTH = 100
MAX_FILES = 2_000_000
TOO_LARGE_BYTES = 1 << 60
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Rank(IntEnum):
    """What goes before what."""

    BUSY = 0  #: doesn't go: it is being built
    REST = 1  #: what nobody needs: goes whether there is room or not
    OTHER = 2  #: easily made again, or nothing of ours
    UV_CACHE = 3  #: only builds need it
    WHOLE = 4


@attrs.frozen(kw_only=True)
class Found:
    """One thing in an owner's folder. Files with several names count for each of them in part."""

    owner: str  #: the folder's name
    name: str
    rank: Rank
    used_at: float  #: unix seconds; never in the future
    size_bytes: int


@attrs.frozen(kw_only=True)
class CacheBounds:
    """What environments may take, on one worker."""

    max_bytes: int
    owner_max_bytes: int


def next_to_go(
    found: Sequence[Found], bounds: CacheBounds, wanted_bytes: int, kept: set[tuple[str, str]]
) -> Found | None:
    """What is to be taken away next; None: nothing. Pure.

    `wanted_bytes`: room that the disk lacks. `kept`: (owner, name) of what can't be taken away.
    """
    able = sorted(
        (one for one in found if one.rank is not Rank.BUSY and (one.owner, one.name) not in kept),
        key=lambda one: (one.rank, one.used_at, one.owner, one.name),
    )
    if able and able[0].rank is Rank.REST:
        return able[0]
    totals: dict[str, int] = {}
    for one in found:
        totals[one.owner] = totals.get(one.owner, 0) + one.size_bytes
    for one in able:
        if totals[one.owner] > bounds.owner_max_bytes:
            return one
    if able and (wanted_bytes > 0 or sum(totals.values()) > bounds.max_bytes):
        return able[0]
    return None


class EnvironmentCaches:
    """`owners/<owner>/env/` under the agent's folder."""

    def __init__(self, owners: Path, trash: int, wall_clock: Callable[[], float]) -> None:
        """`trash`: the open folder into which goes what is taken away."""
        self._owners = owners
        self._trash = trash
        self._wall_clock = wall_clock

    def state(self) -> tuple[object, ...]:
        """Changes when something is built or used. Blocking, for a thread. Raises OSError."""
        seen = []
        for owner in self._names():
            with self._open(owner) as folder:
                for name in _entries(folder):
                    mark = _stat(folder, f"{name}/{MARKER}") or _stat(folder, name)
                    if mark is not None:
                        seen.append((owner, name, mark.st_ino, mark.st_mtime_ns))
        return tuple(sorted(seen))

    def bound(self, bounds: CacheBounds, wanted_bytes: int) -> list[Found]:
        """Moves into the trash what is over the bounds, what `wanted_bytes` of room need, and what
        dead builders left; that. What is in use stays. Blocking, for a thread. Raises OSError.

        What shared files with something that went is larger than it looked, once the trash is
        emptied: call it again then."""
        found = [one for owner in self._names() for one in self._look(owner)]
        kept: set[tuple[str, str]] = set()
        gone: list[Found] = []
        while (victim := next_to_go(found, bounds, wanted_bytes, kept)) is not None:
            if self._take_away(victim):
                gone.append(victim)
                found.remove(victim)
                wanted_bytes -= victim.size_bytes
            else:
                kept.add((victim.owner, victim.name))
        return gone

    # -- inside

    def _names(self) -> list[str]:
        with os.scandir(self._owners) as entries:
            names = [entry.name for entry, _ in zip(entries, range(MAX_OWNERS), strict=False)]
        # One that comes just now may have none yet.
        return sorted(name for name in names if (self._owners / name / "env").is_dir())

    @contextmanager
    def _open(self, owner: str) -> Iterator[int]:
        """The owner's folder of environments; its own folder is the agent's and is no link."""
        folder = os.open(self._owners / owner / "env", _DIRECTORY)
        try:
            yield folder
        finally:
            os.close(folder)

    def _look(self, owner: str) -> list[Found]:
        with self._open(owner) as folder:
            names = _entries(folder)
            return [
                one
                for name in names
                if (one := self._look_at(owner, folder, name, names)) is not None
            ]

    def _look_at(self, owner: str, folder: int, name: str, names: set[str]) -> Found | None:
        """None: it is gone, or a lock that belongs to something."""
        found = _stat(folder, name)
        if found is None:
            return None
        used_at = found.st_mtime
        key = key_of_rough(name)
        if name.endswith(LOCK_SUFFIX) and stat.S_ISREG(found.st_mode):
            rank = Rank.REST
            if name.removesuffix(LOCK_SUFFIX) in names or not _lock_free(folder, name):
                return None
        elif key is not None:
            dead = _lock_free(folder, key + LOCK_SUFFIX)
            rank = Rank.REST if dead else Rank.BUSY
        elif name.startswith(STALE_PREFIX):
            rank = Rank.REST
        elif name == UV_CACHE:
            rank = Rank.UV_CACHE
        else:
            marker = _stat(folder, f"{name}/{MARKER}")
            rank = Rank.OTHER if marker is None else Rank.WHOLE
            used_at = used_at if marker is None else marker.st_mtime
        return Found(
            owner=owner,
            name=name,
            rank=rank,
            used_at=min(used_at, self._wall_clock()),
            size_bytes=_size_bytes(folder, name),
        )

    def _take_away(self, victim: Found) -> bool:
        """False: it is in use, or its owner's jobs won't have it taken away."""
        with self._open(victim.owner) as folder:
            try:
                locked = _lock(folder, victim.name)
                if locked is None:
                    return False
                try:
                    # Renamed under the lock: who finds the lock free looks where the path leads.
                    place = f"{victim.owner}~{os.urandom(6).hex()}"
                    os.rename(victim.name, place, src_dir_fd=folder, dst_dir_fd=self._trash)
                finally:
                    os.close(locked)
            except FileNotFoundError:
                return True
            except OSError:
                return False  # rights that it took from us: another look may find it otherwise
        return True


def _entries(folder: int) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry, _ in zip(entries, range(MAX_NAMES), strict=False)}


def _stat(folder: int, name: str) -> os.stat_result | None:
    """None: it isn't there, or the way to it is none."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None


def _lock(folder: int, name: str) -> int | None:
    """A descriptor with the exclusive lock on it; None: somebody has one. Raises OSError."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode):
        handle = os.open(name, _FILE, dir_fd=folder)
    else:
        # Nobody locks a link or a pipe.
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _lock_free(folder: int, name: str) -> bool:
    """Nobody holds that lock: its file is free, or isn't there."""
    try:
        handle = _lock(folder, name)
    except OSError:
        return True
    if handle is None:
        return False
    os.close(handle)
    return True


def _size_bytes(folder: int, name: str) -> int:
    """What it takes on the disk; `TOO_LARGE_BYTES` when it can't be told."""
    found = _stat(folder, name)
    if found is None:
        return 0
    total = _share(found)
    if stat.S_ISDIR(found.st_mode):
        try:
            total += _below(folder, name, MAX_DEPTH, [MAX_FILES])
        except (OSError, _TooLarge):
            return TOO_LARGE_BYTES
    return total


def _below(parent: int, name: str, depth: int, left: list[int]) -> int:
    """Of all in a folder. Raises OSError, _TooLarge."""
    total = 0
    try:
        folder = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return 0
    try:
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                left[0] -= 1
                if left[0] < 0 or depth == 0:
                    raise _TooLarge
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                total += _share(found)
                if stat.S_ISDIR(found.st_mode):
                    folders.append(entry.name)
        for inside in folders:
            total += _below(folder, inside, depth - 1, left)
    finally:
        os.close(folder)
    return total


def _share(found: os.stat_result) -> int:
    """uv links the files of its cache into environments: each name has a part of them."""
    links = 1 if stat.S_ISDIR(found.st_mode) else max(1, found.st_nlink)
    return found.st_blocks * 512 // links


class _TooLarge(Exception):
    """There is more than anybody wants to count."""
