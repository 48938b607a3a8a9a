"""A pipe's bytes as whole frames, in a buffer that is used again."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from cumulus_runner.pipe_reader import HEADERS_BYTES, READ_BYTES, RECORD_BYTES, PipeReader
from cumulus_wire.journal import HEADER, FrameParser, Kind


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test has closed it


def said(frames: memoryview) -> bytes:
    parser = FrameParser()
    records = parser.feed(bytes(frames))
    assert not parser.pending_bytes
    assert {record.kind for record in records} <= {Kind.STDERR}
    assert all(0 < len(record.payload) <= RECORD_BYTES for record in records)
    return b"".join(record.payload for record in records)


@pytest.mark.parametrize(
    "size", [1, 100, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, READ_BYTES, READ_BYTES + 7]
)
def test_all_sizes(pipe: tuple[int, int], size: int) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    reader, data = PipeReader(), os.urandom(size)
    for _ in range(2):
        assert os.write(pipe[1], data) == size
        read = b""
        while len(read) < size:
            frames, payloads = reader.read(pipe[0], READ_BYTES, Kind.STDERR)
            assert len(frames) <= READ_BYTES + HEADERS_BYTES
            part = said(frames)
            assert b"".join(map(bytes, payloads)) == part
            read += part
        assert read == data


@pytest.mark.parametrize("limit", [1, 1000, RECORD_BYTES, RECORD_BYTES + 1])
def test_no_more_than_the_limit_is_taken(pipe: tuple[int, int], limit: int) -> None:
    data = os.urandom(60_000)
    os.write(pipe[1], data)
    frames, _ = PipeReader().read(pipe[0], limit, Kind.STDERR)
    assert said(frames) == data[:limit]
    count = len(FrameParser().feed(bytes(frames)))
    assert len(frames) == min(limit, len(data)) + count * HEADER.size


def test_a_closed_pipe_gives_nothing(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    frames, payloads = PipeReader().read(pipe[0], READ_BYTES, Kind.STDERR)
    assert (len(frames), payloads) == (0, [])
