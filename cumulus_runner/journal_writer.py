"""Appends the job's records to segment files, within a bound on what lies on disk."""

from __future__ import annotations

import errno
import os

from cumulus_wire import folder
from cumulus_wire.journal import HEADER, MAX_PAYLOAD_BYTES, FrameParser, JournalCorrupt, Kind

#: Disk kept back: for the output that is held up and the last records.
SET_ASIDE_BYTES = 512 << 10
#: Less than that beyond a frame is as good as full: a write that gets half of it in and has to take
#: that back could be read meanwhile.
SPARE_BYTES = 64 << 10
_FULL = (errno.ENOSPC, errno.EDQUOT)


class JournalWriter:
    """The journal's only writer.

    An empty folder begins at `start_offset`; else it goes on after the last whole frame, and cuts
    what a crash left torn behind it. The agent deletes segments that it no longer needs, never the
    newest.
    What may not wait (STATUS, ERROR, EXIT, the rest of the pipes) may pass the bound, by 2 MiB.
    """

    def __init__(
        self, path: str, max_bytes: int, segment_bytes: int, start_offset: int = 0
    ) -> None:
        """`path`: the folder of segments, made when missing. `max_bytes`: of all segments."""
        self._path = path
        self.max_bytes = max_bytes
        # Room comes by whole segments other than the newest, so several must fit the bound.
        self._segment_bytes = max(1, min(segment_bytes, max_bytes // 4))
        self._fd: int | None = None
        self._segment = ""
        self._sizes: dict[str, int] = {}
        self._set_aside: str | None = None
        self.end_offset = start_offset
        self.exited = False
        os.makedirs(path, exist_ok=True)
        self._used_bytes = self._rescan()
        if self._sizes:
            self._resume(max(self._sizes))

    def room_bytes(self, wanted_bytes: int) -> int:
        """How many bytes may be appended now; looks at the disk again where it's under `wanted`."""
        if self.max_bytes - self._used_bytes < wanted_bytes:
            self._used_bytes = self._rescan()
        return self.max_bytes - self._used_bytes

    def set_aside(self, path: str) -> None:
        """Keeps some of the disk in a file there, for `urgent` frames once the disk is full."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, SET_ASIDE_BYTES)
        except OSError:
            return  # the disk is full already, or its file system has no such call
        finally:
            os.close(fd)
        self._set_aside = path

    def append(self, frames: bytes | memoryview, urgent: bool = False) -> bool:
        """Appends whole frames with one write; the caller minds `room_bytes`.

        False when the disk is full: then nothing was written. Raises OSError.
        """
        if self._append(frames):
            return True
        if not urgent or self._set_aside is None:
            return False
        try:
            os.unlink(self._set_aside)
        except FileNotFoundError:
            return False  # the job's code took it
        finally:
            self._set_aside = None
        return self._append(frames)

    def _append(self, frames: bytes | memoryview) -> bool:
        try:
            fd, before = self._open_segment(len(frames))
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        disk = os.fstatvfs(fd)
        if disk.f_bavail * disk.f_frsize < len(frames) + SPARE_BYTES:
            return False
        written = 0
        try:
            while written < len(frames):
                written += os.write(fd, frames[written:] if written else frames)
        except OSError as error:
            # Never leave half a frame in front of the next one.
            os.ftruncate(fd, before)
            if error.errno in _FULL:
                return False
            raise
        self._sizes[self._segment] = before + len(frames)
        self._used_bytes += len(frames)
        self.end_offset += len(frames)
        return True

    def sync(self) -> None:
        """Has the newest segment on disk."""
        if self._fd is not None:
            os.fsync(self._fd)

    def close(self) -> None:
        """Frees the open segment."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open_segment(self, incoming_bytes: int) -> tuple[int, int]:
        """The segment for that many bytes: its descriptor and its size."""
        if self._fd is not None:
            size = self._sizes[self._segment]
            if size == 0 or size + incoming_bytes <= self._segment_bytes:
                return self._fd, size
        name = folder.segment_name(self.end_offset)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(os.path.join(self._path, name), flags, 0o644)
        self.close()
        self._fd, self._segment = fd, name
        self._sizes[name] = os.fstat(fd).st_size
        return fd, self._sizes[name]

    def _rescan(self) -> int:
        """Counts the segments' bytes on disk."""
        sizes: dict[str, int] = {}
        with os.scandir(self._path) as entries:
            for entry in entries:
                if folder.segment_offset(entry.name) is None:
                    continue
                try:
                    sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue  # the agent deleted it just now
        if self._fd is not None:
            sizes[self._segment] = os.fstat(self._fd).st_size
        self._sizes = sizes
        return sum(sizes.values())

    def _resume(self, name: str) -> None:
        """Finds the end of the last whole frame, and whether it is an EXIT."""
        begin = folder.segment_offset(name)
        assert begin is not None  # `_rescan` keeps no other names
        fd = os.open(os.path.join(self._path, name), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            end, last = _last_frame(fd, begin)
            os.ftruncate(fd, end - begin)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._segment = fd, name
        self._used_bytes += end - begin - self._sizes[name]
        self._sizes[name] = end - begin
        self.end_offset = end
        self.exited = last is Kind.EXIT


def _last_frame(fd: int, begin: int) -> tuple[int, Kind | None]:
    """Where the whole frames of a segment end, and the last one's kind. What follows is torn."""
    end, last = begin, None
    with open(fd, "rb", closefd=False) as file:
        while len(head := file.read(HEADER.size)) == HEADER.size:
            length = HEADER.unpack(head)[3]
            if length > MAX_PAYLOAD_BYTES:
                break
            try:
                records = FrameParser(end).feed(head + file.read(length))
            except JournalCorrupt:
                break
            if not records:
                break
            end, last = records[0].next_offset, records[0].kind
    return end, last
