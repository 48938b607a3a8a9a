"""The Engine's log frames: whole, in pieces, marked where they break off."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulusd.swarm.log_frames import (
    MAX_FRAME_BYTES,
    BadFrame,
    Frame,
    FrameParser,
    Stream,
    text_of,
)

FRAMES = st.lists(st.tuples(st.sampled_from(list(Stream)), st.binary(max_size=50)), max_size=10)


def encoded(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", kind, len(data)) + data


@given(FRAMES, st.integers(1, 20))
def test_however_it_comes_the_frames_are_the_same(
    frames: list[tuple[Stream, bytes]], size: int
) -> None:
    whole = b"".join(encoded(kind, data) for kind, data in frames)
    parser = FrameParser()
    found: list[Frame] = []
    for start in range(0, len(whole), size):
        found.extend(parser.feed(whole[start : start + size]))
    assert found == [Frame(kind, data) for kind, data in frames]
    assert parser.pending_bytes == 0


@pytest.mark.parametrize(
    "data",
    [
        b'{"message":"no"}',
        encoded(4, b""),
        b"\x01\x00\x01\x00\x00\x00\x00\x00",
        struct.pack(">BxxxI", 1, MAX_FRAME_BYTES + 1),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    parser = FrameParser()
    for _ in range(2):
        with pytest.raises(BadFrame):
            list(parser.feed(data))
        data = b""


def test_the_engines_own_words_are_marked_and_come_last() -> None:
    data = encoded(3, b"node is down\n") + encoded(1, b"out\n") + encoded(2, b"err\xff\n")
    assert text_of(data, at_most_bytes=100) == "out\nerr\ufffd\n[engine: node is down]"


def test_only_the_end_is_kept() -> None:
    data = b"".join(encoded(1, b"%d\n" % number) for number in range(100))
    assert text_of(data, at_most_bytes=6) == "98\n99"


def test_a_log_that_breaks_off_says_so() -> None:
    whole = encoded(1, b"first\n") + encoded(1, b"second\n")
    assert text_of(whole[:-3], at_most_bytes=100) == "first\n[the log breaks off here]"
    assert "no log frame" in text_of(encoded(1, b"first\n") + b"nonsense", at_most_bytes=100)
    assert text_of(b"", at_most_bytes=100) == ""
