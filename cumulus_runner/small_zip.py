"""Small, plain zips, read without `zipfile`, whose import takes longer than most packages need.

Nothing here is refused: whatever isn't entirely usual is left to `zipfile`, and judged by that.
"""

from __future__ import annotations

import struct
import zlib

MAX_ARCHIVE_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 8 << 20
MAX_ENTRIES = 64
#: APPNOTE.TXT, 4.3.16, 4.3.12 and 4.3.7: the end, an entry in the directory, one before its data.
_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_VERSION = 20  #: what it takes to read such
_UTF8 = 0x800
#: Beside that: how hard it was deflated, and that the sizes stand behind the data too.
_USUAL_FLAGS = _UTF8 | 0x2 | 0x4 | 0x8


class Entry:
    """One entry, with what `zipfile.ZipInfo` says of it, and its content."""

    __slots__ = (
        "compress_type",
        "data",
        "external_attr",
        "file_size",
        "filename",
        "flag_bits",
        "orig_filename",
    )

    def __init__(self, name: str, external_attr: int, method: int, flags: int, data: bytes) -> None:
        self.filename = self.orig_filename = name
        self.external_attr = external_attr
        self.compress_type = method
        self.flag_bits = flags
        self.file_size = len(data)
        self.data = data

    def is_dir(self) -> bool:
        """Its name says so."""
        return self.filename.endswith("/")


def read(path: str) -> list[Entry] | None:
    """All entries of the zip there; None: `zipfile` is to read it. Raises OSError."""
    with open(path, "rb") as file:
        data = file.read(MAX_ARCHIVE_BYTES + 1)
    if len(data) > MAX_ARCHIVE_BYTES:
        return None
    try:
        return _entries(data)
    except (_Unusual, struct.error, zlib.error, UnicodeDecodeError):
        return None


class _Unusual(Exception):
    """It isn't plain."""


def _entries(data: bytes) -> list[Entry]:
    begin = len(data) - _END.size
    magic, disk, first_disk, count_here, count, size, at, comment = _END.unpack_from(
        data, max(0, begin)
    )
    _expect(magic == b"PK\5\6" and disk == first_disk == comment == 0 and count_here == count)
    _expect(count <= MAX_ENTRIES and at + size == begin)
    found, free_from, left = [], 0, MAX_UNPACKED_BYTES
    position = at
    for _ in range(count):
        fields = _CENTRAL.unpack_from(data, position)
        magic, _, needed, flags, method, _, _, crc, packed_size, unpacked_size = fields[:10]
        name_size, extra_size, comment_size, disk, _, external_attr, offset = fields[10:]
        position += _CENTRAL.size
        raw_name = data[position : position + name_size]
        position += name_size + extra_size + comment_size
        _expect(magic == b"PK\1\2" and disk == 0 and extra_size == comment_size == 0)
        _expect(
            needed <= _VERSION and flags & ~_USUAL_FLAGS == 0 and method in (_STORED, _DEFLATED)
        )
        # In their order, none over another.
        _expect(free_from <= offset and unpacked_size <= left)
        begin = _content_at(data, offset, flags, method, raw_name)
        free_from = begin + packed_size
        _expect(free_from <= at)
        content = _unpacked(data[begin:free_from], method, unpacked_size, crc)
        left -= unpacked_size
        name = raw_name.decode("utf-8" if flags & _UTF8 else "ascii")
        _expect("\0" not in name)
        found.append(Entry(name, external_attr, method, flags, content))
    _expect(position == at + size)
    return found


def _content_at(data: bytes, offset: int, flags: int, method: int, raw_name: bytes) -> int:
    """Where the content begins of the entry whose own header is there."""
    fields = _LOCAL.unpack_from(data, offset)
    name_at = offset + _LOCAL.size
    name_size, extra_size = fields[9:]
    _expect(fields[0] == b"PK\3\4" and fields[2:4] == (flags, method) and extra_size == 0)
    _expect(data[name_at : name_at + name_size] == raw_name)
    return int(name_at + name_size)


def _unpacked(packed: bytes, method: int, size: int, crc: int) -> bytes:
    content = packed
    if method == _DEFLATED:
        inflating = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflating.decompress(packed, size + 1)
        _expect(inflating.eof and not inflating.unused_data)
    _expect(len(content) == size and zlib.crc32(content) == crc)
    return content


def _expect(usual: bool) -> None:
    if not usual:
        raise _Unusual
