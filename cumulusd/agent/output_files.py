"""Reads what jobs leave to be downloaded. Their folders are hostile. Blocking: for a thread.

The folder and all in it may be changed by the job at any moment: no link is followed, no pipe or
device is opened, and no more is read than was asked for.
"""

import errno
import os
import stat

from cumulus_wire.outputs import name_fault
from cumulusd.agent.job_folder import READ
from cumulusd.errors import NotFound, Unavailable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The file, or a folder on the way to it, isn't there or is something else.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO)


def read_output(folder: int, name: str, offset: int, length: int) -> tuple[bytes, int]:
    """(at most `length` bytes from `offset` on, the file's size), of output `name` in `folder`.

    `folder`: descriptor of the job's output folder. Raises NotFound when that is no regular file
    there, Unavailable when it can't be read now.
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
