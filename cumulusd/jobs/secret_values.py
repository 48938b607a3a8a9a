"""The values of jobs' secrets: one file a job, which only the daemon's user can read, until the job
has ended. Records have the names; the values are kept nowhere else.
"""

import json
import os
from collections.abc import Mapping, Set
from pathlib import Path

from twisted.logger import Logger

from cumulusd.errors import InternalError, Unavailable
from cumulusd.jobs.ports import RunInThread
from cumulusd.jobs.store import StoreFailed
from cumulusd.tasks import Tasks

_SUFFIX = ".json"
_NEW = ".new"
MAX_BYTES = 4 << 20
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class SecretValues:
    """`<root>/<job id>.json`. Job ids are safe as names of files."""

    _log = Logger()

    def __init__(self, root: Path, run_in_thread: RunInThread) -> None:
        """`root` is made when it is needed first."""
        self._root = root
        self._run_in_thread = run_in_thread
        self._tasks = Tasks()

    def discard_others(self, job_ids: Set[str]) -> None:
        """Deletes what is there of any other job: it ended while its secrets could not be deleted,
        or was never accepted. Blocking: for the start."""
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return
        except OSError as error:
            self._log.error("the secrets in {path} can't be listed: {error}", **self._told(error))
            return
        for name in names:
            if not name.endswith(_SUFFIX) or name.removesuffix(_SUFFIX) not in job_ids:
                self._delete(self._root / name)

    async def save(self, job_id: str, values: Mapping[str, str]) -> None:
        """Fires when they are on disk. Raises StoreFailed; nothing is there then."""
        text = json.dumps(dict(values))  # now: the caller's may change
        await self._run_in_thread(lambda: self._save(self._path(job_id), text))

    async def load(self, job_id: str) -> dict[str, str]:
        """Raises InternalError when they are lost, Unavailable when a later try may succeed."""
        return await self._run_in_thread(lambda: self._load(job_id))

    def discard(self, job_id: str) -> None:
        """Deletes them, in the background."""
        self._tasks.start(self._discard(job_id), "deleting a job's secrets", job_id=job_id)

    async def stop(self) -> None:
        """Ends what is under way; the next start deletes what is left."""
        await self._tasks.stop()

    # -- inside

    def _path(self, job_id: str) -> Path:
        return self._root / f"{job_id}{_SUFFIX}"

    def _save(self, path: Path, text: str) -> None:
        new = path.with_name(path.name + _NEW)
        try:
            self._root.mkdir(mode=0o700, exist_ok=True)
            try:
                with os.fdopen(os.open(new, _WRITE, 0o600), "w", encoding="ascii") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(path)
                self._sync()
            except BaseException:
                new.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StoreFailed(
                f"The job's secrets can't be written: {error.strerror}",
                details={"path": str(self._root)},
                hint="make room on the disk of state_dir, and submit again",
            ) from error

    def _load(self, job_id: str) -> dict[str, str]:
        path = self._path(job_id)
        try:
            with path.open("rb") as file:
                values = json.loads(file.read(MAX_BYTES))
            if isinstance(values, dict):
                return {str(name): str(text) for name, text in values.items()}
            why = "it holds no secrets"
        except FileNotFoundError as error:
            why = str(error.strerror)
        except OSError as error:
            raise Unavailable(
                f"The secrets of job {job_id} can't be read now: {error.strerror}", job_id=job_id
            ) from error
        except ValueError:
            why = "it holds no secrets"  # no more of it: an error might quote it
        raise InternalError(
            f"The secrets of job {job_id} can't be read from {path}: {why}",
            job_id=job_id,
            hint="submit the job again with its secrets",
        )

    async def _discard(self, job_id: str) -> None:
        await self._run_in_thread(lambda: self._delete(self._path(job_id)))

    def _delete(self, path: Path) -> None:
        try:
            path.unlink()
            self._sync()
        except FileNotFoundError:
            return
        except OSError as error:
            self._log.error(
                "{path} can't be deleted, which is tried again at the next start: {error}",
                **self._told(error, path),
            )

    def _sync(self) -> None:
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _told(self, error: OSError, path: Path | None = None) -> dict[str, str]:
        return {"path": str(path or self._root), "error": str(error.strerror)}
