"""What jobs keep from one attempt to the next on a worker: `kept/<job id>/` beside their folders.

It is made by `prepare`, owned by the job's user, and lives as long as the job, not the attempt::

    checkpoints/    what the code goes on from after a pause, or in its next attempt
    artifacts/      what the code files under a name
    outputs/        what the job's owner is to get of it

What is in it is hostile: nothing here follows a link or looks at more than a bound.
"""

import os
from pathlib import Path

import attrs

from cumulus_wire.folder import ARTIFACTS, CHECKPOINTS, OUTPUTS
from cumulusd.agent.orders import valid_job_id

MAX_FOLDERS = 100_000
_HALF_MADE = ".new~"  #: begins the name of one that is being made; no job's id begins so
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen(kw_only=True)
class Kept:
    """What is in a job's kept folder."""

    checkpoints: bool  #: something in `checkpoints/`
    files: bool  #: something anywhere else


class KeptFolders:
    """`kept/` under the agent's folder; owns its descriptor. Job ids handed in are valid."""

    def __init__(self, root: Path, trash: int, uid: int, gid: int) -> None:
        """`trash`: the open folder into which discarded ones go; `uid`, `gid`: the jobs' user's, -1
        where that is the agent's own. Raises OSError."""
        self._trash = trash
        self._uid = uid
        self._gid = gid
        self._path = root / "kept"
        self._path.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._handle = os.open(self._path, _DIRECTORY)
        for name in os.listdir(self._handle):
            if name.startswith(_HALF_MADE):  # an agent died while making it
                self.discard(name)

    def close(self) -> None:
        """Frees the descriptor."""
        os.close(self._handle)

    def path(self, job_id: str) -> str:
        """Of that job's kept folder, on the worker and in its container."""
        return str(self._path / job_id)

    def present(self) -> list[str]:
        """Ids of the jobs that have one."""
        with os.scandir(self._handle) as entries:
            found = [entry.name for entry, _ in zip(entries, range(MAX_FOLDERS), strict=False)]
        return sorted(name for name in found if valid_job_id(name))

    def has(self, job_id: str) -> bool:
        """Whether that job has one."""
        return os.access(job_id, os.F_OK, dir_fd=self._handle, follow_symlinks=False)

    def provide(self, job_id: str) -> bool:
        """Makes it unless it is there; whole or not at all. True: it was made. Raises OSError."""
        if self.has(job_id):
            return False
        making = f"{_HALF_MADE}{os.urandom(6).hex()}"
        os.mkdir(making, 0o700, dir_fd=self._handle)
        folder = os.open(making, _DIRECTORY, dir_fd=self._handle)
        try:
            for name in (CHECKPOINTS, ARTIFACTS, OUTPUTS):
                os.mkdir(name, 0o700, dir_fd=folder)
                os.chown(name, self._uid, self._gid, dir_fd=folder, follow_symlinks=False)
            os.fchown(folder, self._uid, self._gid)
        finally:
            os.close(folder)
        os.rename(making, job_id, src_dir_fd=self._handle, dst_dir_fd=self._handle)
        return True

    def look(self, job_id: str) -> Kept | None:
        """What is in it; None: there is none, or nothing is in it. Raises OSError."""
        try:
            folder = os.open(job_id, _DIRECTORY, dir_fd=self._handle)
        except FileNotFoundError:
            return None
        try:
            kept = Kept(
                checkpoints=_holds_something(folder, CHECKPOINTS),
                files=_holds_something(folder, ARTIFACTS)
                or _holds_something(folder, OUTPUTS)
                or _has_others(folder),
            )
        finally:
            os.close(folder)
        return kept if kept.checkpoints or kept.files else None

    def open(self, job_id: str, name: str) -> int:
        """A folder in it, the caller closes it. Raises OSError."""
        kept = os.open(job_id, _DIRECTORY, dir_fd=self._handle)
        try:
            return os.open(name, _DIRECTORY, dir_fd=kept)
        finally:
            os.close(kept)

    def discard(self, job_id: str) -> None:
        """Takes it away at once; whoever empties the trash deletes it."""
        place = f"{job_id}~{os.urandom(6).hex()}"
        try:
            os.rename(job_id, place, src_dir_fd=self._handle, dst_dir_fd=self._trash)
        except FileNotFoundError:
            pass


def _holds_something(parent: int, name: str) -> bool:
    try:
        folder = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # the job put something else in its place
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    finally:
        os.close(folder)


def _has_others(folder: int) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name not in (CHECKPOINTS, ARTIFACTS, OUTPUTS) for entry in entries)
