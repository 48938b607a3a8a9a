"""Uploaded code packages, by the SHA-256 of their bytes.

A package is one file `<root>/<sha256>.zip`; an upload is a file in `<root>/uploads/` per owner and
hash until its commit, and can be continued after a restart. A package is there only for the owners
that brought it (`package_owners`).
"""

import os
import re
import time
from collections.abc import Callable, Set
from functools import partial
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import DeferredLock, DeferredSemaphore
from twisted.logger import Logger

from cumulus_wire.link import MAX_BODY_BYTES
from cumulusd.errors import Conflict, InvalidArgument, NotFound, TooLarge, TooMany
from cumulusd.jobs import package_file
from cumulusd.jobs.incoming import Incoming
from cumulusd.jobs.package_owners import PackageOwners, name_for
from cumulusd.jobs.ports import RunInThread
from cumulusd.jobs.segments import read_of, write_at
from cumulusd.jobs.small_packages import SmallPackages
from cumulusd.jobs.store import StoreFailed
from cumulusd.jobs.upload_hashes import UploadHashes

#: Uploads that may be unfinished at once, over all owners.
MAX_UPLOADS = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Threads that uploads without a known hash may take of the daemon's few.
_RECEIVING_THREADS = 3
#: Packages that are being brought whole, in memory: larger sums have to be uploaded.
MAX_BROUGHT_BYTES = 16 << 20
#: How the files of such uploads begin; they can't be continued.
_RECEIVED = "received-"

_T = TypeVar("_T")


class Packages:
    """The daemon's packages on disk. `check`, `put` and `commit` follow `cumulus.package.*`."""

    _log = Logger()

    def __init__(
        self,
        root: Path,
        *,
        run_in_thread: RunInThread,
        max_package_bytes: int,
        max_unfinished_bytes: int | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`max_unfinished_bytes` bounds all uploads before their commit together; by default eight
        of the largest packages. `wall_clock` gives unix seconds. Makes `root`; blocking.
        """
        self._root = root
        self._uploads = root / "uploads"
        self._checking = root / "checking"
        self._run_in_thread = run_in_thread
        self._wall_clock = wall_clock
        self._max_package_bytes = max_package_bytes
        self._max_unfinished_bytes = (
            8 * max_package_bytes if max_unfinished_bytes is None else max_unfinished_bytes
        )
        self._commit_lock = DeferredLock()
        self._commits = 0
        self._hashes = UploadHashes(run_in_thread)
        self._receiving = DeferredSemaphore(_RECEIVING_THREADS)
        self._received = 0
        self._brought = self._brought_bytes = 0
        self._small = SmallPackages()
        for folder in (root, self._uploads, self._checking):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._owners = PackageOwners(root / "owners")
        for path in self._checking.iterdir():
            path.unlink()  # a commit that a crash interrupted; its client begins again
        for path in self._uploads.glob(f"{_RECEIVED}*"):
            path.unlink()

    def check(self, owner: str, sha256: str, size_bytes: int) -> tuple[bool, int]:
        """(this owner has brought the package, how much of it is here: all or nothing). Raises
        InvalidArgument, TooLarge. A package that was asked for is kept for a while, see `prune`.
        """
        self._validate(sha256, size_bytes)
        present = self._present(owner, sha256, size_bytes)
        return present, size_bytes if present else 0

    def uploaded(self, owner: str, sha256: str) -> int:
        """The offset from which this owner's unfinished upload goes on. Raises InvalidArgument."""
        self._validate(sha256, 0)
        return package_file.size_bytes(self._upload_path(owner, sha256)) or 0

    async def put(self, owner: str, sha256: str, offset: int, data: bytes) -> int:
        """Appends to this owner's upload; gives how much of the package is held now.

        Raises Conflict with `details["offset"]`, from where to go on, when `offset` is another;
        TooLarge; TooMany when too much is unfinished; StoreFailed when the disk refuses.
        """
        self._validate(sha256, offset + len(data))
        whole = package_file.size_bytes(self._package_path(sha256))
        if whole is not None and self._owners.has(owner, sha256):
            return whole
        path = self._upload_path(owner, sha256)
        held = package_file.size_bytes(path) or 0
        if offset != held:
            raise _continue_at(held, f"{held} bytes of it are held, not {offset}")
        self._check_room(path, len(data))
        if held == 0:
            self._hashes.forget(path)  # of one that was deleted
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                write_at(fd, data, held)
                os.utime(fd, (self._wall_clock(), self._wall_clock()))
            finally:
                os.close(fd)
        except OSError as error:
            raise self._disk_error("stored", error) from error
        held += len(data)
        self._hashes.grown(path, held)
        return held

    async def commit(self, owner: str, sha256: str, size_bytes: int) -> None:
        """Fires when the package is whole, checked and durable; again is no error.

        Raises Conflict with `details["offset"]` when bytes are missing; InvalidArgument when the
        hash or size is another (the upload then begins afresh); StoreFailed.
        """
        self._validate(sha256, size_bytes)
        async with self._commit_lock:
            if self._present(owner, sha256, size_bytes):
                return
            path = self._upload_path(owner, sha256)
            held = package_file.size_bytes(path) or 0
            if held < size_bytes:
                raise _continue_at(held, f"{held} of its {size_bytes} bytes are held")
            progress = await self._hashes.take(path)
            # Out of the way of everybody else, also when this call is cancelled and the thread
            # goes on: hence a name of its own.
            self._commits += 1
            aside = self._checking / f"{path.name}-{self._commits}"
            try:
                os.replace(path, aside)
                found = await self._run_in_thread(
                    lambda: package_file.store(
                        aside, self._package_path(sha256), sha256, size_bytes, progress
                    )
                )
                if found is None:
                    now = self._wall_clock()
                    os.utime(self._package_path(sha256), (now, now))
                    self._owners.add(owner, sha256)
            except OSError as error:
                raise self._disk_error("stored", error) from error
        if found is not None:
            raise _invalid(
                "sha256",
                f"The uploaded package has {held} bytes and the SHA-256 {found}; "
                f"{size_bytes} bytes with {sha256} were announced",
            )

    async def bring(self, owner: str, sha256: str, data: bytes) -> bool:
        """A whole package at once: fires when it is checked and durable. False when there is no
        room for it now: it can be uploaded.

        Raises InvalidArgument when the hash is another; TooLarge; StoreFailed.
        """
        self._validate(sha256, len(data))
        if self._brought_bytes + len(data) > MAX_BROUGHT_BYTES:
            return False
        self._brought += 1
        aside, target = self._checking / f"brought-{self._brought}", self._package_path(sha256)
        self._brought_bytes += len(data)
        try:
            found = await self._in_receiving_thread(
                lambda: package_file.store_whole(aside, target, sha256, data)
            )
            if found is None:
                os.utime(target, (self._wall_clock(), self._wall_clock()))
                self._owners.add(owner, sha256)
                self._small.put(sha256, data)
        except OSError as error:
            raise self._disk_error("stored", error) from error
        finally:
            self._brought_bytes -= len(data)
        if found is not None:
            raise _invalid(
                "package.sha256", f"The package has the SHA-256 {found}; {sha256} was announced"
            )
        return True

    def receive(self, owner: str, check_disk: Callable[[], None] = lambda: None) -> Incoming:
        """A new upload of a package whose hash is not known yet. Raises TooMany, StoreFailed.

        `check_disk` raises CumulusError when nothing more may be written; it is asked each time.
        """

        def check_room(path: Path, size_bytes: int, more_bytes: int) -> None:
            check_disk()
            self._check_size(size_bytes + more_bytes)
            self._check_room(path, more_bytes)

        self._received += 1
        path = self._uploads / f"{_RECEIVED}{self._received}"
        self._check_room(path, 0)
        try:
            return Incoming(
                path,
                in_thread=self._in_receiving_thread,
                check_room=check_room,
                adopt=partial(self._adopt, owner),
                disk_error=lambda error: self._disk_error("stored", error),
            )
        except OSError as error:
            raise self._disk_error("stored", error) from error

    async def look(self, owner: str, sha256: str, look: Callable[[Path], _T]) -> _T:
        """What `look`, which may block, makes of that package's file. Raises NotFound, also when
        this owner hasn't brought it, StoreFailed and what it raises."""
        self._validate(sha256, 0)
        if not self._owners.has(owner, sha256):
            raise _not_here(sha256)
        path = self._package_path(sha256)
        try:
            return await self._run_in_thread(lambda: look(path))
        except FileNotFoundError as error:
            raise _not_here(sha256) from error
        except OSError as error:
            raise self._disk_error("read", error) from error

    async def read(self, sha256: str, offset: int, length: int) -> tuple[bytes, int]:
        """(at most `length` bytes from `offset`, the package's size). At most 1 MiB a call.

        Raises NotFound, InvalidArgument, StoreFailed.
        """
        self._validate(sha256, 0)
        path = self._package_path(sha256)
        total = package_file.size_bytes(path)
        if total is None:
            raise _not_here(sha256)
        if not 0 <= offset <= total or length < 0:
            raise _invalid("offset", f"Offset {offset} is outside the package's {total} bytes")
        size = min(length, MAX_BODY_BYTES, total - offset)
        whole = self._small.get(sha256)
        if whole is not None and len(whole) == total:
            return whole[offset : offset + size], total
        try:
            data = await self._run_in_thread(lambda: read_of(path, offset, size))
        except OSError as error:
            raise self._disk_error("read", error) from error
        if len(data) == total:
            self._small.put(sha256, data)
        return data, total

    async def prune(self, in_use: Set[str], now: float, max_age_s: float) -> int:
        """Deletes packages that are not `in_use` (hashes) and uploads, both when nobody has asked
        for them for `max_age_s`; gives the bytes freed. Raises StoreFailed.
        """
        freed = 0
        try:
            for path in self._root.glob("*.zip"):
                if path.stem not in in_use:
                    freed += self._prune_file(path, now - max_age_s)
            self._owners.keep_only({path.stem for path in self._root.glob("*.zip")})
            for path in self._uploads.iterdir():
                freed += self._prune_file(path, now - max_age_s)
        except OSError as error:
            raise self._disk_error("deleted", error) from error
        return freed

    @property
    def total_bytes(self) -> int:
        """Bytes on disk, unfinished uploads too. Looks at the disk."""
        files = [*self._root.glob("*.zip"), *self._uploads.iterdir(), *self._checking.iterdir()]
        return sum(package_file.size_bytes(path) or 0 for path in files)

    def _prune_file(self, path: Path, before: float) -> int:
        stat = path.stat()
        if stat.st_mtime >= before:
            return 0
        path.unlink()
        self._hashes.forget(path)
        self._small.forget(path.stem)
        self._log.info("package {name} pruned", name=path.name, size_bytes=stat.st_size)
        return stat.st_size

    def _package_path(self, sha256: str) -> Path:
        return self._root / f"{sha256}.zip"

    def _upload_path(self, owner: str, sha256: str) -> Path:
        return self._uploads / name_for(owner, sha256)

    def _validate(self, sha256: str, size_bytes: int) -> None:
        if not _SHA256.fullmatch(sha256):
            raise _invalid("sha256", "sha256 must be 64 lower-case hexadecimal digits")
        if size_bytes < 0:
            raise _invalid("size_bytes", "Sizes and offsets can't be negative")
        self._check_size(size_bytes)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_package_bytes:
            raise TooLarge(
                f"The package has {size_bytes} bytes; the daemon takes up to "
                f"{self._max_package_bytes}",
                details={"size_bytes": size_bytes, "max_bytes": self._max_package_bytes},
                hint="Leave data out of the package, or raise the daemon's limit.",
            )

    def _present(self, owner: str, sha256: str, size_bytes: int) -> bool:
        path = self._package_path(sha256)
        held = package_file.size_bytes(path)
        if held is None or not self._owners.has(owner, sha256):
            return False
        if held != size_bytes:
            raise _invalid("size_bytes", f"The package {sha256} has {held} bytes, not {size_bytes}")
        try:
            # It was asked for: the submit that follows must still find it.
            os.utime(path, (self._wall_clock(), self._wall_clock()))
        except OSError as error:
            raise self._disk_error("used", error) from error
        return True

    async def _in_receiving_thread(self, work: Callable[[], _T]) -> _T:
        await self._receiving.acquire()
        try:
            return await self._run_in_thread(work)
        finally:
            self._receiving.release()

    async def _adopt(self, owner: str, path: Path, sha256: str, size_bytes: int) -> None:
        """Makes a received file, which is durable under its own name, the package."""
        async with self._commit_lock:
            try:
                if not self._present(owner, sha256, size_bytes):
                    await self._run_in_thread(
                        lambda: package_file.move(path, self._package_path(sha256))
                    )
                now = self._wall_clock()
                os.utime(self._package_path(sha256), (now, now))
                self._owners.add(owner, sha256)
            except OSError as error:
                raise self._disk_error("stored", error) from error

    def _check_room(self, path: Path, more_bytes: int) -> None:
        sizes = {each.name: package_file.size_bytes(each) or 0 for each in self._uploads.iterdir()}
        unfinished = sum(sizes.values())
        over_bytes = unfinished + more_bytes > self._max_unfinished_bytes
        if over_bytes or (path.name not in sizes and len(sizes) >= MAX_UPLOADS):
            raise TooMany(
                f"{len(sizes)} uploads with {unfinished} bytes are unfinished, and no more are "
                f"taken (at most {MAX_UPLOADS} with {self._max_unfinished_bytes} bytes)",
                details={
                    "uploads": len(sizes),
                    "unfinished_bytes": unfinished,
                    "max_uploads": MAX_UPLOADS,
                    "max_unfinished_bytes": self._max_unfinished_bytes,
                },
                hint="Try again later.",
            )

    def _disk_error(self, verb: str, error: OSError) -> StoreFailed:
        return StoreFailed(
            f"The package can't be {verb}: {error}",
            details={"path": str(self._root)},
            hint=f"Check the free space and the health of the disk that holds {self._root}.",
        )


def _continue_at(offset: int, why: str) -> Conflict:
    return Conflict(
        f"The package is not uploaded so far: {why}",
        details={"offset": offset},
        hint=f"Go on at offset {offset}.",
    )


def _not_here(sha256: str) -> NotFound:
    return NotFound(
        f"The package {sha256} is not here", details={"sha256": sha256}, hint="Upload it again."
    )


def _invalid(key: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, details={"faults": [{"key": key, "message": message}]})
