"""The jobs' folders on a worker, as `cumulus_wire.folder` names them.

What a job can write to is hostile: nothing here follows a link, blocks on a pipe, or reads more
than a bound. A folder is held by a descriptor, so that its path may be of any length.
"""

import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cumulus_wire import folder as names
from cumulusd.agent.environments import EnvironmentCaches
from cumulusd.agent.grant_folder import GrantFolders
from cumulusd.agent.kept_folder import KeptFolders
from cumulusd.agent.orders import valid_job_id
from cumulusd.agent.tree import delete_tree
from cumulusd.errors import InternalError, NotFound

MAX_ORDERS_BYTES = 4 << 20
MAX_FOLDERS = 100_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Read a file of the job's: no link, no waiting for a pipe's other end.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class JobFolders:
    """`jobs/<id>/` and `owners/<owner>/env/` under the agent's folder; owns their descriptors.

    `grants`: what holds these jobs to their shares; `kept`: what they keep between attempts;
    `caches`: the environments, to be bounded."""

    def __init__(self, root: Path, uid: int | None = None, gid: int | None = None) -> None:
        self.root = root
        self._emptying = threading.Lock()
        self._uid = -1 if uid is None else uid
        self._gid = -1 if gid is None else gid
        try:
            self._jobs = _make(root / "jobs", 0o711)
            self._trash = _make(root / "trash", 0o700)
            _close(_make(root / "owners", 0o711))
            self.grants = GrantFolders(root, self._trash)
            self.kept = KeptFolders(root, self._trash, self._uid, self._gid)
            self.caches = EnvironmentCaches(root / "owners", self._trash, time.time)
        except OSError as error:
            raise InternalError(
                f"the agent's folder {root} can't be used: {error}",
                hint="give the agent a folder of its own that it may write to",
            ) from error

    def close(self) -> None:
        """Frees the descriptors."""
        _close(self._jobs)
        _close(self._trash)
        self.grants.close()
        self.kept.close()

    def path(self, job_id: str) -> str:
        """Of that job's folder."""
        return str(self.root / "jobs" / job_id)

    def present(self) -> list[str]:
        """Ids of the jobs that have a folder."""
        with os.scandir(self._jobs) as entries:
            found = [
                entry.name
                for entry, _ in zip(entries, range(MAX_FOLDERS), strict=False)
                if valid_job_id(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
        return sorted(found)

    def create(self, job_id: str) -> "JobFolder":
        """A new, empty folder. Raises FileExistsError."""
        if not valid_job_id(job_id):
            raise ValueError(f"{job_id!r} is no job id")
        os.mkdir(job_id, 0o700, dir_fd=self._jobs)
        os.chown(job_id, self._uid, self._gid, dir_fd=self._jobs, follow_symlinks=False)
        return self.open(job_id)

    def open(self, job_id: str) -> "JobFolder":
        """The folder there is. Raises NotFound."""
        if not valid_job_id(job_id):
            raise ValueError(f"{job_id!r} is no job id")
        try:
            handle = os.open(job_id, _DIRECTORY, dir_fd=self._jobs)
        except FileNotFoundError:
            raise NotFound(f"job {job_id} has no folder on this worker", job_id=job_id) from None
        return JobFolder(job_id, Path(self.path(job_id)), handle, self._uid, self._gid)

    def discard(self, job_id: str) -> None:
        """Takes the folder away at once; `empty_trash` deletes it."""
        place = f"{job_id}~{os.urandom(6).hex()}"
        try:
            os.rename(job_id, place, src_dir_fd=self._jobs, dst_dir_fd=self._trash)
        except FileNotFoundError:
            pass
        self.grants.discard(job_id)

    def discard_lost_grants(self) -> None:
        """Takes away grants of no job: an agent died while clearing."""
        present = self.present()
        for job_id in self.grants.present():
            if job_id not in present:
                self.grants.discard(job_id)

    def empty_trash(self) -> None:
        """Deletes what was discarded. Blocking, for a thread. Raises InternalError."""
        with self._emptying:
            self._empty_trash()

    def _empty_trash(self) -> None:
        for name in os.listdir(self._trash):
            try:
                delete_tree(self._trash, name)
            except OSError as error:
                raise InternalError(
                    f"{self.root / 'trash' / name} can't be deleted: {error}",
                    hint="see who else writes there, then delete it by hand",
                ) from error

    def environments(self, owner: str) -> Path:
        """Where that owner's jobs keep their environments; made if it isn't there."""
        safe = hashlib.sha256(owner.encode(errors="surrogatepass")).hexdigest()[:32]
        _close(_make(self.root / "owners" / safe, 0o711))
        path = self.root / "owners" / safe / "env"
        handle = _make(path, 0o700)
        try:
            os.fchown(handle, self._uid, self._gid)
        finally:
            _close(handle)
        return path


class JobFolder:
    """One job's folder, held open. `close` frees its descriptors; it deletes nothing."""

    def __init__(self, job_id: str, path: Path, handle: int, uid: int, gid: int) -> None:
        self.job_id = job_id
        self.path = path
        self.handle = handle  #: descriptor of the folder
        self._uid = uid
        self._gid = gid
        self._lock: int | None = None

    def close(self) -> None:
        """Frees the descriptors; may be called twice."""
        if self._lock is not None:
            _close(self._lock)
            self._lock = None
        if self.handle >= 0:
            _close(self.handle)
            self.handle = -1

    def create_package(self) -> BinaryIO:
        """A new file for the package, in place of an old one."""
        self._remove(names.PACKAGE)
        return os.fdopen(os.open(names.PACKAGE, _CREATE, 0o644, dir_fd=self.handle), "wb")

    def write_secrets(self, values: Mapping[str, str]) -> None:
        """Writes `secrets.json`, if there are any."""
        if values:
            self._write(names.SECRETS, dict(values))

    def write_orders(self, orders: dict[str, Any]) -> None:
        """Writes `job.json`; with it the folder is complete."""
        self._write(names.ORDERS, orders)

    def syncing(self) -> Callable[[], None]:
        """What puts the complete folder on disk: blocking, for a thread, to be called once."""
        handles = [os.dup(self.handle)]
        try:
            for name in (names.PACKAGE, names.SECRETS, names.ORDERS):
                try:
                    handles.append(os.open(name, READ, dir_fd=self.handle))
                except FileNotFoundError:
                    continue  # no secrets, or the runner was quicker and took them
        except BaseException:
            _close_all(handles)
            raise

        def sync() -> None:
            try:
                for handle in reversed(handles):  # the folder last
                    os.fsync(handle)
            finally:
                _close_all(handles)

        return sync

    def _write(self, name: str, content: dict[str, Any]) -> None:
        """Whole or not at all, and for the job's user only."""
        temporary = name + ".new"
        self._remove(temporary)
        with os.fdopen(os.open(temporary, _CREATE, 0o600, dir_fd=self.handle), "wb") as file:
            file.write(json.dumps(content).encode())
            file.flush()
            os.fchmod(file.fileno(), 0o600)
            os.fchown(file.fileno(), self._uid, self._gid)
        os.replace(temporary, name, src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def read_attempt(self) -> int | None:
        """The attempt that `job.json` is for; None when the folder isn't complete."""
        attempt = self._read_orders().get("attempt")
        return attempt if type(attempt) is int and attempt >= 1 else None

    def is_of(self, owner: str, attempt: int) -> bool:
        """Whether `job.json` is there, and for that attempt of a job of that owner."""
        orders = self._read_orders()
        return orders.get("owner") == owner and orders.get("attempt") == attempt

    def read_journal_start(self) -> int:
        """The offset at which `job.json` has the journal begin."""
        offset = self._read_orders().get("journal_start")
        return offset if type(offset) is int and offset >= 0 else 0

    def _read_orders(self) -> dict[str, Any]:
        """Empty when there are none to be read."""
        try:
            handle = os.open(names.ORDERS, READ, dir_fd=self.handle)
        except OSError:
            return {}
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return {}
            data = file.read(MAX_ORDERS_BYTES)
        try:
            orders = json.loads(data)
        except (ValueError, RecursionError):
            return {}
        return orders if isinstance(orders, dict) else {}

    def pin_lock(self) -> bool:
        """Opens the lock file if there is one, and keeps it: whoever replaces it later gains
        nothing. False when its place is taken by something that is no file."""
        if self._lock is not None:
            return True
        try:
            handle = os.open(names.LOCK, READ, dir_fd=self.handle)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            _close(handle)
            return False
        self._lock = handle
        return True

    def lock_free(self) -> bool:
        """No process of the job is left, or none has begun. What is no file counts as held."""
        if not self.pin_lock():
            return False
        if self._lock is None:
            return True
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return True

    def socket_path(self) -> str:
        """Where to bind the socket: short, and not by way of links that the job could make."""
        return f"/proc/self/fd/{self.handle}/{names.SOCKET}"

    def remove_socket(self) -> None:
        """Makes place for a new socket."""
        self._remove(names.SOCKET)

    def own_socket(self) -> None:
        """Lets the job's user connect."""
        os.chown(names.SOCKET, self._uid, self._gid, dir_fd=self.handle, follow_symlinks=False)

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.handle)
        except FileNotFoundError:
            pass
        except IsADirectoryError as error:
            raise InternalError(
                f"{self.path / name} is a folder that the agent didn't make",
                job_id=self.job_id,
                hint="release the job; its folder is then deleted as a whole",
            ) from error


def _make(path: Path, mode: int) -> int:
    """Makes the folder if need be and opens it; the caller closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        pass
    return os.open(path, _DIRECTORY)


def _close_all(handles: list[int]) -> None:
    for handle in handles:
        os.close(handle)


def _close(handle: int) -> None:
    os.close(handle)
