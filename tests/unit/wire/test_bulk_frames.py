"""The frames of `/agent` in their usual form: what is taken, and what is left to Autobahn."""

import os
import random
import tracemalloc
from collections.abc import Iterator

import pytest
from autobahn.websocket.xormasker import create_xor_masker

from cumulusd.bulk_frames import BulkFrames, header

MAX_BYTES = 100_000


def taken(frames: BulkFrames, pieces: Iterator[bytes]) -> tuple[list[bytes], bytes]:
    """All messages, and what was left to Autobahn at last; nothing more is fed then."""
    messages: list[bytes] = []
    for piece in pieces:
        found, rest = frames.feed(piece)
        messages += map(bytes, found)
        if rest:
            return messages, rest + b"".join(pieces)
    return messages, b""


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_messages_in_any_pieces(seed: int, masked: bool) -> None:
    rng = random.Random(seed)
    sizes = [
        rng.choice((0, 1, 125, 126, 127, 65535, 65536, rng.randrange(MAX_BYTES))) for _ in "x" * 9
    ]
    messages = [rng.randbytes(size) for size in sizes]
    stream = b"".join(header(len(each), masked=masked) + each for each in messages)

    def pieces() -> Iterator[bytes]:
        at = 0
        while at < len(stream):
            size = rng.choice((1, 2, 7, 1000, 65536))
            yield stream[at : at + size]
            at += size

    frames = BulkFrames(MAX_BYTES, masked=masked)
    assert taken(frames, pieces()) == (messages, b"")
    assert frames.take_back() == b""


def test_a_frame_that_has_begun_is_given_back_whole() -> None:
    frames = BulkFrames(MAX_BYTES, masked=True)
    begun = header(1000, masked=True) + b"some"
    assert frames.feed(begun[:3]) == ([], b"")
    assert frames.feed(begun[3:]) == ([], b"")
    assert frames.take_back() == begun
    assert frames.take_back() == b""


def test_a_frame_that_comes_octet_by_octet_is_few_objects() -> None:
    """Else an agent could make some dozen octets of each that it sends, and never end the frame."""
    frames = BulkFrames(MAX_BYTES, masked=True)
    payload = os.urandom(MAX_BYTES)
    begun = header(len(payload), masked=True)
    assert frames.feed(begun) == ([], b"")
    begin = payload[: MAX_BYTES // 2]
    tracemalloc.start()
    try:
        for octet in begin:
            assert frames.feed(bytes((octet,))) == ([], b"")
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 2 * len(begin)
    ((message,), rest) = frames.feed(payload[len(begin) :])
    assert (bytes(message), rest) == (payload, b"")


MASK = os.urandom(4).replace(b"\0", b"\1")
UNUSUAL = {
    "text": b"\x81\x80\0\0\0\0",
    "ping": b"\x89\x80\0\0\0\0",
    "close": b"\x88\x80\0\0\0\0",
    "not the last": b"\x02\x80\0\0\0\0",
    "continued": b"\x80\x80\0\0\0\0",
    "reserved bit": b"\xc2\x80\0\0\0\0",
    "no mask": b"\x82\x05hello",
    "a mask": b"\x82\x85" + MASK + create_xor_masker(MASK, 5).process(b"hello"),
    "not the shortest form, 2 octets": b"\x82\xfe\0\x05\0\0\0\0hello",
    "not the shortest form, 8 octets": b"\x82\xff" + (126).to_bytes(8, "big") + bytes(4 + 126),
    "too large": b"\x82\xff" + (MAX_BYTES + 1).to_bytes(8, "big") + bytes(4),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_what_is_left_to_autobahn(what: str) -> None:
    frames = BulkFrames(MAX_BYTES, masked=True)
    usual = header(3, masked=True) + b"abc"
    stream = usual + UNUSUAL[what] + usual
    found, rest = frames.feed(stream)
    assert list(map(bytes, found)) == [b"abc"]
    assert rest == stream[len(usual) :]
    assert frames.take_back() == b"", "nothing of it is held"


def test_a_servers_frame_must_not_be_masked() -> None:
    frames = BulkFrames(MAX_BYTES, masked=False)
    stream = header(3, masked=True) + b"abc"
    assert frames.feed(stream) == ([], stream)
