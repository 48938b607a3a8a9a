"""The attempts' grants on a worker: files that a job may read and must not be able to change.

`grants/<job id>/` stands beside the jobs' folders, is the agent's own, and goes with the attempt::

    answer.json   what `prepare` answered of the grant, so that it answers the same again
    grant/        bound read-only into the container
    usage/        bound writable: a folder that the job can't change, with files that it can write
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cumulus_wire.grant import PROVEN
from cumulusd.chronos.grant import Grant

ANSWER = "answer.json"
_FILES, _USAGE = "grant", "usage"
MAX_ANSWER_BYTES = 1 << 20
MAX_FOLDERS = 100_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class GrantFolders:
    """`grants/` under the agent's folder; owns its descriptor. Job ids handed in are valid."""

    def __init__(self, root: Path, trash: int) -> None:
        """`trash`: the open folder into which discarded ones go. Raises OSError."""
        self._trash = trash
        self._path = root / "grants"
        self._path.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._handle = os.open(self._path, _DIRECTORY)

    def close(self) -> None:
        """Frees the descriptor."""
        os.close(self._handle)

    def place(self, job_id: str) -> str:
        """Where that job's grant is, as mounts name it."""
        return str(self._path / job_id)

    def present(self) -> list[str]:
        """Ids of the jobs that have one."""
        return sorted(os.listdir(self._handle)[:MAX_FOLDERS])

    def write(
        self, job_id: str, grant: Grant, answer: dict[str, Any], proven: Sequence[str] | None = None
    ) -> None:
        """Makes the folder anew. `proven`: with what the OpenCL layer was proven here; None: each
        job is to prove it. Raises OSError; `discard` it then.

        Nothing is synced: when the machine goes down, so does the attempt."""
        self.discard(job_id)
        _make(self._handle, job_id, 0o711)
        folder = os.open(job_id, _DIRECTORY, dir_fd=self._handle)
        try:
            for name in (_FILES, _USAGE):
                _make(folder, name, 0o755)
            for name, text in grant.files.items():
                _write(folder, f"{_FILES}/{name}", text, 0o644)
            if proven is not None and grant.opencl:
                _write(folder, f"{_FILES}/{PROVEN}", _lines(proven), 0o644)
            for name, size_bytes in grant.usage.items():
                _allot(folder, f"{_USAGE}/{name}", size_bytes)
            for name in grant.usage_folders:
                _make(folder, f"{_USAGE}/{name}", 0o1777)
            _write(folder, ANSWER, json.dumps(answer), 0o600)
        finally:
            os.close(folder)

    def tell_proven(self, job_id: str, proven: Sequence[str]) -> None:
        """Says it anew, whole. Raises OSError."""
        # Not where the job sees it: a runner that looks just now would take it for its grant's.
        draft, place = f"{job_id}/{PROVEN}.new", f"{job_id}/{_FILES}/{PROVEN}"
        try:
            os.unlink(draft, dir_fd=self._handle)  # of a time that failed
        except FileNotFoundError:
            pass
        _write(self._handle, draft, _lines(proven), 0o644)
        os.rename(draft, place, src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def read(self, job_id: str) -> dict[str, Any] | None:
        """The answer that was written with it; None when there is none, or no whole one."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            handle = os.open(f"{job_id}/{ANSWER}", flags, dir_fd=self._handle)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as file:
            data = file.read(MAX_ANSWER_BYTES)
        try:
            answer = json.loads(data)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None

    def discard(self, job_id: str) -> None:
        """Takes it away at once; whoever empties the trash deletes it."""
        place = f"{job_id}~{os.urandom(6).hex()}"
        try:
            os.rename(job_id, place, src_dir_fd=self._handle, dst_dir_fd=self._trash)
        except FileNotFoundError:
            pass


def _lines(texts: Sequence[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _make(parent: int, name: str, mode: int) -> None:
    """Whatever the umask."""
    os.mkdir(name, 0o700, dir_fd=parent)
    os.chmod(name, mode, dir_fd=parent)


def _write(parent: int, name: str, text: str, mode: int) -> None:
    with os.fdopen(os.open(name, _CREATE, 0o600, dir_fd=parent), "wb") as file:
        file.write(text.encode())
        os.fchmod(file.fileno(), mode)


def _allot(parent: int, name: str, size_bytes: int) -> None:
    """A file of zeros that has its blocks: a mapping of it doesn't die of a full disk."""
    handle = os.open(name, _CREATE, 0o600, dir_fd=parent)
    try:
        os.posix_fallocate(handle, 0, size_bytes)
        os.fchmod(handle, 0o666)
    finally:
        os.close(handle)
