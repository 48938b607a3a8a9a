"""A small JSON file of the daemon's own: replaced whole, durable before a change counts.

Everything here blocks: call it at the start, from a command, or in a thread.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cumulusd.errors import InternalError, Unavailable

MAX_BYTES = 16 << 20
LOCK_TIMEOUT_S = 5.0
_LOCK_PAUSE_S = 0.02


class StateFile:
    """One mapping in the file at `path`, of format `version`. `what` names it in errors."""

    def __init__(self, path: Path, *, version: int, what: str, oldest: int | None = None) -> None:
        """`oldest`: the first format that is read, too, as it is (default: none but `version`)."""
        self.path = path
        self._version = version
        self._oldest = version if oldest is None else oldest
        self._what = what

    def load(self) -> dict[str, Any]:
        """What was last saved; empty when nothing was. Raises InternalError."""
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._error(f"can't be read: {error}", "check its permissions") from error
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"it is over {MAX_BYTES} bytes")
            value = json.loads(data)
            if not isinstance(value, dict) or "version" not in value:
                raise ValueError("it is no object with a version")
            found = value.pop("version")
        except (ValueError, RecursionError) as error:
            raise self._error(
                f"is damaged: {error!r}", "put a backup in its place, or move it away"
            ) from error
        if type(found) is not int or not self._oldest <= found <= self._version:
            raise self._error(
                f"has format {found!r}, this cumulusd knows format {self._version}",
                "run the version of cumulusd that wrote it",
            )
        return value

    def save(self, value: Mapping[str, Any]) -> None:
        """Returns when `value` would survive a power cut. Raises InternalError."""
        temporary = self.path.with_name(self.path.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                _give_to_folders_owner(file.fileno(), self.path.parent)
                file.write(json.dumps({"version": self._version, **value}, indent=1).encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._error(
                f"can't be written: {error}", "check free space and rights"
            ) from error

    @contextmanager
    def locked(self, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Keeps other processes from changing it meanwhile. Raises Unavailable when they don't
        let go within `timeout_s`."""
        lock = self.path.with_name(self.path.name + ".lock")
        with ExitStack() as held:
            try:
                held.enter_context(locked(lock, f"{self._what} {self.path}", timeout_s))
            except OSError as error:
                raise self._error(
                    f"can't be locked: {error}", "check free space and rights"
                ) from error
            yield

    def _error(self, what: str, hint: str) -> InternalError:
        return InternalError(
            f"{self._what} {self.path} {what}", details={"path": str(self.path)}, hint=hint
        )


@contextmanager
def locked(path: Path, what: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Holds the lock file at `path` meanwhile. Raises Unavailable when others don't let go of
    `what` within `timeout_s`; OSError."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _give_to_folders_owner(lock, path.parent)
        ends_s = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= ends_s:
                    raise Unavailable(
                        f"{what} is being changed by another process",
                        hint="try again in a moment",
                    ) from None
            time.sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(lock)


def _give_to_folders_owner(handle: int, folder: Path) -> None:
    """An operator's command run as root must not shut the daemon's user out."""
    if os.geteuid() == 0:
        owner = os.stat(folder)
        os.fchown(handle, owner.st_uid, owner.st_gid)
