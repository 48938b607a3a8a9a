"""One journal's segment files: whole frames each, a gap where the size cap dropped some.

Names as in `cumulus_wire.folder`. Everything here blocks; nothing waits. Rules that recovery
rests on:

* a segment begins at a frame boundary, and only the last one is appended to;
* a new segment is begun only when all but the last one are on disk, so a machine that loses power
  can have torn only the last two;
* the cap never drops either of these two, nor the last two that are on disk whatever happens to
  those, nor the head, so a hole before the last segment is damage and any other hole is a gap.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import attrs

from cumulus_wire.folder import segment_name, segment_offset
from cumulus_wire.journal import HEADER, MAGIC, FrameParser, JournalCorrupt, Kind

_SCAN_BYTES = 256 << 10
#: What is written to try a disk: less could fit where nothing else does.
_PROBE_BYTES = 64 << 10


@attrs.define
class Segment:
    """A file that holds the journal from `start` to `end`."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start


@attrs.frozen(kw_only=True)
class Scan:
    """What a segment's file really holds."""

    end: int  #: journal offset behind its last whole frame
    last_kind: Kind | None  #: of its last whole frame


def path_of(folder: Path, start: int) -> Path:
    """The file of the segment that begins at `start`."""
    return folder / segment_name(start)


def list_segments(folder: Path) -> list[Segment]:
    """The segments as their files claim them, in order."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            start = segment_offset(entry.name)
            if start is not None:
                found.append(Segment(start, start + entry.stat().st_size))
    return sorted(found, key=lambda segment: segment.start)


def size_bytes(folder: Path) -> int:
    """Of all of them; 0 without the folder. Raises OSError."""
    try:
        return sum(segment.size_bytes for segment in list_segments(folder))
    except FileNotFoundError:
        return 0


def try_disk(path: Path) -> None:
    """Writes a file there, fsyncs and removes it. Raises OSError when the disk takes no write."""
    try:
        with open(path, "wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def scan(folder: Path, start: int) -> Scan:
    """Reads a segment up to its first byte that belongs to no whole frame."""
    parser = FrameParser(start)
    last: Kind | None = None
    with open(path_of(folder, start), "rb") as file:
        while data := file.read(_SCAN_BYTES):
            try:
                records = parser.feed(data)
            except JournalCorrupt as error:
                # What was whole before it in this piece is told by a second look at it.
                last = _last_kind_before(folder, start, error.offset) or last
                return Scan(end=error.offset, last_kind=last)
            if records:
                last = records[-1].kind
    return Scan(end=parser.offset, last_kind=last)


def _last_kind_before(folder: Path, start: int, end: int) -> Kind | None:
    parser, last = FrameParser(start), None
    with open(path_of(folder, start), "rb") as file:
        for data in _pieces(file.fileno(), end - start):
            records = parser.feed(data)
            if records:
                last = records[-1].kind
    return last


def _pieces(fd: int, size: int) -> Iterator[bytes]:
    while size > 0 and (data := os.read(fd, min(size, _SCAN_BYTES))):
        size -= len(data)
        yield data


def recover(folder: Path) -> tuple[list[Segment], Kind | None]:
    """The segments cut back to what is whole, and the kind of the journal's last record.

    Finishes what a crash interrupted: the move of a partial frame into a new segment, torn tails.
    """
    segments = list_segments(folder)
    for segment, after in pairwise(segments):
        if segment.end > after.start:
            _cut(folder, segment, after.start)
    if not segments:
        return [], None
    last_kind: Kind | None = None
    if len(segments) > 1:
        found = scan(folder, segments[-2].start)
        last_kind = found.last_kind
        if found.end != segments[-1].start:
            os.unlink(path_of(folder, segments.pop().start))
            _cut(folder, segments[-1], found.end)
            return segments, last_kind
    found = scan(folder, segments[-1].start)
    _cut(folder, segments[-1], found.end)
    return segments, found.last_kind or last_kind


def _cut(folder: Path, segment: Segment, end: int) -> None:
    if segment.end != end:
        os.truncate(path_of(folder, segment.start), end - segment.start)
        segment.end = end


def droppable(segments: list[Segment], cap_bytes: int) -> list[Segment]:
    """Which segments must go to come under the cap: from the middle, the oldest first.

    Kept in any case are the head (the first segment, and what follows it without a gap within a
    quarter of the cap) and the last two.
    """
    total = sum(segment.size_bytes for segment in segments)
    if total <= cap_bytes or len(segments) < 4:
        return []
    head = 1
    while (
        head < len(segments)
        and segments[head].start == segments[head - 1].end
        and segments[head].end - segments[0].start <= cap_bytes // 4
    ):
        head += 1
    dropped = []
    for segment in segments[head:-2]:
        if total <= cap_bytes:
            break
        dropped.append(segment)
        total -= segment.size_bytes
    return dropped


def keep_tail(folder: Path, floor: int, results: bool) -> int | None:
    """Writes the segment that a journal is to begin with when its output is pruned: from its
    RESULT records on (those from `floor` on, at its end), or from its last record on.

    Gives its offset; None when there is nothing before it. The older segments stay, the one it is
    taken from overlaps it, which `recover` knows. Durable when it returns.
    """
    begin = _tail_begin(folder, floor, results)
    found = list_segments(folder)
    if begin is None or not found or begin <= found[0].start:
        return None
    source = next(each for each in reversed(found) if each.start <= begin)
    _begin_anew(folder, source, begin)
    sync_files(folder, [])
    return begin


def _begin_anew(folder: Path, source: Segment, begin: int) -> None:
    """Writes what `source` holds from `begin` on as a segment of its own, which overlaps it."""
    if source.start == begin:
        return
    aside = path_of(folder, begin).with_name(segment_name(begin) + ".new")
    try:
        with (
            open(path_of(folder, source.start), "rb") as old,
            open(aside, "wb", opener=_private) as new,
        ):
            old.seek(begin - source.start)
            for data in _pieces(old.fileno(), source.end - begin):
                new.write(data)
            new.flush()
            os.fsync(new.fileno())
        os.replace(aside, path_of(folder, begin))
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def fit(folder: Path, cap_bytes: int, floor: int) -> tuple[int, int] | None:
    """Prepares a journal to which nothing is appended any more, and whose segments are too large
    for the cap to drop them whole, for keeping to it: writes the segments that its tail is to
    begin with, durable when it returns.

    Gives the range to drop then. The head stays, a quarter of the cap at most, and the tail, in two
    segments that join, as `recover` needs; the RESULT records from `floor` on stay in any case.
    None when there is nothing to drop.
    """
    found = _joined(list_segments(folder))
    if sum(each.size_bytes for each in found) <= cap_bytes:
        return None
    first, last = found[0], found[-1]
    head_end = _boundary(folder, first, first.start + cap_bytes // 4, after=False)
    wanted = last.end - (cap_bytes - (head_end - first.start))
    source = next(each for each in found if each.end > wanted)
    begin = max(source.start, _boundary(folder, source, wanted, after=True))
    kept_end = _tail_begin(folder, floor, True)
    begin = begin if kept_end is None else min(begin, kept_end)
    source = next((each for each in found if each.start <= begin < each.end), last)
    if begin <= head_end or begin < source.start:
        return None
    if source is last:
        middle = _boundary(folder, last, (begin + last.end) // 2, after=True)
        if not begin < middle < last.end:
            return None
        _begin_anew(folder, last, middle)
        source = Segment(last.start, middle)
    _begin_anew(folder, source, begin)
    sync_files(folder, [])
    return head_end, begin


def _joined(found: list[Segment]) -> list[Segment]:
    """Without the overlaps that an interrupted move left, as `recover` would cut them."""
    ends = [after.start for after in found[1:]]
    return [
        Segment(each.start, min(each.end, end))
        for each, end in zip(found, [*ends, found[-1].end] if found else [], strict=True)
    ]


def _boundary(folder: Path, segment: Segment, offset: int, *, after: bool) -> int:
    """The frame boundary of a segment next to `offset`: the last one up to it, or the first one
    from it on."""
    data = path_of(folder, segment.start).read_bytes()[: segment.size_bytes]
    position = 0
    while len(data) - position >= HEADER.size:
        end = position + HEADER.size + HEADER.unpack_from(data, position)[3]
        at = segment.start + (position if after else end)
        if end > len(data) or (at >= offset if after else at > offset):
            break
        position = end
    return segment.start + position


def _tail_begin(folder: Path, floor: int, results: bool) -> int | None:
    """Looks at headers only, from the last segment back, as far as there are RESULT records."""
    last = first_result = None
    for number, segment in enumerate(reversed(list_segments(folder))):
        result, end = _marks(path_of(folder, segment.start).read_bytes(), segment.start, floor)
        last = end if last is None else last
        if result is not None:
            first_result = result
        # The last records may stand alone in their segment.
        if not results or (result is None and number > 0):
            break
    return last if first_result is None or not results else first_result


def _marks(data: bytes, start: int, floor: int) -> tuple[int | None, int | None]:
    """(offset of the first RESULT record from `floor` on, offset of the last record)."""
    position, result, last = 0, None, None
    while len(data) - position >= HEADER.size:
        magic, kind, _, length, _, _ = HEADER.unpack_from(data, position)
        after = position + HEADER.size + length
        if magic != MAGIC or after > len(data):
            break
        last = start + position
        if result is None and kind == Kind.RESULT and last >= floor:
            result = last
        position = after
    return result, last


def sync_files(folder: Path, starts: list[int], names: bool = True) -> None:
    """fsyncs these segments, and with `names`, where there are new ones, their folder and the one
    above it, where the folder's name stands.

    What is gone was dropped or deleted meanwhile, which is no error.
    """
    folders = (folder, folder.parent) if names else ()
    for path in (*(path_of(folder, start) for start in starts), *folders):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def rewrite(folder: Path, start: int, size_bytes: int) -> int:
    """Writes the whole frames in a segment's first `size_bytes` anew, and fsyncs the new file.

    That is for an fsync that failed: the kernel may have dropped what it could not write, and tells
    so only once. What it still shows is taken as far as checksums prove it; gives the bytes kept.
    Leaves the segment as it is on OSError. The folder is to be fsynced then.
    """
    path = path_of(folder, start)
    aside = path.with_name(path.name + ".new")
    parser = FrameParser(start)
    try:
        with open(path, "rb") as source, open(aside, "wb", opener=_private) as target:
            for data in _pieces(source.fileno(), size_bytes):
                target.write(data)
                try:
                    parser.feed(data)
                except JournalCorrupt:
                    break
            kept = parser.offset - start
            target.truncate(kept)
            target.flush()
            os.fsync(target.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return kept


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def read_of(path: Path, offset: int, size: int) -> bytes:
    """At most that range of a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def write_at(fd: int, data: bytes | bytearray, position: int) -> None:
    """Writes all of `data`, or raises OSError and leaves the file `position` bytes long."""
    view, at = memoryview(data), position
    try:
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written
    except OSError:
        os.ftruncate(fd, position)
        raise


class OpenFiles:
    """Descriptors for appending: one per journal, the least recently used are closed."""

    def __init__(self, max_files: int) -> None:
        self._max_files = max_files
        self._open: OrderedDict[Path, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, folder: Path, start: int) -> int:
        """A descriptor of the segment at `start`, made when it isn't there. Raises OSError."""
        held = self._open.get(folder)
        if held is not None:
            if held[0] == start:
                self._open.move_to_end(folder)
                return held[1]
            self.close(folder)
        fd = os.open(path_of(folder, start), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._open[folder] = (start, fd)
        if len(self._open) > self._max_files:
            _, (_, oldest) = self._open.popitem(last=False)
            os.close(oldest)
        return fd

    def close(self, folder: Path) -> None:
        """Closes the journal's descriptor, if it has one."""
        held = self._open.pop(folder, None)
        if held is not None:
            os.close(held[1])
