"""An upload whose hash nobody has told: hashed while it is written, then a package by that hash."""

import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred

from cumulusd.errors import CumulusError, InvalidArgument
from cumulusd.jobs.segments import write_at
from cumulusd.tasks import waiting_for

_T = TypeVar("_T")


class Incoming:
    """Made by `Packages.receive`. One call at a time; `commit` or `discard` ends it."""

    def __init__(
        self,
        path: Path,
        *,
        in_thread: Callable[[Callable[[], None]], Awaitable[None]],
        check_room: Callable[[Path, int, int], None],
        adopt: Callable[[Path, str, int], Awaitable[None]],
        disk_error: Callable[[OSError], CumulusError],
    ) -> None:
        """`check_room(path, size, more bytes)` raises CumulusError; `adopt(path, sha256, size)`
        makes the file the package. Makes the file; raises OSError."""
        self._path = path
        self._in_thread = in_thread
        self._check_room = check_room
        self._adopt = adopt
        self._disk_error = disk_error
        self._digest = hashlib.sha256()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._busy = False
        self._over = False
        self.size_bytes = 0

    async def write(self, data: bytes | bytearray) -> None:
        """Appends; fires when it is with the system. Raises TooLarge, TooMany, StoreFailed; then
        nothing is left of it."""
        size = self.size_bytes

        def append() -> None:
            write_at(self._fd, data, size)
            self._digest.update(data)

        try:
            self._check_room(self._path, size, len(data))
            self.size_bytes += len(data)
            await self._work(append)
        except BaseException:
            self.discard()
            raise

    async def commit(self) -> tuple[str, int]:
        """(SHA-256, size) of the package that it is now, which is durable.

        Raises InvalidArgument when it is empty, StoreFailed; then nothing is left of it.
        """
        try:
            if not self.size_bytes:
                message = "The package is empty"
                faults = [{"key": "code", "message": "is empty"}]
                raise InvalidArgument(message, details={"faults": faults})
            await self._work(lambda: os.fsync(self._fd))
            sha256 = self._digest.hexdigest()
            await self._adopt(self._path, sha256, self.size_bytes)
        finally:
            self.discard()
        return sha256, self.size_bytes

    def discard(self) -> None:
        """Leaves nothing of it, unless it was committed. More than once is no error."""
        if self._over:
            return
        self._over = True
        self._path.unlink(missing_ok=True)
        if not self._busy:
            os.close(self._fd)

    async def _work(self, work: Callable[[], None]) -> None:
        """Runs it off the reactor; cancelling gives up the waiting only, as a thread goes on."""
        if self._over:
            raise RuntimeError("this upload is over")
        self._busy = True
        await waiting_for(Deferred.fromCoroutine(self._carry_out(work)))

    async def _carry_out(self, work: Callable[[], None]) -> None:
        try:
            await self._in_thread(work)
        except OSError as error:
            raise self._disk_error(error) from error
        finally:
            self._busy = False
            if self._over:
                os.close(self._fd)  # it was discarded meanwhile
