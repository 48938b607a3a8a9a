"""Reads what jobs leave to be downloaded. Their folders are hostile.

The folder and all in it may be changed by the job at any moment: no link is followed, no pipe or
device is opened, and no more is read than was asked for.
"""

import errno
import os
import stat

from cumulus_wire.folder import OUTPUTS
from cumulus_wire.outputs import name_fault
from cumulusd.agent.job_folder import READ
from cumulusd.agent.kept_folder import KeptFolders
from cumulusd.agent.live_jobs import LiveJobs
from cumulusd.agent.threads import Threads
from cumulusd.errors import CumulusError, NotFound, Unavailable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The file, or a folder on the way to it, isn't there or is something else.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO)


class OutputFiles:
    """The outputs of the jobs that are here."""

    def __init__(self, jobs: LiveJobs, kept: KeptFolders, threads: Threads) -> None:
        """`kept` stays open until `threads` have ended."""
        self._jobs = jobs
        self._kept = kept
        self._threads = threads

    async def read(
        self, job_id: str, attempt: int, name: str, offset: int, length: int
    ) -> tuple[bytes, int]:
        """As `read_output`, of an attempt that has its folder here."""
        live = self._jobs.get(job_id)
        if live is None or not live.is_of(attempt):
            raise NotFound(f"attempt {attempt} of job {job_id} isn't on this worker any more")
        read: list[tuple[bytes, int]] = []
        refused: list[CumulusError] = []

        def work() -> None:
            try:
                read.append(self._read(job_id, name, offset, length))
            except CumulusError as error:
                refused.append(error)

        await self._threads.run(work, "reading an output")
        if refused:
            raise refused[0]
        if not read:
            raise Unavailable(f"output {name} can't be read; the agent's log says why")
        return read[0]

    def _read(self, job_id: str, name: str, offset: int, length: int) -> tuple[bytes, int]:
        try:
            folder = self._kept.open(job_id, OUTPUTS)
        except OSError as error:
            raise NotFound(f"the output folder can't be opened: {error.strerror}") from error
        try:
            return read_output(folder, name, offset, length)
        finally:
            os.close(folder)


def read_output(folder: int, name: str, offset: int, length: int) -> tuple[bytes, int]:
    """(at most `length` bytes from `offset` on, the file's size), of output `name` in `folder`.

    `folder`: descriptor of the job's output folder. Blocking. Raises NotFound when that is no
    regular file there, Unavailable when it can't be read now.
    """
    why = name_fault(name)
    if why is not None:
        raise NotFound(f"{name[:100]!r} is no output: {why}")
    *above, last = name.split("/")
    handle = os.dup(folder)
    try:
        for part in above:
            inner = os.open(part, _DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle = inner
        # Opening a device could have an effect of its own, so it is looked at before.
        if not stat.S_ISREG(os.stat(last, dir_fd=handle, follow_symlinks=False).st_mode):
            raise NotFound(f"output {name} is no regular file any more")
        file = os.open(last, READ, dir_fd=handle)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise NotFound(f"output {name} is no regular file any more")
            return os.pread(file, length, offset), found.st_size
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in _GONE:
            raise NotFound(f"output {name} can't be opened any more: {error.strerror}") from error
        raise Unavailable(f"output {name} can't be read: {error.strerror}") from error
    finally:
        os.close(handle)
