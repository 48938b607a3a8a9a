"""A job's journal as it lies on the worker: segments, read by offset, deleted when acknowledged."""

import os
import stat

from cumulus_wire import folder as names
from cumulus_wire.journal import HEADER, MAGIC, MAX_PAYLOAD_BYTES
from cumulusd.agent.job_folder import READ

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_ENTRIES = 100_000


class JournalBroken(Exception):
    """The folder holds no journal that can be read; the message says why."""


class Journal:
    """Follows the segments in `journal/` of the folder open as `handle`. Never waits.

    Only regular files that continue one another without a gap count.
    """

    def __init__(self, handle: int, begins_at: int = 0) -> None:
        """`begins_at`: its first offset, where the attempts before this one ended."""
        self._folder = handle
        self._begins_at = begins_at
        self._segments: list[tuple[int, int]] = []  #: (offset, size), in order
        self._handle: int | None = None

    @property
    def start(self) -> int:
        """Offset of the first byte that is here."""
        return self._segments[0][0] if self._segments else self._begins_at

    @property
    def end(self) -> int:
        """Offset after the last byte that was here at the last `refresh`."""
        return sum(self._segments[-1]) if self._segments else self._begins_at

    def close(self) -> None:
        """Frees the descriptor."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def refresh(self, taken: int = 0) -> bool:
        """Looks for what was appended; whether there is more. Raises JournalBroken.

        `taken`: the offset up to which it was read. Behind that it may have become shorter: a
        writer whose disk is full takes back what it got written of a frame.
        """
        before = self.end
        if not self._open():
            return False
        if not self._segments:
            first = self._first()
            if first is None:
                return False
            self._segments.append((first, self._size(first) or 0))
        else:
            last = self._segments[-1][0]
            size = self._size(last)
            if size is None or last + size < min(taken, self.end):
                raise JournalBroken(f"segment {names.segment_name(last)} shrank or is gone")
            self._segments[-1] = (last, size)
        while (end := self.end) != self._segments[-1][0]:
            size = self._size(end)
            if size is None:
                break
            # The writer has gone on to this one, so the one before is complete: what it got
            # since it was looked at is in its final size.
            last = self._segments[-1][0]
            if self._size(last) != self._segments[-1][1]:
                raise JournalBroken(f"segment {names.segment_name(last)} grew over the next one")
            self._segments.append((end, size))
        return self.end > before

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on, of one segment; empty when none are there."""
        for begin, length in self._segments:
            if begin <= offset < begin + length:
                handle = self._segment(begin)
                try:
                    return os.pread(handle, min(size, begin + length - offset), offset - begin)
                finally:
                    os.close(handle)
        return b""

    def delete_below(self, offset: int) -> None:
        """Deletes the segments that end at or before `offset`; never the last one."""
        while len(self._segments) > 1 and sum(self._segments[0]) <= offset:
            begin, _ = self._segments[0]
            try:
                os.unlink(names.segment_name(begin), dir_fd=self._handle)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise JournalBroken(
                    f"segment {names.segment_name(begin)} can't be deleted: {error}"
                ) from error
            del self._segments[0]

    def whole_frame_at(self, offset: int) -> bool:
        """Whether a frame that is all here begins at `offset`: false for a torn tail."""
        header = self.read(offset, HEADER.size)
        if len(header) < HEADER.size:
            return False
        magic, _, flags, length, _, _ = HEADER.unpack(header)
        if magic != MAGIC or flags != 0 or length > MAX_PAYLOAD_BYTES:
            return False
        return any(
            begin <= offset and offset + HEADER.size + length <= begin + size
            for begin, size in self._segments
        )

    def _open(self) -> bool:
        if self._handle is None:
            try:
                self._handle = os.open(names.JOURNAL, _DIRECTORY, dir_fd=self._folder)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise JournalBroken(f"journal/ is no folder: {error}") from error
        return True

    def _first(self) -> int | None:
        assert self._handle is not None
        with os.scandir(self._handle) as entries:
            found = [
                offset
                for entry, _ in zip(entries, range(MAX_ENTRIES), strict=False)
                if (offset := names.segment_offset(entry.name)) is not None
            ]
        return min(found, default=None)

    def _size(self, offset: int) -> int | None:
        name = names.segment_name(offset)
        try:
            found = os.stat(name, dir_fd=self._handle, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise JournalBroken(f"segment {name} is no regular file")
        return found.st_size

    def _segment(self, offset: int) -> int:
        name = names.segment_name(offset)
        try:
            handle = os.open(name, READ, dir_fd=self._handle)
        except OSError as error:
            raise JournalBroken(f"segment {name} can't be opened: {error}") from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise JournalBroken(f"segment {name} is no regular file")
        return handle
