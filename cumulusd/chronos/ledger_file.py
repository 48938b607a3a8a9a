"""The ledger on disk: one file, replaced whole, durable before the change counts."""

import errno
import os
from pathlib import Path

from cumulusd.chronos.ledger import Ledger, dump, load
from cumulusd.errors import InternalError

#: A ledger of a worker full of one-unit shares is a tenth of this.
MAX_BYTES = 64 << 20
#: Room set aside for a ledger, which is rarely a tenth of it.
SPARE_BYTES = 256 << 10


class LedgerFile:
    """Loads and saves the ledger at `path`. One process only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spare = path.with_name(path.name + ".spare")

    def load(self) -> Ledger:
        """The ledger last saved, an empty one when there is none. Raises LedgerUnreadable."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return Ledger()
        except OSError as error:
            raise InternalError(
                f"the partition ledger {self._path} can't be read: {error}",
                hint="check the permissions of the agent's folder",
            ) from error
        if len(data) > MAX_BYTES:
            raise InternalError(
                f"the partition ledger {self._path} is larger than {MAX_BYTES} bytes",
                hint="it is no ledger; look at who wrote it",
            )
        return load(data)

    def save(self, ledger: Ledger) -> None:
        """Returns when the ledger would survive a power cut. Raises InternalError.

        On a full disk some room that was set aside is used: what frees the disk is the release of
        jobs, and that has to be written here first.
        """
        try:
            try:
                self._save(ledger)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._spare.exists():
                    raise
                self._spare.unlink()
                self._save(ledger)
        except OSError as error:
            raise InternalError(
                f"the partition ledger {self._path} can't be written: {error}",
                hint="check free space and permissions of the agent's folder",
            ) from error
        self._set_aside()

    def _set_aside(self) -> None:
        if self._spare.exists():
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            handle = os.open(self._spare, flags, 0o600)
        except OSError:
            return  # the next save tries again
        try:
            os.posix_fallocate(handle, 0, SPARE_BYTES)
        except OSError:
            self._spare.unlink()  # a file without its room would promise what it can't hold
        finally:
            os.close(handle)

    def _save(self, ledger: Ledger) -> None:
        temporary = self._path.with_name(self._path.name + ".new")
        # A leftover of a crash is replaced, never followed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(dump(ledger))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
