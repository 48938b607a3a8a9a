"""The daemon's copies of what jobs left to be downloaded.

One folder a job, `<root>/<job id>/`, in it one file an output, named after the hash of the output's
name (which is the job's own choice); while one comes it has `.part` at its end. What is there
without `.part` is whole and durable.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import Logger

from cumulus_wire.outputs import MAX_FILES, name_fault
from cumulusd.errors import NotFound
from cumulusd.jobs.carried_text import carried
from cumulusd.jobs.model import OutputInfo
from cumulusd.jobs.ports import RunInThread
from cumulusd.jobs.segments import read_of
from cumulusd.jobs.store import StoreFailed

_PART = ".part"
_READ_BYTES = 1 << 20
_TOO_LARGE = 1 << 62


@attrs.frozen(kw_only=True)
class ListedOutput:
    """An output as the runner tells of it."""

    name: str
    size_bytes: int
    sha256: str | None  #: None: it had no time for that

    def stored(self, sha256: str) -> OutputInfo:
        """The same, once it is here."""
        return OutputInfo(name=self.name, size_bytes=self.size_bytes, sha256=sha256)


def listed_outputs(exit_record: Mapping[str, Any]) -> tuple[tuple[ListedOutput, ...], str | None]:
    """(the outputs that an EXIT record lists, its note). Raises ValueError when it isn't as
    docs/protocol.md says."""
    value, note = exit_record.get("outputs") or (), exit_record.get("outputs_note")
    if not isinstance(value, list | tuple) or len(value) > MAX_FILES:
        raise ValueError("malformed EXIT record: outputs")
    listed = []
    for entry in value:
        if not isinstance(entry, dict):
            raise ValueError(f"malformed EXIT record: output {entry!r}"[:200])
        name, size, sha256 = entry.get("name"), entry.get("size_bytes"), entry.get("sha256")
        if not isinstance(name, str) or name_fault(name) is not None:
            raise ValueError(f"malformed EXIT record: the name of output {name!r}")
        if (
            type(size) is not int
            or not 0 <= size < _TOO_LARGE
            or not isinstance(sha256, str | None)
        ):
            raise ValueError(f"malformed EXIT record: output {name!r}")
        listed.append(ListedOutput(name=name, size_bytes=size, sha256=sha256))
    if len({one.name for one in listed}) != len(listed):
        raise ValueError("malformed EXIT record: an output is listed twice")
    return tuple(listed), None if note is None else carried(str(note))


class IncomingOutput:
    """One output on its way in. Blocking: each call in a thread, one after the other; `close` from
    anywhere, which waits for the one that is at work.

    `open` takes up what an earlier daemon had of it. Errors are OSError.
    """

    def __init__(self, folder: Path, listed: ListedOutput) -> None:
        self._target = folder / _file_name(listed.name)
        self._part = self._target.with_name(self._target.name + _PART)
        self._listed = listed
        self._digest = hashlib.sha256()
        self._fd = -1
        self._at_work = threading.Lock()
        self._closed = False
        self.held_bytes = 0
        self.resumed = False  #: some of it is of before
        self.whole_sha256: str | None = None  #: it is here already

    def open(self) -> None:
        """Finds what there is and hashes it."""
        with self._at_work:
            if not self._closed:
                self._open()

    def _open(self) -> None:
        self._target.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            # It may be an earlier attempt's: only a hash tells whether it is this one's.
            is_large_enough = self._target.stat().st_size == self._listed.size_bytes
            known = self._listed.sha256
            if is_large_enough and known is not None and _hash(self._target) == known:
                self.whole_sha256 = known
                return
            self._target.unlink()
        except FileNotFoundError:
            pass
        self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        held = os.fstat(self._fd).st_size
        if held > self._listed.size_bytes or self._listed.sha256 is None:
            held = 0  # no fsync has covered it: without a hash nobody could tell that it is whole
        while self.held_bytes < held:
            data = os.pread(self._fd, min(_READ_BYTES, held - self.held_bytes), self.held_bytes)
            self._digest.update(data)
            self.held_bytes += len(data)
        self.resumed = held > 0
        os.ftruncate(self._fd, held)

    def write(self, data: bytes) -> None:
        """The next bytes; all of them, or OSError and none that count."""
        with self._at_work:
            view, offset = memoryview(data), self.held_bytes
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
            self._digest.update(data)
            self.held_bytes = offset

    def finish(self) -> str | None:
        """Makes it whole and durable; its SHA-256. None: its hash isn't the listed one, and
        nothing of it is kept."""
        with self._at_work:
            found = self._digest.hexdigest()
            if self._listed.sha256 not in (None, found):
                os.ftruncate(self._fd, 0)
                self._digest = hashlib.sha256()
                self.held_bytes, self.resumed = 0, False
                return None
            os.fsync(self._fd)
            os.replace(self._part, self._target)
            return found

    def discard(self) -> None:
        """Deletes what is held, and closes it."""
        self.close()
        self._part.unlink(missing_ok=True)

    def close(self) -> None:
        """Frees the descriptor; what is held stays. May be called twice."""
        with self._at_work:
            self._closed = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


class Outputs:
    """All stored outputs, and what of the disk they take."""

    _log = Logger()

    def __init__(self, root: Path, *, run_in_thread: RunInThread) -> None:
        """Makes `root` and looks at what is there; blocking."""
        self._root = root
        self._run_in_thread = run_in_thread
        #: job id -> bytes: on disk, or promised to outputs on their way in
        self._sizes: dict[str, int] = {}
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in root.iterdir():
            self._sizes[folder.name] = _size_bytes(folder)

    @property
    def total_bytes(self) -> int:
        """Of all jobs together."""
        return sum(self._sizes.values())

    def known(self) -> list[str]:
        """The jobs of which there are outputs."""
        return list(self._sizes)

    def size_bytes(self, job_id: str) -> int:
        """Of that job's outputs, on disk or promised."""
        return self._sizes.get(job_id, 0)

    def promise(self, job_id: str, size_bytes: int) -> None:
        """So many bytes of that job are to come in all."""
        self._sizes[job_id] = max(size_bytes, self.size_bytes(job_id))

    def incoming(self, job_id: str, listed: ListedOutput) -> IncomingOutput:
        """One that is to come; nothing is done yet."""
        return IncomingOutput(self._root / job_id, listed)

    async def settle(self, job_id: str) -> None:
        """Nothing more of that job comes: what is not whole is deleted, the rest durable under its
        name. Raises StoreFailed."""
        try:
            size = await self._run_in_thread(lambda: _settle(self._root / job_id))
        except OSError as error:
            raise self._disk_error(f"stored for job {job_id}", error) from error
        self._sizes[job_id] = size or 0
        if size is None:
            await self.delete(job_id)

    async def read(self, job_id: str, info: OutputInfo, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on. Raises NotFound when it isn't kept any more,
        StoreFailed."""
        path = self._root / job_id / _file_name(info.name)
        try:
            return await self._run_in_thread(lambda: read_of(path, offset, length))
        except FileNotFoundError:
            raise _not_kept(job_id, info.name) from None
        except OSError as error:
            raise self._disk_error(f"read for job {job_id}", error) from error

    def pieces(self, job_id: str, info: OutputInfo, offset: int, size: int) -> Iterator[bytes]:
        """The same from `offset` to the end in pieces of `size` bytes, each read when it is asked
        for. Raises NotFound at once, later StoreFailed, also when it is shorter than it was."""
        path = self._root / job_id / _file_name(info.name)
        if not path.exists():
            raise _not_kept(job_id, info.name)

        def read() -> Iterator[bytes]:
            left_bytes = info.size_bytes - offset
            try:
                with open(path, "rb") as file:
                    file.seek(offset)
                    while left_bytes > 0:
                        data = file.read(min(size, left_bytes))
                        if not data:
                            raise OSError(f"it ends {left_bytes} bytes too early")
                        left_bytes -= len(data)
                        yield data
            except OSError as error:
                raise self._disk_error(f"read for job {job_id}", error) from error

        return read()

    def holds(self, job_id: str) -> bool:
        """Whether outputs of that job are kept."""
        return job_id in self._sizes

    async def delete(self, job_id: str) -> int:
        """Deletes that job's; the bytes freed. Raises StoreFailed."""
        if job_id not in self._sizes:
            return 0
        try:
            await self._run_in_thread(lambda: _delete(self._root / job_id))
        except OSError as error:
            raise self._disk_error(f"deleted of job {job_id}", error) from error
        return self._sizes.pop(job_id, 0)

    def age_s(self, job_id: str, now: float) -> float:
        """Since when the folder of that job was last changed, at unix time `now`."""
        try:
            return max(0.0, now - (self._root / job_id).stat().st_mtime)
        except OSError:
            return 0.0

    def _disk_error(self, what: str, error: OSError) -> StoreFailed:
        return StoreFailed(
            f"Outputs can't be {what}: {error}",
            details={"path": str(self._root)},
            hint=f"Check the free space and the health of the disk that holds {self._root}.",
        )


def _not_kept(job_id: str, name: str) -> NotFound:
    return NotFound(
        f"Output {name} of job {job_id} is not kept any more: outputs of ended jobs were over the "
        "daemon's bound (jobs.outputs_history_max_bytes)",
        job_id=job_id,
        hint="submit the job again, and download its outputs sooner",
    )


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size_bytes(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _settle(folder: Path) -> int | None:
    """Deletes the parts, has the folder and its names on disk; the bytes in it. None: it has no
    files."""
    if not folder.is_dir():
        return None
    for part in folder.glob(f"*{_PART}"):
        part.unlink()
    for path in (folder, folder.parent):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return _size_bytes(folder) if any(folder.iterdir()) else None


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
